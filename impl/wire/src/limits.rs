//! How large what others send may be. Each bounds memory; none is reached by a real pool.

/// What an encrypted or compressed packet may hold, in bytes: no more than a datagram could have carried plainly.
pub const PACKET: usize = 65_536;

/// A stream's message in bytes, before and after decompression (memberlist's `maxPushStateBytes`).
pub const STREAM: usize = 20 * 1024 * 1024;

/// Room for what wraps a stream's message: label, frame, nonce, padding and tag, the header of a `user` message.
pub const STREAM_OVERHEAD: usize = 1024;

/// A struct of a stream that isn't encrypted, in bytes: a push/pull's head, a member's record, a ping. Until it is whole
/// it is gone through again with each piece that arrives: a ping of 20 MiB, a byte at a time, would take 200 TB of reading.
pub const STRUCT: usize = 64 * 1024;

/// Members in one push/pull. A record takes about 90 bytes on the wire at least, but a hostile one takes 30 and as many
/// as 200 in memory: 20 MiB of those would become hundreds.
pub const MEMBERS: usize = 1 << 17;

/// Lamport times for which a Serf push/pull may replay events, and events in all of them (Serf's ring has 512).
pub const EVENTS: usize = 8192;

/// A member's name in bytes, as `spec` takes it. Serf allows 128, memberlist doesn't say.
pub const NAME: usize = 255;

/// A member's metadata in bytes (memberlist's `MetaMaxSize`).
pub const META: usize = 512;

/// Filters of a query, and names in one of them.
pub const FILTERS: usize = 4096;

/// Keys that one member lists in the answer to a key query, and keys in a keyring.
pub const KEYS: usize = 256;
