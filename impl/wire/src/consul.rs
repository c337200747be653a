//! Consul's user events: how they travel in the payload of Serf's (Consul's `agent/user_event.go`).
//!
//! A payload is a msgpack map. Filters that are empty are left out of it, and so is an empty payload.

use crate::{
    Refused,
    msgpack::{Reader, Writer},
};

/// What the names of Consul's events begin with, among Serf's.
pub const EVENT_PREFIX: &str = "consul:event:";
/// The version of the encoding that is understood (Consul's `userEventMaxVersion`).
const VERSION: u64 = 1;

/// A user event of Consul's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserEvent<'a> {
    /// A UUID.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What it says.
    pub payload: &'a [u8],
    /// For agents whose node's name this regular expression matches; for all, if empty.
    pub node_filter: &'a str,
    /// For agents that have a service whose name this regular expression matches.
    pub service_filter: &'a str,
    /// For agents that have such a service with a tag that this regular expression matches.
    pub tag_filter: &'a str,
}

impl<'a> UserEvent<'a> {
    /// Takes apart the payload of an event of Serf's.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Refused> {
        let (mut event, mut version) = (Self::default(), 0);
        Reader::new(bytes).fields(|field, reader| {
            match field {
                b"ID" => event.id = reader.text()?,
                b"n" => event.name = reader.text()?,
                b"p" => event.payload = reader.bytes()?,
                b"nf" => event.node_filter = reader.text()?,
                b"sf" => event.service_filter = reader.text()?,
                b"tf" => event.tag_filter = reader.text()?,
                b"v" => version = reader.u64()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        // What a newer version means is not known here: better not heeded than misread.
        if version > VERSION { Err(Refused::Range) } else { Ok(event) }
    }

    /// Appends the payload of an event of Serf's.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let texts = [
            ("n", self.name.as_bytes()),
            ("nf", self.node_filter.as_bytes()),
            ("p", self.payload),
            ("sf", self.service_filter.as_bytes()),
            ("tf", self.tag_filter.as_bytes()),
        ];
        let filled = || texts.into_iter().filter(|(key, text)| *key == "n" || !text.is_empty());
        let mut writer = Writer::new(out);
        writer.map(filled().count() + 2).text("ID").text(self.id);
        for (key, text) in filled() {
            writer.text(key).bytes(text);
        }
        writer.text("v").u64(VERSION);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_comes_back_without_what_is_empty() {
        let event = UserEvent {
            id: "43317bc7-1558-1e85-b939-b3930a7f742d",
            name: "deploy",
            payload: b"pay",
            node_filter: "^s",
            tag_filter: "v1",
            ..UserEvent::default()
        };
        let mut bytes = Vec::new();
        event.encode(&mut bytes);
        assert_eq!(&bytes[..4], b"\x86\xa2ID", "six of seven fields");
        assert_eq!(UserEvent::decode(&bytes), Ok(event));
    }

    #[test]
    fn what_is_no_event_of_this_version_is_refused() {
        assert_eq!(UserEvent::decode(b""), Err(Refused::Truncated));
        assert_eq!(UserEvent::decode(b"\x81\xa1v\x02"), Err(Refused::Range));
        assert_eq!(UserEvent::decode(b"\x81\xa1n\xc3"), Err(Refused::Type));
        assert_eq!(UserEvent::decode(b"\xff"), Err(Refused::Type));
    }
}
