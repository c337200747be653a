//! The query string as Go's `url.Values`: decoded pairs, looked up by name, encoded back in order of names.

use std::borrow::Cow;

use super::path::{is_unreserved, push_escaped, unescape};

/// Parameters in the order that they came; a name may repeat.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Values<'a>(Vec<Pair<'a>>);

type Pair<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

impl<'a> Values<'a> {
    /// Reads a query string; `None` where an escape in it is malformed (rule H6: 500 with an empty body).
    ///
    /// Pairs are parted by `&` and by `;`, as Go did when Consul 1.8.7 was built.
    pub fn read(query: Option<&'a str>) -> Option<Self> {
        let mut pairs = Vec::new();
        for pair in query.unwrap_or_default().as_bytes().split(|byte| matches!(byte, b'&' | b';')) {
            if pair.is_empty() {
                continue;
            }
            let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
                Some(equals) => (&pair[..equals], &pair[equals + 1..]),
                None => (pair, &b""[..]),
            };
            pairs.push((unescape(name, true)?, unescape(value, true)?));
        }
        Some(Self(pairs))
    }

    /// Whether there is no parameter at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first value under this name; a parameter without a value has an empty one.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| **known == *name.as_bytes()).map(|(_, value)| &**value)
    }

    /// All values under this name.
    pub fn all<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b [u8]> {
        let pairs = self.0.iter().filter(move |(known, _)| **known == *name.as_bytes());
        pairs.map(|(_, value)| &**value)
    }

    /// The first value under this name, unless it is empty.
    pub fn get_filled(&self, name: &str) -> Option<&[u8]> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Whether the parameter was given.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The parameters as `url.Values.Encode` gives them back: sorted by name.
    pub fn encode(&self) -> String {
        let mut pairs: Vec<_> = self.0.iter().collect();
        pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut encoded = String::new();
        for (name, value) in pairs {
            if !encoded.is_empty() {
                encoded.push('&');
            }
            escape(&mut encoded, name);
            encoded.push('=');
            escape(&mut encoded, value);
        }
        encoded
    }
}

fn escape(encoded: &mut String, text: &[u8]) {
    for &byte in text {
        match byte {
            b' ' => encoded.push('+'),
            _ if is_unreserved(byte) => encoded.push(char::from(byte)),
            _ => push_escaped(encoded, byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_go_reads_them() {
        let values = Values::read(Some("keys&separator=%2F&a+b=c+d&&=x&keys=2;raw")).unwrap();
        assert_eq!(values.get("keys"), Some(&b""[..]));
        assert_eq!(values.get_filled("keys"), None);
        assert_eq!(values.get("separator"), Some(&b"/"[..]));
        assert_eq!(values.get("a b"), Some(&b"c d"[..]));
        assert_eq!(values.get(""), Some(&b"x"[..]));
        assert!(values.has("raw"));
        assert!(!values.has("recurse"));
        assert!(Values::read(None).unwrap().is_empty());
        assert_eq!(Values::read(Some("x=%zz")), None);
        assert_eq!(Values::read(Some("%=1")), None);
    }

    #[test]
    fn conflicting_parameters_are_listed_sorted_and_encoded() {
        let encoded = |query| Values::read(Some(query)).unwrap().encode();
        assert_eq!(encoded("cas=1&acquire=abc"), "acquire=abc&cas=1");
        assert_eq!(encoded("recurse&cas=1"), "cas=1&recurse=");
        assert_eq!(encoded("b=%2F+x&a=~"), "a=~&b=%2F+x");
    }
}
