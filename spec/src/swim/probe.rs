//! The failure detector (SWIM §3, §4.3, Lifeguard §IV.A): one member is probed in each period, directly, then through
//! relays and over a stream.

use alloc::{sync::Arc, vec, vec::Vec};

use super::{
    interface::{Dropped, Output, Timer},
    member::Word,
    message::{Ack, IndirectPing, Message, Nack, Part, Ping, Suspect},
    node::{Node, Turn},
    types::{Endpoint, Incarnation, Layer, Member, Name, Peer, Status},
};
use crate::{machine::Effect, time::Instant};

/// A probe that runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Probe {
    /// Who is probed.
    pub name: Name,
    /// Where it was at the beginning.
    pub endpoint: Endpoint,
    /// Its incarnation at the beginning: what is accused if nobody answers. One that it took since has refuted that.
    pub incarnation: Incarnation,
    /// The pings' number.
    pub seq: u32,
    /// When it began.
    pub sent: Instant,
    /// The health when it began, by which its period is scaled.
    pub health: u32,
    /// Only the direct ping was sent yet.
    pub direct: bool,
    /// How many relays promised to say that they got no ack.
    pub expected_nacks: u32,
    /// How many did.
    pub nacks: u32,
    /// The member answered over a stream.
    pub stream_acked: bool,
    /// Its system refused a stream.
    pub refused: bool,
}

/// A ping for another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Relay {
    /// Where the answer goes.
    pub back: Peer,
    /// The number that the answer bears.
    pub seq: u32,
    /// A nack is wanted.
    pub wants_nack: bool,
}

impl<L: Layer> Node<L> {
    /// Moves the health.
    pub(super) fn feel(&mut self, delta: i64, turn: &mut Turn<'_, '_, L>) {
        if self.awareness.apply(delta, self.config.awareness_max) {
            self.emit(Output::Health(self.awareness.0), turn);
        }
    }

    pub(super) fn next_seq(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// A period is over: what ran is judged, and the next member's turn comes.
    pub(super) fn next_period(&mut self, turn: &mut Turn<'_, '_, L>) {
        turn.effects.push(Effect::Disarm { timer: Timer::ProbeTimeout });
        if let Some(probe) = self.probe.take() {
            self.judge(probe, turn);
        }
        let mut delay = self.config.probe_interval;
        if let Some(target) = self.next_target(turn) {
            self.begin_probe(&target, turn);
            delay = self.awareness.scale(delay);
        }
        turn.effects.push(Effect::Arm { timer: Timer::Probe, delay });
    }

    /// The next member in the round. At its end those gone for long are forgotten, and a new order is drawn: so each
    /// member is probed once a round, and the time between two probes of it is bounded.
    fn next_target(&mut self, turn: &mut Turn<'_, '_, L>) -> Option<Member> {
        // All of them, and the wrap.
        for _ in 0..=self.order.len() {
            if self.next >= self.order.len() {
                self.next = 0;
                self.reap(turn);
                shuffle(&mut self.order, turn);
            }
            let name = self.order.get(self.next)?;
            self.next += 1;
            match self.members.get(name) {
                Some(member) if !member.status.is_gone() => return Some(member.clone()),
                _ => {}
            }
        }
        None
    }

    pub(super) fn ping(&self, seq: u32, target: &Name) -> Ping {
        Ping {
            seq,
            target: Arc::clone(target),
            source: Some(Arc::clone(&self.config.name)),
            source_endpoint: Some(self.config.endpoint),
        }
    }

    fn begin_probe(&mut self, target: &Member, turn: &mut Turn<'_, '_, L>) {
        let seq = self.next_seq();
        let mut parts = vec![Part::Ping(self.ping(seq, &target.name))];
        if target.status == Status::Suspect {
            // Lifeguard's buddy: the suspect is the one that most needs to hear of it.
            parts.push(Part::Suspect(Suspect {
                incarnation: target.incarnation,
                node: Arc::clone(&target.name),
                from: Arc::clone(&self.config.name),
            }));
        }
        self.probe = Some(Probe {
            name: Arc::clone(&target.name),
            endpoint: target.endpoint,
            incarnation: target.incarnation,
            seq,
            sent: turn.cx.now,
            health: self.awareness.0,
            direct: true,
            expected_nacks: 0,
            nacks: 0,
            stream_acked: false,
            refused: false,
        });
        let delay = self.config.probe_timeout;
        turn.effects.push(Effect::Arm { timer: Timer::ProbeTimeout, delay });
        self.send_packet(Peer::Endpoint(target.endpoint), parts, turn);
    }

    /// The direct ping wasn't answered in time: relays ping too, and a stream is tried at the same time.
    pub(super) fn probe_timed_out(&mut self, turn: &mut Turn<'_, '_, L>) {
        let Some(mut probe) = self.probe.take_if(|probe| probe.direct) else { return };
        probe.direct = false;
        let relays = self.random_members(self.config.indirect_checks, turn, |member| {
            member.name != probe.name && member.status == Status::Alive
        });
        for relay in relays {
            let wants_nack = relay.versions.has_nack();
            probe.expected_nacks += u32::from(wants_nack);
            let ping = IndirectPing {
                seq: probe.seq,
                target: Arc::clone(&probe.name),
                target_endpoint: probe.endpoint,
                wants_nack,
                source: Some(Arc::clone(&self.config.name)),
                source_endpoint: Some(self.config.endpoint),
            };
            let parts = vec![Part::IndirectPing(ping)];
            self.send_packet(Peer::Endpoint(relay.endpoint), parts, turn);
        }
        let streams = self.members.get(&probe.name).is_some_and(|m| m.versions.has_stream_ping());
        if streams && !self.config.disable_stream_pings {
            let ping = self.ping(probe.seq, &probe.name);
            self.send(Peer::Endpoint(probe.endpoint), Message::StreamPing(ping), turn);
        }
        self.probe = Some(probe);
    }

    /// The probed member answered: the rest of the period is waited out, as its length is at health 0.
    fn probe_succeeded(&mut self, probe: &Probe, turn: &mut Turn<'_, '_, L>) {
        turn.effects.push(Effect::Disarm { timer: Timer::ProbeTimeout });
        self.suspect_answered(&probe.name, turn);
        if probe.health > 0 {
            let period = self.config.probe_interval.as_micros().max(1);
            let elapsed = turn.cx.now.since(probe.sent).as_micros() % period;
            let micros = u64::try_from(period - elapsed).unwrap_or(u64::MAX);
            let delay = core::time::Duration::from_micros(micros);
            turn.effects.push(Effect::Arm { timer: Timer::Probe, delay });
        }
        self.feel(-1, turn);
    }

    /// Nobody answered within the period, or only over a stream.
    fn judge(&mut self, probe: Probe, turn: &mut Turn<'_, '_, L>) {
        if probe.stream_acked {
            self.feel(-1, turn);
            self.emit(Output::OnlyStreams(probe.name), turn);
            return;
        }
        // Relays that say nothing, not even that they heard nothing, show that this member doesn't hear.
        let missing = i64::from(probe.expected_nacks) - i64::from(probe.nacks);
        self.feel(if probe.expected_nacks > 0 { missing } else { 1 }, turn);
        let suspect = Suspect {
            incarnation: probe.incarnation,
            node: Arc::clone(&probe.name),
            from: Arc::clone(&self.config.name),
        };
        self.hear_suspect(suspect, Word::Own, turn);
        if probe.refused {
            self.hasten(&probe.name, probe.incarnation, turn);
        }
    }

    pub(super) fn hear_ack(&mut self, ack: Ack, turn: &mut Turn<'_, '_, L>) {
        if let Some(probe) = self.probe.take_if(|probe| probe.seq == ack.seq) {
            if probe.direct {
                let micros = turn.cx.now.since(probe.sent).as_micros();
                let micros = u64::try_from(micros).unwrap_or(u64::MAX);
                let (name, payload) = (Arc::clone(&probe.name), ack.payload);
                let payload = payload.filter(|bytes| bytes.len() <= super::types::MAX_PAYLOAD);
                self.emit(Output::Rtt { name, micros, payload }, turn);
            }
            self.probe_succeeded(&probe, turn);
        } else if let Some(relay) = self.relays.remove(&ack.seq) {
            turn.effects.push(Effect::Disarm { timer: Timer::Relay(ack.seq) });
            let ack = Ack { seq: relay.seq, payload: None };
            self.send_packet(relay.back, vec![Part::Ack(ack)], turn);
        } else {
            self.dropped(Dropped::Unsolicited, turn);
        }
    }

    pub(super) fn hear_nack(&mut self, nack: Nack, turn: &mut Turn<'_, '_, L>) {
        match &mut self.probe {
            Some(probe) if probe.seq == nack.seq && probe.nacks < probe.expected_nacks => {
                probe.nacks += 1;
            }
            _ => self.dropped(Dropped::Unsolicited, turn),
        }
    }

    pub(super) fn hear_stream_ack(&mut self, from: Peer, ack: &Ack, turn: &mut Turn<'_, '_, L>) {
        match &mut self.probe {
            Some(probe) if probe.seq == ack.seq && from == Peer::Endpoint(probe.endpoint) => {
                probe.stream_acked = true;
            }
            _ => {
                let suspect = match from {
                    Peer::Endpoint(at) => self.trying(at),
                    Peer::Stream(_) => None,
                };
                match suspect {
                    Some(name) => self.excuse(&name),
                    None => self.dropped(Dropped::Unsolicited, turn),
                }
            }
        }
    }

    /// Whether a ping is for this member.
    fn is_for_me(&self, target: &Name) -> bool {
        target.is_empty() || *target == self.config.name
    }

    /// Where an answer goes: to where the sender says that it receives, if a member is known to, else to where the
    /// message came from. Else anybody could have answers sent to anybody.
    fn reply_to(&self, from: Peer, source: Option<&Name>, endpoint: Option<Endpoint>) -> Peer {
        let known = source.and_then(|name| self.members.get(name)).map(|member| member.endpoint);
        endpoint.filter(|endpoint| known == Some(*endpoint)).map_or(from, Peer::Endpoint)
    }

    pub(super) fn hear_ping(&mut self, from: Peer, ping: &Ping, turn: &mut Turn<'_, '_, L>) {
        if !self.is_for_me(&ping.target) {
            self.dropped(Dropped::Misdirected, turn);
            return;
        }
        let back = self.reply_to(from, ping.source.as_ref(), ping.source_endpoint);
        let ack = Ack { seq: ping.seq, payload: None };
        self.send_packet(back, vec![Part::Ack(ack)], turn);
    }

    pub(super) fn hear_stream_ping(&mut self, from: Peer, ping: &Ping, turn: &mut Turn<'_, '_, L>) {
        if !self.is_for_me(&ping.target) {
            self.dropped(Dropped::Misdirected, turn);
            return;
        }
        let ack = Ack { seq: ping.seq, payload: None };
        self.send(from, Message::StreamAck(ack), turn);
    }

    pub(super) fn hear_indirect_ping(
        &mut self,
        from: Peer,
        ping: &IndirectPing,
        turn: &mut Turn<'_, '_, L>,
    ) {
        let back = self.reply_to(from, ping.source.as_ref(), ping.source_endpoint);
        let known = self.members.get(&ping.target).map(|member| member.endpoint);
        // Only members are pinged for others: else an outsider could aim datagrams at anybody.
        if known != Some(ping.target_endpoint) || self.relays.len() >= self.config.max_relays {
            self.dropped(Dropped::Relay, turn);
            if ping.wants_nack {
                // Whoever asked hears well, and must not doubt itself.
                self.send_packet(back, vec![Part::Nack(Nack { seq: ping.seq })], turn);
            }
            return;
        }
        let seq = self.next_seq();
        let relay = Relay { back, seq: ping.seq, wants_nack: ping.wants_nack };
        self.relays.insert(seq, relay);
        // Where a period is two timeouts long, a nack after a whole one would always come too late.
        let delay = self.config.probe_timeout * 4 / 5;
        turn.effects.push(Effect::Arm { timer: Timer::Relay(seq), delay });
        let parts: Vec<Part<L>> = vec![Part::Ping(self.ping(seq, &ping.target))];
        self.send_packet(Peer::Endpoint(ping.target_endpoint), parts, turn);
    }

    /// The target of a relayed ping didn't answer.
    pub(super) fn relay_timed_out(&mut self, seq: u32, turn: &mut Turn<'_, '_, L>) {
        let Some(relay) = self.relays.remove(&seq) else { return };
        if relay.wants_nack {
            self.send_packet(relay.back, vec![Part::Nack(Nack { seq: relay.seq })], turn);
        }
    }
}

/// Draws a new order (Fisher and Yates).
fn shuffle<L: Layer>(order: &mut [Name], turn: &mut Turn<'_, '_, L>) {
    for last in (1..order.len()).rev() {
        let at = turn.cx.entropy.choose(last + 1).min(last);
        order.swap(at, last);
    }
}
