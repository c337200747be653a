//! Texts and pairs of texts in rows: shared, and nothing at all where they are empty, as most fields of a check are.

use alloc::{collections::BTreeMap, string::String, sync::Arc, vec::Vec};
use core::{borrow::Borrow, fmt, ops::Deref};

use bincode::{
    Decode, Encode,
    de::Decoder,
    enc::Encoder,
    error::{DecodeError, EncodeError},
};

use super::Key;

/// A shared text; an empty one holds no memory.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Option<Arc<str>>);

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self((!text.is_empty()).then(|| text.into()))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

// Equal to the order and equality of the texts: the empty one is the least of both.
impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &**self)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl Encode for Text {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        let text: &str = self;
        text.encode(encoder)
    }
}

impl<C> Decode<C> for Text {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        String::decode(decoder).map(Self::from)
    }
}

bincode::impl_borrow_decode!(Text);

/// Names and values, each name once, in order.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pairs(Arc<[(Text, Text)]>);

impl Pairs {
    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The value under a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(other, _)| (**other).cmp(name)).ok()?;
        self.0.get(at).map(|(_, value)| &**value)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<A: AsRef<str>, B: AsRef<str>> FromIterator<(A, B)> for Pairs {
    /// Of a name that comes twice, the last value stays.
    fn from_iter<T: IntoIterator<Item = (A, B)>>(pairs: T) -> Self {
        let text = |text: &str| Text::from(text);
        let sorted: BTreeMap<Text, Text> = pairs
            .into_iter()
            .map(|(name, value)| (text(name.as_ref()), text(value.as_ref())))
            .collect();
        Self(sorted.into_iter().collect())
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Encode for Pairs {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.encode(encoder)
    }
}

impl<C> Decode<C> for Pairs {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let pairs = Vec::<(Text, Text)>::decode(decoder)?;
        // In another order, or with a name twice, they would be other bytes for the same pairs.
        if pairs.is_sorted_by(|(one, _), (other, _)| one < other) {
            Ok(Self(pairs.into()))
        } else {
            Err(DecodeError::Other("pairs out of order"))
        }
    }
}

bincode::impl_borrow_decode!(Pairs);

/// The one canonical form of a name of a node, a service or a check, by which it is found and compared everywhere.
///
/// Letters of ASCII count as small. Others don't change: what is small is a matter of the Unicode version that a server
/// was built with, and servers of two builds would have two states.
pub fn canonical(name: &str) -> Key {
    Key::from(name.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{self, RPC_LIMIT};

    #[test]
    fn an_empty_text_is_the_least_and_holds_nothing() {
        assert_eq!(Text::from(""), Text::default());
        assert!(Text::default() < Text::from("\0"));
        let bytes = codec::encode(&Text::default());
        assert_eq!(codec::decode::<Text, RPC_LIMIT>(&bytes), Ok(Text::default()));
    }

    #[test]
    fn pairs_are_sorted_and_named_once() {
        let pairs: Pairs = [("b", "1"), ("a", "2"), ("b", "3")].into_iter().collect();
        assert!(pairs.iter().eq([("a", "2"), ("b", "3")]));
        assert_eq!(pairs.get("b"), Some("3"));
        assert_eq!(pairs.get("c"), None);
        let bytes = codec::encode(&pairs);
        assert_eq!(codec::decode::<Pairs, RPC_LIMIT>(&bytes), Ok(pairs));
        let twice = codec::encode(&[("a", "1"), ("a", "2")].as_slice());
        assert!(codec::decode::<Pairs, RPC_LIMIT>(&twice).is_err());
    }

    #[test]
    fn names_are_compared_without_regard_to_the_case_of_ascii() {
        assert_eq!(canonical("Web-1"), canonical("wEB-1"));
        assert_ne!(canonical("Ä"), canonical("ä"));
    }
}
