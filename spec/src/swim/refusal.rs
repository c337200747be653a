//! Refused streams: a system that refuses a stream says that nobody listens there, in contrast to one that is silent. So a
//! member whose process is gone is found dead sooner than one that can't be heard (SWIM-32; memberlist has no such rule).

use alloc::sync::Arc;

use super::{
    interface::{ExchangeError, Timer},
    member::Word,
    message::{Dead, Message},
    node::{Node, Turn},
    types::{Endpoint, Incarnation, Layer, Name},
};
use crate::machine::Effect;

/// How far the refusals of a suspect have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// None counts.
    #[default]
    None,
    /// The last probe was refused; a stream is tried again after a while.
    Once,
    /// It is being tried. If that is refused too, the suspect is dead.
    Trying,
}

impl<L: Layer> Node<L> {
    /// A stream couldn't be opened, or broke.
    pub(super) fn stream_failed(
        &mut self,
        to: Endpoint,
        refused: bool,
        turn: &mut Turn<'_, '_, L>,
    ) {
        self.end_exchange(to, Err(ExchangeError::Failed), turn);
        if refused && let Some(probe) = self.probe.as_mut().filter(|probe| probe.endpoint == to) {
            probe.refused = true;
        }
        let Some(name) = self.trying(to) else { return };
        if !refused {
            self.excuse(&name);
            return;
        }
        let Some(incarnation) = self.members.get(&name).map(|member| member.incarnation) else {
            return;
        };
        let from = Arc::clone(&self.config.name);
        self.hear_dead(Dead { incarnation, node: name, from }, Word::Own, turn);
    }

    /// A probe that nobody answered was refused: the suspect has a while to come back.
    pub(super) fn hasten(
        &mut self,
        name: &Name,
        incarnation: Incarnation,
        turn: &mut Turn<'_, '_, L>,
    ) {
        let Some(member) = self.members.get(name) else { return };
        let Some(suspicion) = self.suspicions.get_mut(name) else { return };
        let mult = self.config.refusal_mult;
        let same = member.incarnation == incarnation;
        if mult > 0 && same && suspicion.refusal == Refusal::None && L::is_soon_missed(&member.meta)
        {
            suspicion.refusal = Refusal::Once;
            let delay = self.config.probe_interval.saturating_mul(mult);
            turn.effects.push(Effect::Arm { timer: Timer::Refusal(Arc::clone(name)), delay });
        }
    }

    /// The suspect's time is over: is it back?
    pub(super) fn try_again(&mut self, name: &Name, turn: &mut Turn<'_, '_, L>) {
        let Some(endpoint) = self.members.get(name).map(|member| member.endpoint) else { return };
        let seq = self.next_seq();
        let Some(suspicion) = self.suspicions.get_mut(name) else { return };
        if suspicion.refusal == Refusal::Once {
            suspicion.refusal = Refusal::Trying;
            let ping = self.ping(seq, name);
            self.send(super::Peer::Endpoint(endpoint), Message::StreamPing(ping), turn);
        }
    }

    /// Whom a stream to this address is tried for.
    pub(super) fn trying(&self, to: Endpoint) -> Option<Name> {
        let mut trying = self.suspicions.iter().filter(|(name, suspicion)| {
            suspicion.refusal == Refusal::Trying
                && self.members.get(*name).is_some_and(|member| member.endpoint == to)
        });
        trying.next().map(|(name, _)| Arc::clone(name))
    }

    /// Its system didn't refuse: the suspicion takes its whole time.
    pub(super) fn excuse(&mut self, name: &Name) {
        if let Some(suspicion) = self.suspicions.get_mut(name) {
            suspicion.refusal = Refusal::None;
        }
    }
}
