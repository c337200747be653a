//! Inputs and outputs in short lines.

use std::fmt;

use proconsul::gossip::turn::Input;
use spec::{
    serf::{Message as SerfMessage, Output, SerfLayer},
    swim::{self, Message, Part},
};

/// An input in one short line.
pub struct Brief<'a>(pub &'a Input);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Input::Message { from, message: Message::Packet(parts) } => {
                write!(f, "{from:?}:")?;
                parts.iter().try_for_each(|part| write!(f, " {}", BriefPart(part)))
            }
            Input::Message { from, message: Message::PushPull(table) } => {
                let kind = match (table.reply, table.join) {
                    (true, _) => "answer",
                    (false, true) => "join",
                    (false, false) => "table",
                };
                write!(f, "{from:?}: {kind}")?;
                table.members.iter().try_for_each(|member| {
                    write!(f, " {} {:?} {:?}", member.name, member.status, member.incarnation)
                })
            }
            Input::Message { from, message } => write!(f, "{from:?}: {message:?}"),
            Input::Durable(ticket) => write!(f, "{ticket:?} is durable"),
            Input::Command(command) => write!(f, "{command:?}"),
        }
    }
}

struct BriefPart<'a>(&'a Part<SerfLayer>);

impl fmt::Display for BriefPart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Part::Ping(ping) => write!(f, "ping-{}", ping.seq),
            Part::IndirectPing(ping) => write!(f, "relay-{}-to-{}", ping.seq, ping.target),
            Part::Ack(ack) => write!(f, "ack-{}", ack.seq),
            Part::Nack(nack) => write!(f, "nack-{}", nack.seq),
            Part::Suspect(said) => {
                write!(f, "suspect-{}-{:?}-by-{}", said.node, said.incarnation, said.from)
            }
            Part::Alive(said) => write!(f, "alive-{}-{:?}", said.node, said.incarnation),
            Part::Dead(said) => {
                write!(f, "dead-{}-{:?}-by-{}", said.node, said.incarnation, said.from)
            }
            Part::User(SerfMessage::Join(intent)) => {
                write!(f, "join-{}-{}", intent.node, intent.ltime.0)
            }
            Part::User(SerfMessage::Leave(intent)) => {
                write!(f, "leave-{}-{}", intent.node, intent.ltime.0)
            }
            Part::User(SerfMessage::UserEvent(event)) => {
                write!(f, "event-{}-{}", event.event.name, event.ltime.0)
            }
            Part::User(message) => write!(f, "{message:?}"),
        }
    }
}

/// What a host is told, in a few words; none where it is of no interest.
pub fn told(output: &Output) -> Option<String> {
    Some(match output {
        Output::Joined { member, .. } => format!("joined {} {:?}", member.name, member.incarnation),
        Output::Updated(member) => format!("updated {} {:?}", member.name, member.incarnation),
        Output::Failed(member) => format!("failed {} {:?}", member.name, member.incarnation),
        Output::Left(member) => format!("left {} {:?}", member.name, member.incarnation),
        Output::Reaped { member, status } => format!("reaped {} {status:?}", member.name),
        Output::Event { ltime, event, .. } => format!("event {} {}", event.name, ltime.0),
        Output::Conflict { known, endpoint } => format!("conflict {} {endpoint}", known.name),
        Output::Swim(swim::Output::Health(_)) | Output::Rtt { .. } | Output::Keyring(_) => {
            return None;
        }
        output => format!("{output:?}"),
    })
}
