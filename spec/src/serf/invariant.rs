//! What must hold within one member after each step. The driver checks these and stops; tests hold every step to them.

use super::node::Serf;
use crate::swim::Name;

/// A named invariant.
pub type Invariant = (&'static str, fn(&Serf) -> bool);

/// Every local invariant. Only the first looks at the whole table.
pub const ALL: [Invariant; 3] = [
    ("status_follows_swim", status_follows_swim),
    ("primary_is_held", primary_is_held),
    ("bounds_kept", bounds_kept),
];

/// Serf has a member as alive or leaving exactly where SWIM has it as alive or suspect (SERF-3); this member is always
/// there to itself.
pub fn status_follows_swim(serf: &Serf) -> bool {
    let (members, swim) = (&serf.members, &serf.swim.members);
    let present = |name: &Name| {
        *name == members.own || swim.get(name).is_some_and(|member| !member.status.is_gone())
    };
    members.entries.iter().all(|(name, entry)| entry.status.is_present() == present(name))
        && swim
            .iter()
            .all(|(name, member)| member.status.is_gone() || members.entries.contains_key(name))
}

/// The key that encrypts is one of those that decrypt (SERF-33).
pub fn primary_is_held(serf: &Serf) -> bool {
    let keyring = &serf.keyring;
    keyring.primary.as_ref().is_none_or(|primary| keyring.keys.contains(primary))
}

/// Nothing grows beyond its bound (SERF-29).
pub fn bounds_kept(serf: &Serf) -> bool {
    let config = &serf.config;
    serf.running.len() <= config.max_running
        && serf.open.len() <= config.max_open
        && serf.keys.waiting.len() <= super::keys::MAX_WAITING
        && serf.rejoin.len() <= config.swim.max_members
        && serf.keyring.keys.len() <= super::keyring::MAX_KEYS.max(config.keyring.keys.len())
}
