//! Properties of models whose steps judge themselves: a state notes in `broke` which rules the step into it broke, and in
//! `did` what it did.

/// For each name: no step broke the rule.
macro_rules! steps {
    ($state:ty: $($name:literal)*) => {
        vec![$(stateright::Property::always($name, |_, at: &$state| !at.broke.contains(&$name))),*]
    };
}

/// For each name: some step did that.
macro_rules! seen {
    ($state:ty: $($name:literal $did:path,)*) => {
        vec![$(stateright::Property::sometimes($name, |_, at: &$state| at.did == Some($did))),*]
    };
}

pub(crate) use {seen, steps};
