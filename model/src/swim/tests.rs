//! That the reductions lose nothing: symmetry, and the forgetting of dead statements.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spec::swim::{
    Alive, Config, Dead, Endpoint, Member, MemberState, Message, NoLayer, Output, Part, Peer,
    PushPull, Suspect,
    broadcast::{Place, Queue},
};
use stateright::Expectation;

use super::*;
use crate::{hash_of, raft::rename::Renaming};

/// The states that are reached, as `print` sees them.
fn reached(model: &SwimModel, print: impl Fn(&State) -> u64) -> BTreeSet<u64> {
    let (mut seen, mut prints) = (BTreeSet::new(), BTreeSet::new());
    let mut stack = model.init_states();
    while let Some(state) = stack.pop() {
        if !seen.insert(hash_of(&state)) {
            continue;
        }
        prints.insert(print(&state));
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        stack.extend(actions.into_iter().filter_map(|action| model.next_state(&state, action)));
    }
    prints
}

#[test]
fn forgetting_dead_statements_loses_no_state_of_the_members() {
    let none = Budgets::default();
    let suspicions = SwimModel::new(3, Budgets { accusations: 2, ..none });
    let crash = SwimModel::new(3, Budgets { crashes: 1, ..none });
    let saturated = SwimModel { highest: 2, ..suspicions.clone() };
    for model in [suspicions, crash, saturated] {
        // What was said is left out.
        let members = |state: &State| hash_of(&state.seats);
        let all = reached(&SwimModel { forgets: false, ..model.clone() }, members);
        assert!(all == reached(&model, members), "a state of the members is lost: {model:?}");
        assert!(all.len() > 20, "{}", all.len());
    }
}

// Symmetry.

/// The same under other names. Whatever holds a name is taken apart without `..`, so that a field which the machine gains
/// doesn't compile until somebody said here whether it names a member.
struct Renames<'a>(&'a Renaming);

impl Renames<'_> {
    fn name(&self, old: &Name) -> Name {
        place(old).map_or_else(|| Name::clone(old), |n| name(self.0.place(n)))
    }

    fn address(&self, old: u16) -> u16 {
        let (n, moves) = (usize::from(old % 100) - 1, u8::try_from(old / 100).unwrap());
        address(self.0.place(n), moves)
    }

    fn endpoint(&self, old: Endpoint) -> Endpoint {
        world::endpoint(self.address(old.port()))
    }

    fn peer(&self, old: Peer) -> Peer {
        match old {
            Peer::Endpoint(endpoint) => Peer::Endpoint(self.endpoint(endpoint)),
            Peer::Stream(n) => Peer::Stream(n),
        }
    }

    fn names(&self, old: &BTreeSet<Name>) -> BTreeSet<Name> {
        old.iter().map(|name| self.name(name)).collect()
    }

    fn by_name<T: Clone>(&self, old: &BTreeMap<Name, T>) -> BTreeMap<Name, T> {
        old.iter().map(|(name, value)| (self.name(name), value.clone())).collect()
    }

    fn member(&self, old: &Member) -> Member {
        let Member { name, endpoint, meta, versions, incarnation, status, since } = old.clone();
        let (name, endpoint) = (self.name(&name), self.endpoint(endpoint));
        Member { name, endpoint, meta, versions, incarnation, status, since }
    }

    fn fact(&self, old: Fact) -> Fact {
        let Fact { subject, incarnation, says } = old;
        let says = match says {
            Says::Alive { address, meta } => Says::Alive { address: self.address(address), meta },
            Says::Suspect | Says::Dead | Says::Left => says,
        };
        Fact { subject: self.0.place(subject), incarnation, says }
    }

    fn part(&self, old: &Part<NoLayer>) -> Part<NoLayer> {
        match old.clone() {
            Part::Alive(Alive { incarnation, node, endpoint, meta, versions }) => {
                let (node, endpoint) = (self.name(&node), self.endpoint(endpoint));
                Part::Alive(Alive { incarnation, node, endpoint, meta, versions })
            }
            Part::Suspect(Suspect { incarnation, node, from }) => {
                let (node, from) = (self.name(&node), self.name(&from));
                Part::Suspect(Suspect { incarnation, node, from })
            }
            Part::Dead(Dead { incarnation, node, from }) => {
                let (node, from) = (self.name(&node), self.name(&from));
                Part::Dead(Dead { incarnation, node, from })
            }
            part => panic!("what a state of this model holds no {part:?}"),
        }
    }

    fn message(&self, old: &Message<NoLayer>) -> Message<NoLayer> {
        match old {
            Message::Packet(parts) => {
                Message::Packet(parts.iter().map(|part| self.part(part)).collect())
            }
            Message::PushPull(PushPull { join, members, user, reply }) => {
                let members = members.iter().map(|old| {
                    let MemberState { name, endpoint, meta, versions, incarnation, status } =
                        old.clone();
                    let (name, endpoint) = (self.name(&name), self.endpoint(endpoint));
                    MemberState { name, endpoint, meta, versions, incarnation, status }
                });
                let mut members: Vec<_> = members.collect();
                members.sort();
                Message::PushPull(PushPull { join: *join, members, user: *user, reply: *reply })
            }
            message => panic!("what a state of this model holds no {message:?}"),
        }
    }

    /// The numbers in a queue tell in which order a table was taken, which is that of the names: here they follow the parts.
    fn queue(&self, old: &Queue<NoLayer>) -> Queue<NoLayer> {
        let Queue { entries, subjects: _, next_number } = old;
        let parts = entries.iter().map(|(place, part)| (self.part(part), *place));
        let mut parts: Vec<_> = parts.collect();
        parts.sort();
        let mut queue = Queue { next_number: *next_number, ..Queue::default() };
        for (number, (part, place)) in (0..).zip(parts) {
            let place = Place { number: Reverse(number), ..place };
            queue.subjects.extend(part.subject().map(|subject| (Name::clone(subject), place)));
            queue.entries.insert(place, part);
        }
        queue
    }

    fn node(&self, old: &world::Node) -> world::Node {
        let world::Node {
            config,
            started,
            running,
            claim,
            meta,
            leaving,
            members,
            order,
            next,
            suspicions,
            awareness,
            queue,
            gossiping,
            probe,
            relays,
            exchanges,
            sequence,
        } = old.clone();
        assert!(probe.is_none() && relays.is_empty(), "a state of this model holds no probe");
        let config = Config {
            name: self.name(&config.name),
            endpoint: self.endpoint(config.endpoint),
            ..Config::clone(&config)
        };
        let mut order: Vec<Name> = order.iter().map(|name| self.name(name)).collect();
        order.sort();
        let members = members.values().map(|old| self.member(old));
        world::Node {
            config: Arc::new(config),
            started,
            running,
            claim,
            meta,
            leaving,
            members: members.map(|member| (Name::clone(&member.name), member)).collect(),
            order,
            next,
            suspicions: self.by_name(&suspicions),
            awareness,
            queue: self.queue(&queue),
            gossiping,
            probe,
            relays,
            exchanges: exchanges.into_iter().map(|(at, what)| (self.endpoint(at), what)).collect(),
            sequence,
        }
    }

    fn output(&self, old: &Output<NoLayer>) -> Output<NoLayer> {
        match old {
            Output::Joined(member) => Output::Joined(self.member(member)),
            Output::Gone { member, status } => {
                Output::Gone { member: self.member(member), status: *status }
            }
            output => panic!("a gate of this model holds no {output:?}"),
        }
    }

    /// So does the order of what waits for a write.
    fn gate(&self, old: &Gate<world::Node>) -> Gate<world::Node> {
        let Gate { last, durable, sends, emits } = old;
        let sends = sends.iter();
        let sends = sends.map(|(after, to, what)| (*after, self.peer(*to), self.message(what)));
        let emits = emits.iter().map(|(after, output)| (*after, self.output(output)));
        let (mut sends, mut emits): (Vec<_>, Vec<_>) = (sends.collect(), emits.collect());
        sends.sort_by_key(hash_of);
        emits.sort_by_key(hash_of);
        Gate { last: *last, durable: *durable, sends: sends.into(), emits: emits.into() }
    }

    fn seat(&self, old: &Seat) -> Seat {
        let Seat { node, gate, durable, pending, armed, gossips, address, present, graves } = old;
        Seat {
            node: node.as_ref().map(|node| self.node(node)),
            gate: self.gate(gate),
            durable: *durable,
            pending: pending.clone(),
            armed: self.names(armed),
            gossips: *gossips,
            address: self.address(*address),
            present: self.names(present),
            graves: self.by_name(graves),
        }
    }

    fn state(&self, old: &State) -> State {
        let State { seats, begun, said, spent, broken } = old;
        let mut renamed = State {
            seats: seats.clone(),
            begun: begun.clone(),
            said: said.iter().map(|fact| self.fact(*fact)).collect(),
            spent: *spent,
            broken: broken.clone(),
        };
        for (n, (seat, begun)) in seats.iter().zip(begun).enumerate() {
            renamed.seats[self.0.place(n)] = Hashed::new(self.seat(&seat.value));
            renamed.begun[self.0.place(n)] = *begun;
        }
        renamed
    }

    fn action(&self, old: &Action) -> Action {
        let at = |n: &usize| self.0.place(*n);
        match old {
            Action::Hear(n, fact) => Action::Hear(at(n), self.fact(*fact)),
            Action::Accuse(n, target) => Action::Accuse(at(n), at(target)),
            Action::Expire(n, suspect) => Action::Expire(at(n), self.name(suspect)),
            Action::Exchange(a, b) => Action::Exchange(at(a), at(b)),
            Action::Sync(n) => Action::Sync(at(n)),
            Action::Crash(n, kept) => Action::Crash(at(n), *kept),
            Action::Restart(n, elsewhere) => Action::Restart(at(n), *elsewhere),
            Action::Leave(n) => Action::Leave(at(n)),
            Action::Reap(n) => Action::Reap(at(n)),
            Action::Update(n) => Action::Update(at(n)),
        }
    }
}

/// The hash of a state's orbit: the same for every renaming of it.
fn canonical(state: &State) -> u64 {
    let all = Renaming::all(state.seats.len());
    all.iter().map(|names| hash_of(&Renames(names).state(state))).min().unwrap()
}

/// Pools with a bit of everything.
fn mixed() -> Vec<SwimModel> {
    let all = Budgets { accusations: 2, crashes: 1, moves: 1, leaves: 1, reaps: 1, updates: 1 };
    let asymmetric = SwimModel { symmetric: false, ..SwimModel::new(3, all) };
    let lingering = SwimModel { lingering: true, members: 2, ..asymmetric.clone() };
    let saturated = SwimModel { highest: 2, ..asymmetric.clone() };
    vec![asymmetric, lingering, saturated]
}

/// States along walks that a fixed seed chooses.
fn walks(model: &SwimModel, walks: u64, steps: usize) -> Vec<(State, Action)> {
    let mut seeded = spec::entropy::Seeded::new(7);
    let mut visited = Vec::new();
    for _ in 0..walks {
        let mut state = model.start();
        for _ in 0..steps {
            let mut actions = Vec::new();
            model.actions(&state, &mut actions);
            let at = spec::entropy::Entropy::choose(&mut seeded, actions.len());
            let action = actions.swap_remove(at);
            let next = model.next_state(&state, action.clone()).unwrap();
            visited.push((state, action));
            state = next;
        }
    }
    visited
}

#[test]
fn before_anything_goes_wrong_all_members_are_alike() {
    for model in mixed() {
        let start = model.start();
        let all = Renaming::all(model.members);
        for names in &all {
            assert!(Renames(names).state(&start) == Renames(&all[0]).state(&start), "{names:?}");
        }
    }
}

#[test]
fn the_canonical_form_is_the_same_under_every_renaming() {
    for model in mixed() {
        for (state, _) in walks(&model, 20, 30) {
            for names in Renaming::all(model.members) {
                assert_eq!(canonical(&Renames(&names).state(&state)), canonical(&state));
            }
        }
    }
}

#[test]
fn a_step_of_renamed_members_is_the_renamed_step() {
    // Where writes linger, what waits for them keeps the order in which tables were taken, which is that of the names. At
    // the highest incarnation nobody gossips a suspicion, and whom the ping after a failed probe tells of one is the next
    // by name. That no orbit is lost there either, the test below shows.
    let by_name = |model: &SwimModel| model.lingering || model.highest < 9;
    for model in mixed().into_iter().filter(|model| !by_name(model)) {
        for (state, action) in walks(&model, 40, 30) {
            let after = model.next_state(&state, action.clone()).unwrap();
            let all = Renaming::all(model.members);
            for names in all.iter().map(Renames) {
                let renamed = names.state(&state);
                let stepped = model.next_state(&renamed, names.action(&action)).unwrap();
                let stepped = Renames(&all[0]).state(&stepped);
                assert!(stepped == names.state(&after), "{action:?} depends on the names");
            }
        }
    }
}

/// Which properties some reached state meets, if it is one to be met sometimes, or breaks.
fn standings(model: &SwimModel) -> BTreeSet<&'static str> {
    let (mut seen, mut stack, mut noted) = (BTreeSet::new(), model.init_states(), BTreeSet::new());
    let properties = model.properties();
    while let Some(state) = stack.pop() {
        if !seen.insert(hash_of(&state)) {
            continue;
        }
        for property in &properties {
            let wanted = property.expectation == Expectation::Sometimes;
            if (property.condition)(model, &state) == wanted {
                noted.insert(property.name);
            }
        }
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        stack.extend(actions.into_iter().filter_map(|action| model.next_state(&state, action)));
    }
    noted
}

#[test]
fn symmetry_loses_no_state_and_no_verdict() {
    let none = Budgets::default();
    let small = [
        SwimModel::new(3, Budgets { accusations: 1, reaps: 1, ..none }),
        SwimModel::new(3, Budgets { crashes: 1, ..none }),
        SwimModel::new(3, Budgets { leaves: 1, ..none }),
        SwimModel::new(2, Budgets { accusations: 1, crashes: 1, moves: 1, ..none }),
        SwimModel {
            lingering: true,
            ..SwimModel::new(2, Budgets { updates: 1, leaves: 1, ..none })
        },
        SwimModel { highest: 2, ..SwimModel::new(3, Budgets { accusations: 1, ..none }) },
        // Two that can be told apart from the start.
        SwimModel {
            highest: 2,
            forged: vec![3],
            ..SwimModel::new(2, Budgets { accusations: 1, ..none })
        },
    ];
    for model in small {
        let whole = SwimModel { symmetric: false, ..model.clone() };
        let (some, all) = (reached(&model, canonical), reached(&whole, canonical));
        assert!(all.len() > 10, "{}", all.len());
        assert!(
            some == all,
            "{} of {} states are lost: {model:?}",
            all.len() - some.len(),
            all.len()
        );
        let states = |model: &SwimModel| reached(model, hash_of).len();
        assert!(!model.forged.is_empty() || states(&model) < states(&whole), "nothing is saved");
        assert_eq!(standings(&model), standings(&whole), "{model:?}");
    }
}
