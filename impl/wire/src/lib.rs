//! What memberlist and Serf put on the wire, as pure functions over bytes.
//!
//! A datagram and a stream are wrapped alike, from the outside in:
//!
//! ```text
//! packet   [244 len label] [version nonce12 ciphertext tag16] [12 crc32] [9 {Algo,Buf}] [7 count lengths] type body
//! stream   [244 len label] [10 length32 version nonce12 ciphertext tag16] [9 {Algo,Buf}] type body
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`msgpack`] | the reader and writer of msgpack's old raw mode |
//! | [`memberlist`] | memberlist's messages |
//! | [`serf`] | Serf's messages, which travel inside memberlist's `user` |
//! | [`tags`] | a member's metadata |
//! | [`coordinate`] | the network coordinate in an ack's payload |
//! | [`consul`] | Consul's user events in the payload of Serf's |
//! | [`cipher`], [`keyring`] | AES-GCM; the keys of a pool and their file |
//! | [`lzw`] | compression, with a limit on what comes out |
//! | [`envelope`] | label and encryption, as a pool is configured |
//! | [`packet`], [`stream`] | from a datagram or a stream to messages, and back |
//! | [`convert`] | `spec`'s messages from these, and back |
//!
//! Every decoder is total: any bytes give a value or a [`Refused`], and never a panic. None allocates by what a length
//! or a count *claims*: memory follows the bytes that arrived, and [`limits`] caps what those may expand to.

pub mod cipher;
pub mod consul;
pub mod convert;
pub mod coordinate;
pub mod envelope;
pub mod keyring;
pub mod limits;
pub mod lzw;
pub mod memberlist;
pub mod msgpack;
pub mod packet;
pub mod serf;
pub mod stream;
pub mod tags;

/// Why bytes were not taken. The one who sent them is not to be trusted, so this is to be counted, and told to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The bytes end before the value does.
    #[error("truncated")]
    Truncated,
    /// A msgpack value of another type than its field has.
    #[error("a value of the wrong type")]
    Type,
    /// A number that its field can't hold.
    #[error("a number out of range")]
    Range,
    /// A name that isn't UTF-8. Go's strings may hold any bytes; ours, and JSON, can't.
    #[error("text that isn't UTF-8")]
    Text,
    /// A name, or another field without which the message means nothing, is empty.
    #[error("an empty {0}")]
    Empty(&'static str),
    /// An address that has neither 4 nor 16 bytes.
    #[error("an address of a wrong length")]
    Address,
    /// A message type that isn't known here.
    #[error("message type {0} is not known here")]
    Unknown(u8),
    /// A wrapping inside one that may not contain it: a compound in a compound, compression in compression.
    #[error("nested too deep")]
    Nested,
    /// More than [`limits`] allows.
    #[error("larger than the limit")]
    TooLarge,
    /// LZW data that is corrupt, or an algorithm that isn't LZW.
    #[error("bad compression")]
    Compression,
    /// The checksum differs.
    #[error("bad checksum")]
    Checksum,
    /// Another label than the pool's, or a malformed one.
    #[error("a wrong label")]
    Label,
    /// No key opens it, or it isn't encrypted where it must be, or its padding is wrong.
    #[error("not encrypted with a key of this pool")]
    Sealed,
    /// A stream is encrypted, and this pool has no keys.
    #[error("encrypted, and there are no keys")]
    NoKeys,
}

impl Refused {
    /// A short name, for counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Type => "type",
            Self::Range => "range",
            Self::Text => "text",
            Self::Empty(_) => "empty",
            Self::Address => "address",
            Self::Unknown(_) => "unknown",
            Self::Nested => "nested",
            Self::TooLarge => "too_large",
            Self::Compression => "compression",
            Self::Checksum => "checksum",
            Self::Label => "label",
            Self::Sealed => "sealed",
            Self::NoKeys => "no_keys",
        }
    }
}

/// Why messages were not put into bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// More parts than a compound can count (255), a part longer than it can tell (65,535 bytes), or a packet longer
    /// than a datagram.
    #[error("too large for a packet")]
    PacketTooLarge,
    /// A stream's message above memberlist's 20 MiB: the receiver would refuse it.
    #[error("too large for a stream")]
    StreamTooLarge,
    /// The operating system gave no random bytes for a nonce. Sending with a predictable one would give away the key
    /// that authenticates.
    #[error("no random bytes for a nonce")]
    NoEntropy,
}
