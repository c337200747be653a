//! What a scope is: a model with bounds, checked whole, and what a run of it reports.

use std::{
    fmt::{Debug, Display},
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind},
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::{
    search::{self, Hunt},
    watched::{Shared, Watched},
};

/// When a scope or a mutant runs.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// With every change: all scopes of it together take minutes.
    Ci,
    /// With every release: also runs what `Ci` runs.
    Deep,
}

impl Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Ci => "ci",
            Self::Deep => "deep",
        })
    }
}

impl FromStr for Tier {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "ci" => Ok(Self::Ci),
            "deep" => Ok(Self::Deep),
            _ => Err(format!("no tier is called {s:?}")),
        }
    }
}

/// Gives the canonical state of a state's orbit.
pub type Canonical<M> = fn(&<M as Model>::State) -> <M as Model>::State;

/// A Stateright model that the harness can run.
///
/// `actions` lists enabled actions only, in an order that depends on the state alone.
pub trait Checked:
    Model<
        State: Clone + PartialEq + Hash + Debug + Send + Sync + 'static,
        Action: Clone + PartialEq + Debug + Send + Sync + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
    /// The kinds of action, whose runs are counted.
    const KINDS: &'static [&'static str];

    /// The canonical state of each orbit, where the model is symmetric: the same for every renaming of a state.
    const CANONICAL: Option<Canonical<Self>> = None;

    /// The place of an action's kind in [`Checked::KINDS`].
    fn kind(action: &Self::Action) -> usize;

    /// A path, from an initial state on, as a Mermaid sequence diagram. Each state comes with the action that follows.
    fn diagram(&self, path: &[(Self::State, Option<Self::Action>)]) -> String {
        let mut lines = vec!["sequenceDiagram".to_owned(), "    participant M as model".to_owned()];
        for (_, action) in path {
            if let Some(action) = action {
                let text = self.format_action(action).replace([';', '#', '\n'], " ");
                lines.push(format!("    Note over M: {text}"));
            }
        }
        lines.join("\n")
    }
}

/// How a property stands at the end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// An `always` that no state broke.
    Held,
    /// A `sometimes` that some state met.
    Found,
    /// A `sometimes` that no state met: the scope is vacuous.
    NeverFound,
    /// An `always` that a state broke, with a path to it.
    Violated(Counterexample),
}

/// A path through a scope's states, by numbers, so that it can be given to another: the place of the initial state, then
/// that of each action among those that the state before it allows. Written as `0.3.1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps(Vec<usize>);

impl Display for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.pad(&numbers.join("."))
    }
}

impl FromStr for Steps {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let number = |part: &str| part.parse().map_err(|_| format!("{part:?} is no number"));
        s.split('.').map(number).collect::<Result<_, _>>().map(Self)
    }
}

/// A path that was gone again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The path.
    pub path: Counterexample,
    /// Each `always` that a state of it breaks, and after how many actions the first does.
    pub broken: Vec<(&'static str, usize)>,
}

/// A path to a state that breaks a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// The number of actions.
    pub length: usize,
    /// The path, for [`Scope::replay`].
    pub steps: Option<Steps>,
    /// The path as a Mermaid sequence diagram.
    pub diagram: String,
    /// Its last state.
    pub last_state: String,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Distinct states, up to symmetry.
    pub states: usize,
    /// States generated, repeats included.
    pub transitions: usize,
    /// The longest path on the stack of the search.
    pub depth: usize,
    /// How long it took.
    pub time: Duration,
    /// Each property and how it stands.
    pub properties: Vec<(&'static str, Standing)>,
    /// How often each kind of action ran.
    pub actions: Vec<(&'static str, u64)>,
    /// What a panicking worker said.
    pub panic: Option<String>,
}

impl Report {
    /// Whether every `always` held, every `sometimes` was found and nothing panicked.
    pub fn is_clean(&self) -> bool {
        self.panic.is_none()
            && self.properties.iter().all(|(_, s)| matches!(s, Standing::Held | Standing::Found))
    }

    /// The odds that two of the states met in one 64-bit fingerprint, so that one of them was not looked at.
    pub fn collision_odds(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let n = self.states as f64;
        n * n / 2f64.powi(65)
    }
}

/// What a run may tell while it goes on: distinct states, and states generated.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize);

/// A model with bounds, by name.
#[derive(Clone)]
pub struct Scope {
    /// Its name, unique in the registry.
    pub name: &'static str,
    /// When it runs.
    pub tier: Tier,
    /// What it explores, in a sentence.
    pub about: &'static str,
    /// The clauses of `spec/prose` that it checks.
    pub clauses: &'static [&'static str],
    runner: Arc<dyn Runner>,
}

impl Scope {
    /// A scope that explores `model` whole.
    pub fn new<M: Checked>(
        name: &'static str,
        tier: Tier,
        about: &'static str,
        clauses: &'static [&'static str],
        model: M,
    ) -> Self {
        Self { name, tier, about, clauses, runner: Arc::new(Runs(model)) }
    }

    /// The names of its properties, those that must hold always and those that must be met sometimes.
    pub fn properties(&self) -> Vec<&'static str> {
        self.runner.properties()
    }

    /// Explores it whole, depth first and up to symmetry; stops at the first violation, whose path is then shortened
    /// where a search by levels finds it.
    pub fn check(&self, threads: usize, progress: Progress<'_>) -> Report {
        self.runner.check(threads, progress)
    }

    /// Looks for a state that breaks `property`, whatever becomes of the others.
    pub fn hunt(&self, property: &str, how: Hunt, progress: Progress<'_>) -> Hunted {
        self.runner.hunt(property, how, progress)
    }

    /// Goes a path again. An error where it leaves what the scope allows, or the machine panics.
    pub fn replay(&self, steps: &Steps) -> Result<Replayed, String> {
        self.runner.replay(steps)
    }

    /// Serves Stateright's Explorer until the process ends.
    pub fn explore(&self, address: std::net::SocketAddr) {
        self.runner.explore(address);
    }
}

/// How a hunt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hunted {
    /// A state breaks the property.
    Caught(Counterexample),
    /// The property held in every state, this many.
    Survived(usize),
    /// A machine or the model panicked.
    Panicked(String),
    /// The scope has no such property.
    NoSuchProperty,
}

trait Runner: Send + Sync {
    fn properties(&self) -> Vec<&'static str>;
    fn check(&self, threads: usize, progress: Progress<'_>) -> Report;
    fn hunt(&self, property: &str, how: Hunt, progress: Progress<'_>) -> Hunted;
    fn replay(&self, steps: &Steps) -> Result<Replayed, String>;
    fn explore(&self, address: std::net::SocketAddr);
}

struct Runs<M>(M);

/// The states that a search by levels may visit when it shortens a counterexample.
const SHORTEN_LIMIT: usize = 400_000;

impl<M: Checked> Runner for Runs<M> {
    fn properties(&self) -> Vec<&'static str> {
        self.0.properties().into_iter().map(|p| p.name).collect()
    }

    fn check(&self, threads: usize, progress: Progress<'_>) -> Report {
        let started = Instant::now();
        let shared = Arc::new(Shared::new::<M>());
        let model = Watched::new(self.0.clone(), None, Arc::clone(&shared));
        let run = depth_first(model, threads, progress);
        let mut properties = Vec::new();
        for property in self.0.properties() {
            let path = run.discoveries.iter().find(|(name, _)| *name == property.name);
            let standing = match (&property.expectation, path) {
                (Expectation::Sometimes, Some(_)) => Standing::Found,
                (Expectation::Sometimes, None) => Standing::NeverFound,
                (_, None) => Standing::Held,
                (_, Some((name, path))) => {
                    let short = search::by_levels(&self.0, name, Some(SHORTEN_LIMIT), progress);
                    Standing::Violated(match short {
                        Ok(search::Outcome::Found(short)) => counterexample(&self.0, &short),
                        _ => counterexample(&self.0, path),
                    })
                }
            };
            properties.push((property.name, standing));
        }
        Report {
            states: run.states,
            transitions: run.transitions,
            depth: run.depth,
            time: started.elapsed(),
            properties,
            actions: shared.actions::<M>(),
            panic: run.panic,
        }
    }

    fn hunt(&self, property: &str, how: Hunt, progress: Progress<'_>) -> Hunted {
        let Some(property) = self.0.properties().into_iter().find(|p| p.name == property) else {
            return Hunted::NoSuchProperty;
        };
        match how {
            Hunt::Breadth => match search::by_levels(&self.0, property.name, None, progress) {
                Ok(search::Outcome::Found(path)) => Hunted::Caught(counterexample(&self.0, &path)),
                Ok(search::Outcome::Exhausted(states) | search::Outcome::Limited(states)) => {
                    Hunted::Survived(states)
                }
                Err(panic) => Hunted::Panicked(panic),
            },
            Hunt::Depth => {
                let shared = Arc::new(Shared::new::<M>());
                let model = Watched::new(self.0.clone(), Some(property.name), shared);
                let threads = std::thread::available_parallelism().map_or(1, usize::from);
                let run = depth_first(model, threads, progress);
                match (run.panic, run.discoveries.first()) {
                    (Some(panic), _) => Hunted::Panicked(panic),
                    (None, Some((_, path))) => Hunted::Caught(counterexample(&self.0, path)),
                    (None, None) => Hunted::Survived(run.states),
                }
            }
        }
    }

    fn replay(&self, steps: &Steps) -> Result<Replayed, String> {
        let again = || {
            let path = search::follow(&self.0, &steps.0)?;
            let mut broken = Vec::new();
            for property in self.0.properties() {
                let breaks = |(state, _): &(M::State, _)| !(property.condition)(&self.0, state);
                if property.expectation == Expectation::Always
                    && let Some(after) = path.iter().position(breaks)
                {
                    broken.push((property.name, after));
                }
            }
            Ok(Replayed { path: counterexample(&self.0, &path), broken })
        };
        catch_unwind(AssertUnwindSafe(again)).map_err(panic_text)?
    }

    fn explore(&self, address: std::net::SocketAddr) {
        // The Explorer checks as it goes; without symmetry, since it shows the states that it names.
        let _checker = self.0.clone().checker().serve(address);
    }
}

type Path<M> = Vec<(<M as Model>::State, Option<<M as Model>::Action>)>;

fn counterexample<M: Checked>(model: &M, path: &Path<M>) -> Counterexample {
    Counterexample {
        length: path.len().saturating_sub(1),
        steps: search::places(model, path).map(Steps),
        diagram: model.diagram(path),
        last_state: path.last().map(|(state, _)| format!("{state:#?}")).unwrap_or_default(),
    }
}

struct DepthFirst<M: Model> {
    states: usize,
    transitions: usize,
    depth: usize,
    discoveries: Vec<(&'static str, Path<M>)>,
    panic: Option<String>,
}

fn depth_first<M: Checked>(
    model: Watched<M>,
    threads: usize,
    progress: Progress<'_>,
) -> DepthFirst<M> {
    let mut builder = model.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    if let Some(canonical) = M::CANONICAL {
        builder = builder.symmetry_fn(canonical);
    }
    let mut checker = builder.spawn_dfs();
    let handles = checker.handles();
    let mut waited_ms = 0_u64;
    while !handles.iter().all(std::thread::JoinHandle::is_finished) {
        // Short scopes end at once; long ones are looked at ten times a second.
        let pause_ms = (1 + waited_ms / 10).min(100);
        std::thread::sleep(Duration::from_millis(pause_ms));
        waited_ms += pause_ms;
        progress(checker.unique_state_count(), checker.state_count());
    }
    let panic = handles.into_iter().find_map(|handle| handle.join().err()).map(panic_text);
    let discoveries = if panic.is_some() {
        Vec::new()
    } else {
        checker.model().stop_counting();
        let found = checker.discoveries();
        found.into_iter().map(|(name, path)| (name, path.into_vec())).collect()
    };
    DepthFirst {
        states: checker.unique_state_count(),
        transitions: checker.state_count(),
        depth: checker.max_depth(),
        discoveries,
        panic,
    }
}

/// What a panic said.
pub(crate) fn panic_text(payload: Box<dyn std::any::Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => payload
            .downcast::<&'static str>()
            .map_or_else(|_| "a panic without a text".to_owned(), |text| (*text).to_owned()),
    }
}
