//! Consul's user events: how they travel in Serf's, which of them this agent keeps, and the index to wait by.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gossip_wire::{
    Refused,
    consul::{self, EVENT_PREFIX},
};
use regex_lite::Regex;
use spec::serf::{LamportTime, UserEvent as SerfEvent};
use tokio::sync::watch;

/// The name of the event by which a leader says that it is one; its payload is the leader's name.
pub(super) const NEW_LEADER: &str = "consul:new-leader";
/// How many events an agent keeps (Consul's).
const KEPT: usize = 256;

/// A user event of Consul's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserEvent {
    /// A UUID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it says.
    pub payload: Vec<u8>,
    /// For agents whose node's name this regular expression matches; for all, if empty.
    pub node_filter: String,
    /// For agents that have a service whose name this regular expression matches.
    pub service_filter: String,
    /// For agents that have such a service with a tag that this regular expression matches.
    pub tag_filter: String,
    /// When it was fired; 0 until then.
    pub ltime: u64,
}

impl UserEvent {
    /// The event as Serf carries it.
    pub fn to_serf(&self) -> SerfEvent {
        let event = consul::UserEvent {
            id: &self.id,
            name: &self.name,
            payload: &self.payload,
            node_filter: &self.node_filter,
            service_filter: &self.service_filter,
            tag_filter: &self.tag_filter,
        };
        let mut payload = Vec::new();
        event.encode(&mut payload);
        SerfEvent { name: format!("{EVENT_PREFIX}{}", self.name).into(), payload: payload.into() }
    }

    /// Reads an event of Serf's; none where it isn't one of Consul's.
    pub fn from_serf(ltime: LamportTime, event: &SerfEvent) -> Option<Result<Self, Refused>> {
        event.name.strip_prefix(EVENT_PREFIX)?;
        Some(consul::UserEvent::decode(&event.payload).map(|event| Self {
            id: event.id.to_owned(),
            name: event.name.to_owned(),
            payload: event.payload.to_vec(),
            node_filter: event.node_filter.to_owned(),
            service_filter: event.service_filter.to_owned(),
            tag_filter: event.tag_filter.to_owned(),
            ltime: ltime.0,
        }))
    }

    /// Whether it is for an agent with this node name, which has no services.
    fn is_for(&self, node: &str) -> bool {
        let matches = |pattern: &str| Regex::new(pattern).is_ok_and(|regex| regex.is_match(node));
        self.service_filter.is_empty()
            && (self.node_filter.is_empty() || matches(&self.node_filter))
    }
}

/// The index of a list that ends with the event of this id: the halves of the UUID, mixed. It says whether the list is
/// another one, and nothing more; a later list may have a lower index.
pub fn index_of(id: &str) -> u64 {
    let digits: String = id.chars().filter(|c| *c != '-').collect();
    let half = |range| digits.get(range).and_then(|half| u64::from_str_radix(half, 16).ok());
    half(0..16).unwrap_or(0) ^ half(16..32).unwrap_or(0)
}

/// The events that an agent keeps, the newest last.
#[derive(Debug)]
pub struct Events {
    node: String,
    kept: Mutex<VecDeque<Arc<UserEvent>>>,
    changed: watch::Sender<u64>,
}

impl Events {
    /// None yet, of an agent with this node name.
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), kept: Mutex::default(), changed: watch::Sender::new(0) }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<UserEvent>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event, where it is for this agent.
    pub fn take(&self, event: UserEvent) {
        if !event.is_for(&self.node) {
            return;
        }
        let mut kept = self.kept();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Arc::new(event));
        drop(kept);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Those with this name, or all.
    pub fn list(&self, name: Option<&str>) -> Vec<Arc<UserEvent>> {
        let kept = self.kept();
        kept.iter().filter(|event| name.is_none_or(|name| event.name == name)).cloned().collect()
    }

    /// Tells of events that come from here on.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str) -> UserEvent {
        UserEvent {
            id: "43317bc7-1558-1e85-b939-b3930a7f742d".to_owned(),
            name: name.to_owned(),
            payload: b"pay".to_vec(),
            ..UserEvent::default()
        }
    }

    #[test]
    fn an_event_comes_back_from_serf_s() {
        let mut fired = event("deploy");
        fired.node_filter = "^s".to_owned();
        fired.tag_filter = "v1".to_owned();
        let serf = fired.to_serf();
        assert_eq!(&*serf.name, "consul:event:deploy");
        fired.ltime = 4;
        assert_eq!(UserEvent::from_serf(LamportTime(4), &serf), Some(Ok(fired)));
        let other = SerfEvent { name: "deploy".into(), ..serf.clone() };
        assert_eq!(UserEvent::from_serf(LamportTime(4), &other), None);
        let newer = SerfEvent { payload: (*b"\x81\xa1v\x02").into(), ..serf };
        assert_eq!(UserEvent::from_serf(LamportTime(4), &newer), Some(Err(Refused::Range)));
    }

    #[test]
    fn the_index_is_consul_s() {
        // A real agent's answers.
        assert_eq!(index_of("43317bc7-1558-1e85-b939-b3930a7f742d"), 18_016_870_572_921_154_216);
        assert_eq!(index_of("b8c8c0b5-4d58-9683-e026-c94f94334cfd"), 6_408_070_292_788_992_638);
        assert_eq!(index_of("eb793e70-4933-bc7c-ff93-78896ef041b5"), 1_507_095_061_236_809_161);
    }

    #[test]
    fn only_events_for_this_node_are_kept_and_only_the_newest() {
        let events = Events::new("s1");
        let watch = events.watch();
        for filter in ["^s", "", "c"] {
            events.take(UserEvent { node_filter: filter.to_owned(), ..event("e") });
        }
        events.take(UserEvent { service_filter: "web".to_owned(), ..event("e") });
        assert_eq!(events.list(None).len(), 2);
        assert_eq!(*watch.borrow(), 2);
        for _ in 0..KEPT {
            events.take(event("f"));
        }
        assert_eq!(events.list(Some("e")).len(), 0);
        assert_eq!(events.list(None).len(), KEPT);
    }
}
