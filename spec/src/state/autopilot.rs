//! How the cluster looks after its own servers: autopilot's configuration, the same for all of them (prose/autopilot.md).

use core::time::Duration;

use bincode::{Decode, Encode};

use super::{Outcome, table::Digest, text::Text};
use crate::codec;

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct AutopilotSettings {
    /// Whether servers that are dead are removed from Raft.
    pub cleanup_dead_servers: bool,
    /// How long a healthy server may not have been heard of, in nanoseconds.
    pub last_contact_threshold_ns: u64,
    /// How many entries a healthy server may be behind.
    pub max_trailing_logs: u64,
    /// How many voters cleaning up leaves at least.
    pub min_quorum: u64,
    /// How long a new server has to be healthy before it votes, in nanoseconds.
    pub server_stabilization_time_ns: u64,
    /// Kept for its clients, of no effect.
    pub redundancy_zone_tag: Text,
    /// Kept for its clients, of no effect.
    pub disable_upgrade_migration: bool,
    /// Kept for its clients, of no effect.
    pub upgrade_version_tag: Text,
}

impl Default for AutopilotSettings {
    /// Consul's.
    fn default() -> Self {
        Self {
            cleanup_dead_servers: true,
            last_contact_threshold_ns: 200_000_000,
            max_trailing_logs: 250,
            min_quorum: 0,
            server_stabilization_time_ns: 10_000_000_000,
            redundancy_zone_tag: Text::default(),
            disable_upgrade_migration: false,
            upgrade_version_tag: Text::default(),
        }
    }
}

impl AutopilotSettings {
    /// How long a healthy server may not have been heard of.
    pub const fn last_contact_threshold(&self) -> Duration {
        Duration::from_nanos(self.last_contact_threshold_ns)
    }

    /// How long a new server has to be healthy before it votes.
    pub const fn server_stabilization_time(&self) -> Duration {
        Duration::from_nanos(self.server_stabilization_time_ns)
    }
}

/// The configuration as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct AutopilotConfig {
    /// What is set.
    pub settings: AutopilotSettings,
    /// The index at which there first was one.
    pub create_index: u64,
    /// The index of its last change.
    pub modify_index: u64,
}

/// What is asked of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum AutopilotCommand {
    /// Sets it; one equal to what stands changes nothing.
    Set(AutopilotSettings),
    /// Sets it where there is one whose `ModifyIndex` is `index`.
    Cas {
        /// What to set.
        settings: AutopilotSettings,
        /// The `ModifyIndex` that must stand.
        index: u64,
    },
    /// Sets it where there is none: a new leader's first word.
    Initialize(AutopilotSettings),
}

/// Carries out a command at an index.
pub(super) fn apply(
    standing: &mut Option<AutopilotConfig>,
    index: u64,
    command: &AutopilotCommand,
) -> Outcome {
    let settings = match command {
        AutopilotCommand::Cas { settings, index: expected } => {
            if standing.as_ref().is_none_or(|standing| standing.modify_index != *expected) {
                return Outcome::Applied(false);
            }
            settings
        }
        AutopilotCommand::Initialize(_) if standing.is_some() => return Outcome::Applied(false),
        AutopilotCommand::Set(settings) | AutopilotCommand::Initialize(settings) => settings,
    };
    if standing.as_ref().is_none_or(|standing| standing.settings != *settings) {
        let create_index = standing.as_ref().map_or(index, |standing| standing.create_index);
        *standing =
            Some(AutopilotConfig { settings: settings.clone(), create_index, modify_index: index });
    }
    Outcome::Applied(true)
}

/// The digest of the configuration; none has that of nothing.
pub(super) fn digest(standing: Option<&AutopilotConfig>) -> Digest {
    standing.map_or(Digest::default(), |standing| Digest::of(&codec::encode(&(13_u8, standing))))
}
