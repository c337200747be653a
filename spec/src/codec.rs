//! The one place that encodes: bincode 2 in frames, with limits.
//!
//! A frame is `length: u32 LE | version: u8 | body`, where the length counts version and body. Decoding is native
//! (never through serde, whose lengths bypass the limit), bounded, and refuses trailing bytes. Types on the wire are
//! not recursive, their enums are append-only, and their bytes are frozen by golden vectors.

use alloc::vec::Vec;

use bincode::{
    Decode, Encode,
    config::{self, Configuration, Limit, LittleEndian, Varint},
};

/// The version byte of every frame.
pub const VERSION: u8 = 1;
/// The longest frame between servers, in bytes.
pub const RPC_LIMIT: usize = 4 << 20;
/// The longest record in the log and in a snapshot, in bytes.
pub const RECORD_LIMIT: usize = 16 << 20;

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CodecError {
    /// Longer than the channel allows.
    TooLong,
    /// A version that this build doesn't speak.
    Version(u8),
    /// Ends too early, or holds an impossible value.
    Malformed,
    /// Bytes remain after the value.
    Trailing,
}

impl core::fmt::Display for CodecError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooLong => f.write_str("longer than the limit"),
            Self::Version(version) => write!(f, "unknown format version {version}"),
            Self::Malformed => f.write_str("malformed"),
            Self::Trailing => f.write_str("trailing bytes"),
        }
    }
}

impl core::error::Error for CodecError {}

fn bounded<const N: usize>() -> Configuration<LittleEndian, Varint, Limit<N>> {
    config::standard().with_limit::<N>()
}

/// Encodes a value without a frame.
///
/// # Panics
/// Never: encoding into memory fails only for types that the wire types don't use.
pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, config::standard()).unwrap_or_default()
}

/// Appends the encoding of a value to `out`.
pub fn encode_into<T: Encode>(value: &T, out: &mut Vec<u8>) {
    struct Append<'a>(&'a mut Vec<u8>);
    impl bincode::enc::write::Writer for Append<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }
    // Writing into memory doesn't fail.
    let _ = bincode::encode_into_writer(value, Append(out), config::standard());
}

/// Decodes a value of at most `N` bytes, all of them used.
pub fn decode<T: Decode<()>, const N: usize>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > N {
        return Err(CodecError::TooLong);
    }
    let (value, used) =
        bincode::decode_from_slice(bytes, bounded::<N>()).map_err(|_| CodecError::Malformed)?;
    if used == bytes.len() { Ok(value) } else { Err(CodecError::Trailing) }
}

/// Decodes a value of at most `N` bytes from the start of `bytes`; gives how many it took.
pub fn decode_prefix<T: Decode<()>, const N: usize>(
    bytes: &[u8],
) -> Result<(T, usize), CodecError> {
    bincode::decode_from_slice(bytes, bounded::<N>()).map_err(|_| CodecError::Malformed)
}

/// Appends a frame with the value to `out`.
pub fn frame<T: Encode>(value: &T, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, VERSION]);
    encode_into(value, out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Reads the length that a frame's first four bytes announce.
pub fn frame_length<const N: usize>(header: [u8; 4]) -> Result<usize, CodecError> {
    let length = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
    if length > N {
        Err(CodecError::TooLong)
    } else if length == 0 {
        Err(CodecError::Malformed)
    } else {
        Ok(length)
    }
}

/// Decodes what follows a frame's length: the version byte and the body.
pub fn unframe<T: Decode<()>, const N: usize>(frame: &[u8]) -> Result<T, CodecError> {
    match frame.split_first() {
        None => Err(CodecError::Malformed),
        Some((&VERSION, body)) => decode::<T, N>(body),
        Some((&version, _)) => Err(CodecError::Version(version)),
    }
}

/// Bytes that are shared: of values that are large, each copy costs.
pub(crate) mod shared {
    use alloc::sync::Arc;

    use bincode::{
        Decode as _, Encode as _,
        de::{Decoder, read::Reader as _},
        enc::{Encoder, write::Writer as _},
        error::{DecodeError, EncodeError},
    };

    /// Encodes them as a `Vec<u8>` is.
    pub(crate) fn encode<E: Encoder>(bytes: &[u8], encoder: &mut E) -> Result<(), EncodeError> {
        u64::try_from(bytes.len()).unwrap_or(u64::MAX).encode(encoder)?;
        encoder.writer().write(bytes)
    }

    /// Decodes them with one copy. By way of a `Vec` there would be two, and one of zeros.
    pub(crate) fn decode<D: Decoder>(decoder: &mut D) -> Result<Arc<[u8]>, DecodeError> {
        let length =
            usize::try_from(u64::decode(decoder)?).map_err(|_| DecodeError::LimitExceeded)?;
        // The claim fails before anything is allocated for a length that the frame can't hold.
        decoder.claim_container_read::<u8>(length)?;
        let reader = decoder.reader();
        // What is decoded lies in memory, so it can be looked at in place.
        let bytes = reader.peek_read(length);
        let bytes = bytes.ok_or(DecodeError::UnexpectedEnd { additional: length })?;
        let bytes = Arc::from(bytes);
        reader.consume(length);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use alloc::{string::String, vec};

    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_went() {
        let mut bytes = vec![];
        frame(&(7_u64, String::from("key")), &mut bytes);
        assert_eq!(bytes, [6, 0, 0, 0, VERSION, 7, 3, b'k', b'e', b'y']);
        let length = frame_length::<RPC_LIMIT>([6, 0, 0, 0]);
        assert_eq!(length, Ok(6));
        let value: (u64, String) = unframe::<_, RPC_LIMIT>(&bytes[4..]).unwrap();
        assert_eq!(value, (7, String::from("key")));
    }

    #[test]
    fn hostile_bytes_are_refused() {
        // A length prefix of 2^40 elements allocates nothing.
        let huge = [253, 0, 0, 0, 0, 0, 1, 0, 0];
        assert_eq!(decode::<Vec<u64>, RPC_LIMIT>(&huge), Err(CodecError::Malformed));
        assert_eq!(decode::<u8, RPC_LIMIT>(&[1, 2]), Err(CodecError::Trailing));
        assert_eq!(unframe::<u8, RPC_LIMIT>(&[9, 1]), Err(CodecError::Version(9)));
        assert_eq!(unframe::<u8, RPC_LIMIT>(&[]), Err(CodecError::Malformed));
        assert_eq!(frame_length::<16>([17, 0, 0, 0]), Err(CodecError::TooLong));
        assert_eq!(decode::<u64, 4>(&[0; 5]), Err(CodecError::TooLong));
    }
}
