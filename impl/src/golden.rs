//! What servers say to each other besides Raft's messages, held to fixed bytes: a change there is a new version of the
//! protocol. (Those of `spec` are in `spec/tests/golden.rs`.)

use std::fmt::{Debug, Write as _};

use bincode::{Decode, Encode};
use spec::codec::{self, CodecError, RPC_LIMIT};

/// Each value has these bytes, and is what they decode to. The kinds of an enum are all there: `kinds` says how many.
pub(crate) fn stand_still<T>(kinds: u8, vectors: Vec<(T, &str)>)
where
    T: Encode + Decode<()> + Debug + PartialEq,
{
    for (value, golden) in vectors {
        let bytes = codec::encode(&value);
        let hex = bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        assert_eq!(hex, golden.replace(char::is_whitespace, ""), "{value:?}");
        assert_eq!(codec::decode::<T, RPC_LIMIT>(&bytes), Ok(value));
    }
    // Zeros are enough of every kind's fields.
    let is_kind = |kind| {
        let mut bytes = vec![0; 200];
        bytes[0] = kind;
        matches!(codec::decode::<T, RPC_LIMIT>(&bytes), Err(CodecError::Trailing))
    };
    assert!((0..kinds).all(is_kind), "a kind is gone");
    assert!(!is_kind(kinds), "a kind was added");
}
