//! A member's metadata as Serf writes it: the byte 255, then the tags as a msgpack map from text to text. Serf below
//! protocol 3 wrote the bare text of its role instead.

use crate::{
    Refused,
    msgpack::{Reader, Writer},
};

/// What begins metadata that holds tags. No UTF-8 text does, so no role can be taken for tags.
const MAGIC: u8 = 255;

/// The tags in a member's metadata, in the order of the wire, which is random in Go. Old metadata gives the one tag
/// `role`, which is what Serf makes of it.
pub fn decode(meta: &[u8]) -> Result<Vec<(&str, &str)>, Refused> {
    let Some((&MAGIC, map)) = meta.split_first() else {
        let role = str::from_utf8(meta).map_err(|_| Refused::Text)?;
        return Ok(vec![("role", role)]);
    };
    let mut reader = Reader::new(map);
    let mut tags = Vec::new();
    for _ in 0..reader.map()? {
        tags.push((reader.text()?, reader.text()?));
    }
    Ok(tags)
}

/// The metadata of these tags. It may have up to [`crate::limits::META`] bytes: Serf refuses to start with more.
pub fn encode<'a>(tags: impl ExactSizeIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut out = vec![MAGIC];
    let mut writer = Writer::new(&mut out);
    writer.map(tags.len());
    for (name, value) in tags {
        writer.text(name).text(value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_back() {
        let tags = [("dc", "dc1"), ("id", "4c3a2b1e-0f5d-4d0e-9b1c-000000000000"), ("empty", "")];
        let meta = encode(tags.into_iter());
        assert_eq!(decode(&meta), Ok(tags.to_vec()));
        assert_eq!(decode(&encode([].into_iter())), Ok(vec![]));
    }

    #[test]
    fn metadata_without_the_magic_byte_is_a_role() {
        assert_eq!(decode(b"web"), Ok(vec![("role", "web")]));
        assert_eq!(decode(b""), Ok(vec![("role", "")]));
    }

    #[test]
    fn tags_that_end_early_are_refused() {
        assert_eq!(decode(&[255]), Err(Refused::Truncated));
        assert_eq!(decode(&[255, 0xdf, 255, 255, 255, 255]), Err(Refused::Truncated));
        assert_eq!(decode(&[254]), Err(Refused::Text));
    }
}
