//! Fuzz targets: what must hold of each decoder of gossip, whatever bytes it is given.
//!
//! A target is a function that panics where something doesn't hold. libFuzzer runs it on what it makes up, guided by
//! coverage (`cargo xtask fuzz`); `gossip-wire`'s property tests run all of them on spoiled recordings. Beyond that no
//! bytes make a decoder panic, a target asserts
//!
//! - that decoding holds no more memory at once than the bytes are worth;
//! - that what decodes encodes to something that decodes to the same value;
//! - where there are two ways to one value (in pieces or at once, sealed or in clear, two decoders of one format), that
//!   they agree.
//!
//! | module | decoders |
//! |---|---|
//! | [`messages`] | msgpack; memberlist's, Serf's and Consul's messages, which borrow from the bytes |
//! | [`machine`] | from bytes to `spec`'s messages; filters, the keyring, the snapshot file |
//! | [`wrapping`] | compounds, compression, packets and streams, in clear and encrypted |
//! | [`seeds`] | what fuzzing starts from: the recordings of real agents, layer by layer |

pub mod machine;
pub mod messages;
pub mod seeds;
pub mod wrapping;

/// A decoder, and what must hold of it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Decodes, and panics where something doesn't hold. Says whether the bytes were taken.
    pub run: fn(&[u8]) -> bool,
    /// How many bytes before what is decoded choose how that is done: the key, the size of the pieces.
    pub choices: usize,
}

const fn target(name: &'static str, run: fn(&[u8]) -> bool) -> Target {
    Target { name, run, choices: 0 }
}

/// All targets.
pub const TARGETS: [Target; 24] = [
    target("msgpack", messages::msgpack),
    target("memberlist", messages::memberlist),
    target("stream-message", messages::stream_message),
    target("serf", messages::serf),
    target("serf-push-pull", messages::serf_push_pull),
    target("serf-key-request", messages::serf_key_request),
    target("serf-key-response", messages::serf_key_response),
    target("serf-member", messages::serf_member),
    target("tags", messages::tags),
    target("coordinate", messages::coordinate),
    target("consul-event", messages::consul_event),
    target("compound", wrapping::compound),
    target("lzw", wrapping::lzw),
    target("packet", wrapping::packet),
    Target { choices: 1, ..target("packet-sealed", wrapping::packet_sealed) },
    Target { choices: 1, ..target("stream", wrapping::stream) },
    Target { choices: 1, ..target("stream-sealed", wrapping::stream_sealed) },
    target("machine-part", machine::part),
    target("machine-state", machine::state),
    target("machine-stream", machine::stream),
    target("query-filter", machine::query_filter),
    target("keyring", machine::keyring),
    target("key", machine::key),
    target("snapshot", machine::snapshot),
];

/// The target of this name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// The most that decoding `n` bytes may hold. The dearest is a list of events: one byte each on the wire, and in the
/// machine two counted pointers and what they point to, in vectors that doubled.
const fn bound(n: usize) -> usize {
    4096 + 256 * n
}

/// What `decode` gives. Panics where it held more than `most` bytes at once.
fn within<T>(most: usize, decode: impl FnOnce() -> T) -> T {
    let (value, held) = measured(decode);
    assert!(held <= most, "held {held} bytes, where {most} are allowed");
    value
}

/// What `decode` gives, and how many bytes it held at once, on this thread.
fn measured<T>(decode: impl FnOnce() -> T) -> (T, usize) {
    let mut value = None;
    let held = allocation_counter::measure(|| value = Some(decode())).bytes_max;
    let value = value.unwrap_or_else(|| unreachable!("`measure` runs what it is given"));
    (value, usize::try_from(held).unwrap_or(usize::MAX))
}
