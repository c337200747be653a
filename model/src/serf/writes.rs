//! One member whose disk takes its writes a few at a time: what it announces is durable, whatever it heard together
//! (SERF-56, SWIM-7).

use std::sync::Arc;

use spec::{
    machine::Event,
    serf::{Durable, Packet},
    swim::{Alive, Incarnation, Name, Part, Peer, Suspect, Versions},
};
use stateright::{Model, Property};

use super::pool::{Server, config, endpoint, name};
use crate::{Checked, Scope, Tier};

/// The bounds.
#[derive(Clone, Debug)]
pub struct WritesModel {
    /// Packets that come.
    pub packets: u8,
}

/// The member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    server: Arc<Server>,
    heard: u8,
    /// The disk took some of the writes of a step, and not the others.
    split: bool,
}

/// What a packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// Another member is there.
    Alive,
    /// This member is suspected.
    Suspect,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A packet says these, in this order.
    Hear(&'static [Word]),
    /// So many of the pending writes, the first, are durable.
    Sync(usize),
}

const PACKETS: [&[Word]; 4] = [
    &[Word::Alive],
    &[Word::Suspect],
    &[Word::Alive, Word::Suspect],
    &[Word::Suspect, Word::Alive],
];

impl State {
    fn part(&self, word: Word) -> Part<spec::serf::SerfLayer> {
        let own = self.server.machine.swim.incarnation();
        match word {
            // Another one with each packet: only a newcomer is written.
            Word::Alive => Part::Alive(Alive {
                incarnation: Incarnation(1),
                node: name(1 + usize::from(self.heard)),
                endpoint: endpoint(1 + usize::from(self.heard)),
                meta: Arc::from([]),
                versions: Versions::CURRENT,
            }),
            Word::Suspect => Part::Suspect(Suspect {
                incarnation: own,
                node: Name::clone(&self.server.machine.members.own),
                from: name(1),
            }),
        }
    }
}

impl Model for WritesModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut server = Server::start(0, &config(0, &|_| {}), Durable::default(), false);
        server.set_lingering(true);
        vec![State { server: Arc::new(server), heard: 0, split: false }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.heard < self.packets {
            actions.extend(PACKETS.map(Action::Hear));
        }
        actions.extend((1..=state.server.pending.len()).map(Action::Sync));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut state = state.clone();
        match action {
            Action::Hear(words) => {
                let message = Packet::Packet(words.iter().map(|word| state.part(*word)).collect());
                state.heard += 1;
                let from = Peer::Endpoint(endpoint(1));
                Arc::make_mut(&mut state.server).step(Event::Receive { from, message });
            }
            Action::Sync(count) => {
                state.split |= count < state.server.pending.len();
                Arc::make_mut(&mut state.server).sync_first(count);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("announced_is_durable", |_, state| {
                let announced = state.server.machine.swim.incarnation();
                announced <= state.server.durable.swim.incarnation
            }),
            Property::<Self>::sometimes("writes_are_parted", |_, state| state.split),
            Property::<Self>::sometimes("an_accusation_is_refuted", |_, state| {
                state.server.machine.swim.incarnation() > Incarnation(1)
            }),
        ]
    }
}

impl Checked for WritesModel {
    const KINDS: &'static [&'static str] = &["hear", "sync"];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Hear(_) => 0,
            Action::Sync(_) => 1,
        }
    }
}

/// The scopes of writes.
pub(super) fn scopes() -> Vec<Scope> {
    vec![Scope::new(
        "serf-writes",
        Tier::Ci,
        "One member hears of newcomers and of accusations, and its disk takes its writes a few at a time.",
        &["SERF-56", "SWIM-7"],
        WritesModel { packets: 3 },
    )]
}
