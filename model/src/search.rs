//! A search by levels, up to symmetry, that stops at the first violation: its counterexamples are the shortest.
//!
//! Stateright's own breadth-first search ignores symmetry, and its counterexamples aren't the shortest.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, Hash},
    panic::{AssertUnwindSafe, catch_unwind},
};

use stateright::{Expectation, Model};

use crate::scope::{Checked, Progress, panic_text};

/// How to look for a counterexample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Hunt {
    /// By levels: finds the shortest.
    #[default]
    Breadth,
    /// Depth first: takes little memory, and finds what lies deep sooner.
    Depth,
}

/// How a search ended.
pub(crate) enum Outcome<S, A> {
    /// With the shortest path to a violation.
    Found(Vec<(S, Option<A>)>),
    /// With every state looked at.
    Exhausted(usize),
    /// At the limit.
    Limited(usize),
}

/// The way that a state was first reached: its predecessor's fingerprint, and the action's place there.
type Reached = HashMap<u64, Option<(u64, u32)>, Plain>;

/// Searches for a state that breaks (or, for a `sometimes`, meets) the property. A panic on the way is an error.
pub(crate) fn by_levels<M: Checked>(
    model: &M,
    property: &str,
    limit: Option<usize>,
    progress: Progress<'_>,
) -> Result<Outcome<M::State, M::Action>, String> {
    catch_unwind(AssertUnwindSafe(|| search(model, property, limit, progress))).map_err(panic_text)
}

fn search<M: Checked>(
    model: &M,
    property: &str,
    limit: Option<usize>,
    progress: Progress<'_>,
) -> Outcome<M::State, M::Action> {
    let Some(property) = model.properties().into_iter().find(|p| p.name == property) else {
        return Outcome::Limited(0);
    };
    let wanted = property.expectation == Expectation::Sometimes;
    let mut reached = Reached::default();
    let mut level = Vec::new();
    for state in model.init_states() {
        let print = fingerprint::<M>(&state);
        reached.insert(print, None);
        level.push((print, state));
    }
    let mut generated = level.len();
    let mut actions = Vec::new();
    while !level.is_empty() {
        let mut next = Vec::new();
        for (print, state) in level {
            if (property.condition)(model, &state) == wanted {
                return Outcome::Found(path_to(model, &reached, print));
            }
            if limit.is_some_and(|limit| reached.len() > limit) {
                return Outcome::Limited(reached.len());
            }
            model.actions(&state, &mut actions);
            for (at, action) in (0_u32..).zip(actions.drain(..)) {
                let Some(successor) = model.next_state(&state, action) else { continue };
                if !model.within_boundary(&successor) {
                    continue;
                }
                generated += 1;
                if generated % 4096 == 0 {
                    progress(reached.len(), generated);
                }
                let successor_print = fingerprint::<M>(&successor);
                if let Entry::Vacant(vacant) = reached.entry(successor_print) {
                    vacant.insert(Some((print, at)));
                    next.push((successor_print, successor));
                }
            }
        }
        level = next;
    }
    Outcome::Exhausted(reached.len())
}

fn path_to<M: Checked>(model: &M, reached: &Reached, last: u64) -> Steps<M> {
    let mut steps = Vec::new();
    let mut at = last;
    while let Some(Some((before, action))) = reached.get(&at) {
        steps.push(*action);
        at = *before;
    }
    steps.reverse();
    let initial = model.init_states().into_iter().find(|state| fingerprint::<M>(state) == at);
    let Some(mut state) = initial else { return Vec::new() };
    let mut path = Vec::new();
    for step in steps {
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        let action = usize::try_from(step).ok().and_then(|step| actions.get(step).cloned());
        let Some(action) = action else { break };
        let Some(successor) = model.next_state(&state, action.clone()) else { break };
        path.push((state, Some(action)));
        state = successor;
    }
    path.push((state, None));
    path
}

/// A path's states, each with the action that it takes; the last one takes none.
type Steps<M> = Vec<(<M as Model>::State, Option<<M as Model>::Action>)>;

/// The place of a path's initial state, then that of each action among those that the state before it allows; none where it
/// isn't the model's path.
pub(crate) fn places<M: Checked>(
    model: &M,
    path: &[(M::State, Option<M::Action>)],
) -> Option<Vec<usize>> {
    let (first, _) = path.first()?;
    let mut places = vec![model.init_states().iter().position(|state| state == first)?];
    for (state, action) in path {
        let Some(action) = action else { break };
        let mut actions = Vec::new();
        model.actions(state, &mut actions);
        places.push(actions.iter().position(|one| one == action)?);
    }
    Some(places)
}

/// Goes a path that [`places`] gave.
pub(crate) fn follow<M: Checked>(model: &M, places: &[usize]) -> Result<Steps<M>, String> {
    let (first, places) = places.split_first().ok_or("an empty path")?;
    let mut state = model
        .init_states()
        .into_iter()
        .nth(*first)
        .ok_or_else(|| format!("there is no initial state {first}"))?;
    let mut path = Vec::new();
    for (after, place) in places.iter().enumerate() {
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        let count = actions.len();
        let missing = || format!("after {after} actions there are {count}, and no number {place}");
        let action = actions.into_iter().nth(*place).ok_or_else(missing)?;
        let successor = model
            .next_state(&state, action.clone())
            .filter(|successor| model.within_boundary(successor))
            .ok_or_else(|| format!("action {place} after {after} leads nowhere"))?;
        path.push((state, Some(action)));
        state = successor;
    }
    path.push((state, None));
    Ok(path)
}

fn fingerprint<M: Checked>(state: &M::State) -> u64 {
    match M::CANONICAL {
        Some(canonical) => hash_of(&canonical(state)),
        None => hash_of(state),
    }
}

/// A 64-bit hash, the same in every run.
pub fn hash_of<T: Hash + ?Sized>(value: &T) -> u64 {
    ahash::RandomState::with_seeds(11, 13, 17, 19).hash_one(value)
}

/// Takes fingerprints as they are: they are hashes already.
#[derive(Clone, Copy, Default)]
struct Plain;

impl BuildHasher for Plain {
    type Hasher = PlainHasher;

    fn build_hasher(&self) -> PlainHasher {
        PlainHasher(0)
    }
}

struct PlainHasher(u64);

impl std::hash::Hasher for PlainHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests {
    use stateright::{Model, Property};

    use super::*;
    use crate::{Canonical, Hunted, Scope, Standing, Tier};

    /// Two counters that count to 5, one step or two at a time; the same with the counters exchanged.
    #[derive(Clone)]
    struct Counters {
        total: bool,
    }

    impl Model for Counters {
        type State = (u8, u8);
        type Action = (bool, u8);

        fn init_states(&self) -> Vec<(u8, u8)> {
            vec![(0, 0)]
        }

        fn actions(&self, _: &(u8, u8), actions: &mut Vec<(bool, u8)>) {
            actions.extend([(false, 1), (false, 2), (true, 1), (true, 2)]);
        }

        fn next_state(&self, state: &(u8, u8), (second, by): (bool, u8)) -> Option<(u8, u8)> {
            Some(if second { (state.0, state.1 + by) } else { (state.0 + by, state.1) })
        }

        fn within_boundary(&self, state: &(u8, u8)) -> bool {
            state.0 <= 5 && state.1 <= 5
        }

        fn properties(&self) -> Vec<Property<Self>> {
            vec![
                Property::<Self>::always("below_nine", |_, state| state.0 + state.1 < 9),
                Property::<Self>::always("small", |_, state| state.0 <= 5),
                Property::<Self>::sometimes("both_at_four", |_, state| *state == (4, 4)),
                Property::<Self>::sometimes("at_six", |_, state| state.0 == 6),
                Property::<Self>::always("total", |model, state| {
                    assert!(model.total || *state != (5, 5), "the model is not total");
                    true
                }),
            ]
        }
    }

    impl Checked for Counters {
        const KINDS: &'static [&'static str] = &["first", "second"];
        const CANONICAL: Option<Canonical<Self>> =
            Some(|state| (state.0.min(state.1), state.0.max(state.1)));

        fn kind(action: &(bool, u8)) -> usize {
            usize::from(action.0)
        }
    }

    fn scope(total: bool) -> Scope {
        Scope::new("counters", Tier::Ci, "Two counters.", &[], Counters { total })
    }

    #[test]
    fn a_hunt_by_levels_finds_the_shortest_path_and_a_deep_one_finds_some() {
        let Hunted::Caught(path) = scope(true).hunt("below_nine", Hunt::Breadth, &mut |_, _| ())
        else {
            panic!("not caught");
        };
        assert_eq!(path.length, 5);
        let Hunted::Caught(path) = scope(true).hunt("below_nine", Hunt::Depth, &mut |_, _| ())
        else {
            panic!("not caught");
        };
        assert!(path.length >= 5);
    }

    #[test]
    fn a_counterexample_can_be_gone_again_and_another_path_breaks_nothing() {
        for how in [Hunt::Breadth, Hunt::Depth] {
            let Hunted::Caught(path) = scope(true).hunt("below_nine", how, &mut |_, _| ()) else {
                panic!("not caught");
            };
            let steps = path.steps.as_ref().unwrap().to_string();
            let again = scope(true).replay(&steps.parse().unwrap()).unwrap();
            assert_eq!(again.broken, [("below_nine", path.length)]);
            assert_eq!(again.path, path);
        }
        let broken = |steps: &str| scope(true).replay(&steps.parse().unwrap()).map(|r| r.broken);
        assert_eq!(broken("0.1.1"), Ok(Vec::new()));
        assert!(broken("1").unwrap_err().contains("initial state 1"));
        assert!(broken("0.1.4").unwrap_err().contains("after 1 actions"));
        assert!(broken("0.1.1.1").unwrap_err().contains("leads nowhere"));
        assert!("0.x".parse::<crate::Steps>().is_err());
        // The last state of this one is what `total` panics at.
        let panics = scope(false).replay(&"0.1.1.0.3.3.2".parse().unwrap());
        assert!(panics.unwrap_err().contains("not total"));
    }

    #[test]
    fn a_hunt_looks_at_its_own_property_only() {
        // 21 unordered pairs of 0..=5.
        let survived = scope(true).hunt("small", Hunt::Breadth, &mut |_, _| ());
        assert_eq!(survived, Hunted::Survived(21));
        assert_eq!(scope(true).hunt("small", Hunt::Depth, &mut |_, _| ()), Hunted::Survived(21));
        assert_eq!(scope(true).hunt("none", Hunt::Depth, &mut |_, _| ()), Hunted::NoSuchProperty);
    }

    #[test]
    fn a_panic_is_no_counterexample() {
        for how in [Hunt::Breadth, Hunt::Depth] {
            let hunted = scope(false).hunt("total", how, &mut |_, _| ());
            assert!(matches!(hunted, Hunted::Panicked(text) if text.contains("not total")));
        }
    }

    #[test]
    fn a_check_reports_what_was_violated_and_what_was_never_found() {
        let report = scope(true).check(2, &mut |_, _| ());
        assert!(!report.is_clean());
        let standing = |name| {
            report.properties.iter().find(|(n, _)| *n == name).map(|(_, standing)| standing.clone())
        };
        assert!(matches!(standing("below_nine"), Some(Standing::Violated(p)) if p.length == 5));
        assert_eq!(standing("at_six"), Some(Standing::NeverFound));
    }
}
