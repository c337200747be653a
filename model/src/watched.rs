//! A model under watch: counts how often each kind of action ran, and may look at one property alone.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use stateright::{Model, Property};

use crate::scope::Checked;

/// What the threads of one run count together.
pub(crate) struct Shared {
    counts: Vec<AtomicU64>,
    counting: AtomicBool,
}

impl Shared {
    pub(crate) fn new<M: Checked>() -> Self {
        let counts = M::KINDS.iter().map(|_| AtomicU64::new(0)).collect();
        Self { counts, counting: AtomicBool::new(true) }
    }

    pub(crate) fn actions<M: Checked>(&self) -> Vec<(&'static str, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        M::KINDS.iter().copied().zip(counts).collect()
    }
}

/// Delegates to a model and counts.
pub(crate) struct Watched<M: Model> {
    model: M,
    properties: Vec<Property<M>>,
    shared: Arc<Shared>,
}

impl<M: Checked> Watched<M> {
    pub(crate) fn new(model: M, only: Option<&'static str>, shared: Arc<Shared>) -> Self {
        let mut properties = model.properties();
        properties.retain(|property| only.is_none_or(|only| property.name == only));
        assert!(properties.len() <= CONDITIONS, "raise CONDITIONS: a property would go unchecked");
        Self { model, properties, shared }
    }

    pub(crate) fn stop_counting(&self) {
        self.shared.counting.store(false, Ordering::Relaxed);
    }
}

// Stateright's conditions are plain function pointers: one for each place in the list finds its property there.
const CONDITIONS: usize = 48;

fn condition<M: Model, const AT: usize>(watched: &Watched<M>, state: &M::State) -> bool {
    let property = &watched.properties[AT];
    (property.condition)(&watched.model, state)
}

macro_rules! conditions {
    ($model:ident: $($at:literal)*) => { [$(condition::<$model, $at>),*] };
}

impl<M: Checked> Model for Watched<M> {
    type State = M::State;
    type Action = M::Action;

    fn init_states(&self) -> Vec<M::State> {
        self.model.init_states()
    }

    fn actions(&self, state: &M::State, actions: &mut Vec<M::Action>) {
        self.model.actions(state, actions);
    }

    fn next_state(&self, state: &M::State, action: M::Action) -> Option<M::State> {
        if self.shared.counting.load(Ordering::Relaxed) {
            self.shared.counts[M::kind(&action)].fetch_add(1, Ordering::Relaxed);
        }
        self.model.next_state(state, action)
    }

    fn within_boundary(&self, state: &M::State) -> bool {
        self.model.within_boundary(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let conditions: [fn(&Self, &M::State) -> bool; CONDITIONS] = conditions!(M:
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23
            24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47);
        let listed = self.properties.iter().zip(conditions);
        listed
            .map(|(property, condition)| Property {
                expectation: property.expectation.clone(),
                name: property.name,
                condition,
            })
            .collect()
    }
}
