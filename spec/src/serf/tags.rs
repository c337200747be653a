//! Tags, and the metadata that carries them (SERF-18; Serf's `encodeTags`).
//!
//! To SWIM a member's metadata is bytes. Serf's are 0xFF and a MessagePack map of strings, in the old form that has no
//! type of its own for text. The form stands here, and not with the other encodings: who may join is judged by tags, and
//! the machine judges it.

use alloc::{collections::BTreeMap, string::String, sync::Arc, vec::Vec};

use crate::swim::{MemberState, types::MAX_META};

/// A member's tags.
pub type Tags = BTreeMap<Arc<str>, Arc<str>>;

/// Opens metadata that holds a map of tags.
const MAGIC: u8 = 0xff;

/// The metadata for tags; none where it would be longer than a member's metadata may be.
pub fn encode(tags: &Tags) -> Option<Arc<[u8]>> {
    let mut meta = Vec::from([MAGIC]);
    match u16::try_from(tags.len()) {
        Ok(len @ 0..=15) => meta.push(0x80 | u8::try_from(len).ok()?),
        Ok(len) => {
            meta.push(0xde);
            meta.extend(len.to_be_bytes());
        }
        Err(_) => return None,
    }
    for text in tags.iter().flat_map(|(tag, value)| [tag, value]) {
        match u16::try_from(text.len()) {
            Ok(len @ 0..=31) => meta.push(0xa0 | u8::try_from(len).ok()?),
            Ok(len) => {
                meta.push(0xda);
                meta.extend(len.to_be_bytes());
            }
            Err(_) => return None,
        }
        meta.extend(text.as_bytes());
    }
    (meta.len() <= MAX_META).then(|| meta.into())
}

/// The tags in metadata. Total: metadata without the opening byte is a role (Serf's form before tags), and what can't
/// be read ends the map.
pub fn decode(meta: &[u8]) -> Tags {
    let mut tags = Tags::new();
    let Some((first, mut rest)) = meta.split_first() else { return tags };
    if *first != MAGIC {
        tags.insert("role".into(), String::from_utf8_lossy(meta).into());
        return tags;
    }
    let Some(count) = map_len(&mut rest) else { return tags };
    for _ in 0..count {
        let (Some(tag), Some(value)) = (text(&mut rest), text(&mut rest)) else { break };
        tags.insert(tag, value);
    }
    tags
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

fn number(rest: &mut &[u8], bytes: usize) -> Option<usize> {
    Some(take(rest, bytes)?.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)))
}

fn map_len(rest: &mut &[u8]) -> Option<usize> {
    match take(rest, 1)?.first()? {
        short @ 0x80..=0x8f => Some(usize::from(short & 0x0f)),
        0xde => number(rest, 2),
        0xdf => number(rest, 4),
        _ => None,
    }
}

fn text(rest: &mut &[u8]) -> Option<Arc<str>> {
    let len = match take(rest, 1)?.first()? {
        // `nil` is an empty text to Go. It doesn't end the map: behind it may stand the datacenter.
        0xc0 => 0,
        short @ 0xa0..=0xbf => usize::from(short & 0x1f),
        0xd9 | 0xc4 => number(rest, 1)?,
        0xda | 0xc5 => number(rest, 2)?,
        0xdb | 0xc6 => number(rest, 4)?,
        _ => return None,
    };
    Some(String::from_utf8_lossy(take(rest, len)?).into())
}

/// Whom a pool admits, by tags (Consul's merge delegates). The default admits everybody, as Serf does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rules {
    /// This member's name: it is admitted under any tags.
    pub name: Arc<str>,
    /// Consul's agents of other datacenters are refused (LAN).
    pub datacenter: Option<Arc<str>>,
    /// Only Consul servers are admitted (WAN).
    pub servers_only: bool,
    /// This agent's node id: nobody else may have it.
    pub node_id: Option<Arc<str>>,
}

/// Whether these are the tags of a server: Consul's, or ours.
pub(super) fn is_server(tags: &Tags) -> bool {
    tags.get("role").is_some_and(|role| **role == *"consul")
}

/// Judges a member. Members that aren't Consul's agents have no datacenter and pass on a LAN.
pub(super) fn admit(member: &MemberState, rules: &Rules) -> Result<(), &'static str> {
    if *member.name == *rules.name {
        return Ok(());
    }
    let tags = decode(&member.meta);
    let role = tags.get("role").map(|role| &**role);
    if let (Some(own), Some(id)) = (&rules.node_id, tags.get("id"))
        && !id.is_empty()
        && own == id
    {
        return Err("has conflicting node ID with this agent's ID");
    }
    if let Some(datacenter) = &rules.datacenter
        && matches!(role, Some("node" | "consul"))
        && tags.get("dc") != Some(datacenter)
    {
        return Err("part of wrong datacenter");
    }
    if rules.servers_only && !is_server(&tags) {
        return Err("is not a server");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(tag, value)| ((*tag).into(), (*value).into())).collect()
    }

    #[test]
    fn servers_have_the_whole_time_to_come_back() {
        use crate::{serf::SerfLayer, swim::Layer as _};
        let soon = |role| SerfLayer::is_soon_missed(&encode(&tags(&[("role", role)])).unwrap());
        assert_eq!(["node", "consul"].map(soon), [true, false]);
        assert!(SerfLayer::is_soon_missed(b""));
    }

    #[test]
    fn tags_have_serfs_bytes_and_come_back() {
        let few = tags(&[("dc", "a"), ("role", "node")]);
        let meta = encode(&few).unwrap();
        assert_eq!(&*meta, b"\xff\x82\xa2dc\xa1a\xa4role\xa4node");
        assert_eq!(decode(&meta), few);
        let long = tags(&[("id", "0123456789abcdef0123456789abcdef0123")]);
        assert_eq!(&encode(&long).unwrap()[..8], b"\xff\x81\xa2id\xda\x00\x24");
        assert_eq!(decode(&encode(&long).unwrap()), long);
    }

    #[test]
    fn metadata_that_is_too_long_is_refused_and_damaged_metadata_is_read_as_far_as_it_goes() {
        assert_eq!(encode(&tags(&[("k", &"v".repeat(600))])), None);
        assert_eq!(decode(b""), tags(&[]));
        assert_eq!(decode(b"web"), tags(&[("role", "web")]));
        assert_eq!(decode(b"\xff\xdf\xff\xff\xff\xff\xa1a\xa1b\xa9"), tags(&[("a", "b")]));
        assert_eq!(decode(&[0xff; 9]), tags(&[]));
        assert_eq!(decode(b"\xff\x82\xa1a\xc0\xa1b\xa1c"), tags(&[("a", ""), ("b", "c")]));
    }
}
