//! Keys and values: shared bytes, so that a row in a table costs no copy of what a command carried.

use alloc::{sync::Arc, vec::Vec};
use core::{borrow::Borrow, fmt, ops::Deref};

use bincode::{
    Decode, Encode,
    de::Decoder,
    enc::Encoder,
    error::{DecodeError, EncodeError},
};

use crate::codec::shared;

macro_rules! shared_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Arc<[u8]>);

        impl Default for $name {
            fn default() -> Self {
                Self(Arc::from([]))
            }
        }

        impl Deref for $name {
            type Target = [u8];
            fn deref(&self) -> &[u8] {
                &self.0
            }
        }

        // Equal to the order, equality and hash of the bytes: those of `Arc<[u8]>` are.
        impl Borrow<[u8]> for $name {
            fn borrow(&self) -> &[u8] {
                &self.0
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl From<&[u8]> for $name {
            fn from(bytes: &[u8]) -> Self {
                Self(bytes.into())
            }
        }

        impl<const N: usize> From<&[u8; N]> for $name {
            fn from(bytes: &[u8; N]) -> Self {
                Self(bytes.as_slice().into())
            }
        }

        impl From<Vec<u8>> for $name {
            fn from(bytes: Vec<u8>) -> Self {
                Self(bytes.into())
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.as_bytes().into())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                debug(&self.0, f)
            }
        }

        impl Encode for $name {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                shared::encode(&self.0, encoder)
            }
        }

        impl<C> Decode<C> for $name {
            fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
                shared::decode(decoder).map(Self)
            }
        }

        bincode::impl_borrow_decode!($name);
    };
}

shared_bytes!(
    /// A key, or a prefix of keys: any bytes, ordered as bytes.
    Key
);
shared_bytes!(
    /// What stands under a key: any bytes.
    Value
);
shared_bytes!(
    /// A piece of a restored snapshot.
    Chunk
);

fn debug(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match core::str::from_utf8(bytes) {
        Ok(text) if text.len() < 64 => write!(f, "{text:?}"),
        _ => write!(f, "[{} bytes]", bytes.len()),
    }
}
