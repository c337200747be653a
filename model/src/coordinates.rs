//! Coordinates on their way to the catalog: nodes that tell where they are, one of them in two spellings and one without
//! end, and a leader that writes what it gathered.

use std::collections::BTreeMap;

use spec::{
    raft::Index,
    state::{
        Command, Key, Outcome, State,
        catalog::{CatalogCommand, Coordinate, CoordinateUpdate, NodeBody, Registration},
        text::canonical,
    },
    sync::coordinates::{Gathering, Limits, Refusal},
    time::ClusterTime,
};
use stateright::{Model, Property};

use crate::{
    Checked, Scope, Tier,
    properties::{seen, steps},
};

/// How the nodes are called, and how often they tell where they are.
#[derive(Clone, Debug)]
pub struct CoordinatesModel {
    /// The names; two spellings may be of one node.
    pub names: &'static [&'static str],
    /// What one period may write.
    pub limits: Limits,
    /// How often they tell it.
    pub tells: u8,
}

/// The leader, and what it was told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    gathering: Gathering,
    state: State,
    /// The last word that was taken of each node, by its canonical name, and whether it waits to be written.
    words: BTreeMap<Key, (u64, bool)>,
    tells: u8,
    did: Option<Did>,
    broke: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Did {
    Replace,
    RefuseTheBad,
    RefuseOneTooMany,
    WriteAll,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A node tells where it is: the height of its coordinate, as bits.
    Tell(&'static str, u64),
    /// A period is over.
    Write,
}

/// Two places where a node may be, and one that is no place.
const HEIGHTS: [f64; 3] = [0.5, 1.0, f64::INFINITY];

fn at(height: u64) -> Coordinate {
    Coordinate { vector: [0; 8], error: 0, adjustment: 0, height }
}

impl CoordinatesModel {
    fn capacity(&self) -> usize {
        self.limits.batch * self.limits.batches
    }

    fn tell(&self, next: &mut World, name: &'static str, height: u64) {
        let node = canonical(name);
        let waits = next.words.get(&node).is_some_and(|(_, waits)| *waits);
        let waiting = next.words.values().filter(|(_, waits)| *waits).count();
        let update =
            CoordinateUpdate { node: name.into(), segment: "".into(), coordinate: at(height) };
        let noted = next.gathering.note(update);
        let expected = if !at(height).is_valid() {
            next.did = Some(Did::RefuseTheBad);
            Err(Refusal::Invalid)
        } else if !waits && waiting >= self.capacity() {
            next.did = Some(Did::RefuseOneTooMany);
            Err(Refusal::Full)
        } else {
            next.did = waits.then_some(Did::Replace);
            Ok(())
        };
        if noted != expected {
            next.broke.push("what_is_told_is_taken_or_refused");
        }
        if noted.is_ok() {
            next.words.insert(node, (height, true));
        }
    }

    fn write(&self, next: &mut World) {
        let commands = next.gathering.take();
        let small = |command: &CatalogCommand| match command {
            CatalogCommand::UpdateCoordinates(updates) => updates.len() <= self.limits.batch,
            CatalogCommand::Register(_) | CatalogCommand::Deregister(_) => false,
        };
        if commands.len() > self.limits.batches || !commands.iter().all(small) {
            next.broke.push("a_period_is_bounded");
        }
        next.did = (commands.len() == self.limits.batches).then_some(Did::WriteAll);
        for command in commands {
            // What an entry's index is doesn't matter here, and would tell states apart that are the same.
            let outcome = apply(&mut next.state, command);
            if outcome != Outcome::Applied(true) {
                next.broke.push("every_command_is_taken");
            }
        }
        for (node, (word, waits)) in &mut next.words {
            *waits = false;
            let place = next.state.catalog().coordinates_of(node).next();
            if place.map(|(_, place)| *place) != Some(at(*word)) {
                next.broke.push("the_last_word_is_written");
            }
        }
    }
}

fn apply(state: &mut State, command: CatalogCommand) -> Outcome {
    state.apply(Index(1), ClusterTime(0), &Command::Catalog(command), &mut Vec::new())
}

impl Model for CoordinatesModel {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut state = State::default();
        for name in self.names {
            let node =
                NodeBody { name: (*name).into(), address: "a".into(), ..NodeBody::default() };
            let node = Registration { node, skip_node_update: false, parts: Vec::new() };
            apply(&mut state, CatalogCommand::Register(node));
        }
        vec![World {
            gathering: Gathering::new(self.limits),
            state,
            words: BTreeMap::new(),
            tells: self.tells,
            did: None,
            broke: Vec::new(),
        }]
    }

    fn actions(&self, at: &World, actions: &mut Vec<Action>) {
        if at.tells > 0 {
            let all = |name| HEIGHTS.map(|height| Action::Tell(name, height.to_bits()));
            actions.extend(self.names.iter().copied().flat_map(all));
        }
        if at.words.values().any(|(_, waits)| *waits) {
            actions.push(Action::Write);
        }
    }

    fn next_state(&self, at: &World, action: Action) -> Option<World> {
        let mut next = World { did: None, broke: Vec::new(), ..at.clone() };
        match action {
            Action::Tell(name, height) => {
                next.tells -= 1;
                self.tell(&mut next, name, height);
            }
            Action::Write => self.write(&mut next),
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = steps!(World:
            "what_is_told_is_taken_or_refused" "a_period_is_bounded" "the_last_word_is_written"
            "every_command_is_taken"
        );
        properties.extend(seen!(World:
            "a_word_replaces_another" Did::Replace,
            "a_bad_one_is_refused" Did::RefuseTheBad,
            "one_too_many_is_refused" Did::RefuseOneTooMany,
            "a_period_writes_all_it_may" Did::WriteAll,
        ));
        properties
    }
}

impl Checked for CoordinatesModel {
    const KINDS: &'static [&'static str] = &["tell", "write"];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Tell(..) => 0,
            Action::Write => 1,
        }
    }
}

/// The scope of coordinates.
pub fn scopes() -> Vec<Scope> {
    vec![Scope::new(
        "coordinates",
        Tier::Ci,
        "three nodes, one in two spellings, that tell where they are to a leader that may write two at a time",
        &["SYNC-8"],
        CoordinatesModel {
            names: &["a", "A", "b", "c"],
            limits: Limits { batch: 1, batches: 2 },
            tells: 4,
        },
    )]
}
