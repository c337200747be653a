//! Serf's messages: a type byte, then a struct as a msgpack map.
//!
//! | type | message | where |
//! |---|---|---|
//! | 0, 1 | leave and join intents | memberlist's `user` |
//! | 2 | [`PushPull`] | the user state of memberlist's push/pull |
//! | 3 | user event | `user` |
//! | 4, 5 | query, and a response to it | `user` |
//! | 6 | [`Member`], which answers `_serf_conflict` | a response's payload |
//! | 7, 8 | [`KeyRequest`], [`KeyResponse`] | payloads of `_serf_install-key` and the like |
//! | 9 | a response that another member passes on | `user` |

use std::net::{IpAddr, SocketAddr};

use crate::{
    Refused, limits,
    memberlist::{self, Encode, address, name, optional_name, required, write_address},
    msgpack::{Reader, Writer},
};

const LEAVE: u8 = 0;
const JOIN: u8 = 1;
const PUSH_PULL: u8 = 2;
const USER_EVENT: u8 = 3;
const QUERY: u8 = 4;
const QUERY_RESPONSE: u8 = 5;
const CONFLICT_RESPONSE: u8 = 6;
const KEY_REQUEST: u8 = 7;
const KEY_RESPONSE: u8 = 8;
const RELAY: u8 = 9;

/// What the names of Serf's own queries begin with: `ping`, `conflict`, `install-key`, `use-key`, `remove-key`,
/// `list-keys`.
pub const INTERNAL_QUERY: &str = "_serf_";

/// A message inside of memberlist's `user`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A member is about to leave, or is made to.
    Leave(Leave<'a>),
    /// A member joined.
    Join(Join<'a>),
    /// An event.
    UserEvent(UserEvent<'a>),
    /// A question to all, or to some.
    Query(Query<'a>),
    /// An answer, to the one who asked.
    QueryResponse(QueryResponse<'a>),
    /// An answer on its way by another member.
    Relay(Relay<'a>),
}

/// A leave intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave<'a> {
    /// When, in Lamport time.
    pub ltime: u64,
    /// Who leaves.
    pub node: &'a str,
    /// Whether to forget the member altogether. Old versions don't send it.
    pub prune: bool,
}

/// A join intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join<'a> {
    /// When, in Lamport time.
    pub ltime: u64,
    /// Who joined.
    pub node: &'a str,
}

/// An event that a user, or Consul, sends to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserEvent<'a> {
    /// When, in the Lamport time of events.
    pub ltime: u64,
    /// Its name.
    pub name: &'a str,
    /// What goes with it.
    pub payload: &'a [u8],
    /// Whether events of one name may be told as one.
    pub coalesce: bool,
}

/// A query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// When, in the Lamport time of queries.
    pub ltime: u64,
    /// Tells queries of one time apart.
    pub id: u32,
    /// Where answers go.
    pub endpoint: SocketAddr,
    /// Who asks; old versions leave it empty.
    pub source_node: &'a str,
    /// Who is asked: those whom all filters let pass.
    pub filters: Vec<Filter<'a>>,
    /// [`flags`].
    pub flags: u32,
    /// How many others pass each answer on, besides sending it directly.
    pub relay_factor: u8,
    /// How long answers are waited for, in nanoseconds.
    pub timeout_nanos: i64,
    /// Its name.
    pub name: &'a str,
    /// What goes with it.
    pub payload: &'a [u8],
}

/// Flags of queries and of responses.
pub mod flags {
    /// Of a query: confirm that it arrived. Of a response: it is that confirmation.
    pub const ACK: u32 = 1;
    /// Of a query: don't pass it on.
    pub const NO_BROADCAST: u32 = 2;
}

/// Whom a query asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter<'a> {
    /// Members of these names.
    Nodes(Vec<&'a str>),
    /// Members whose tag matches.
    Tag {
        /// The tag's name.
        tag: &'a str,
        /// A regular expression, in Go's syntax.
        expression: &'a str,
    },
    /// A kind of filter that isn't known here. Nobody is known to pass it, but the query is passed on as it is.
    Other(&'a [u8]),
}

/// An answer to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryResponse<'a> {
    /// The query's.
    pub ltime: u64,
    /// The query's.
    pub id: u32,
    /// Who answers.
    pub from: &'a str,
    /// [`flags`].
    pub flags: u32,
    /// The answer.
    pub payload: &'a [u8],
}

/// An answer that is to be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relay<'a> {
    /// Where to.
    pub endpoint: SocketAddr,
    /// Whom to; old versions leave it empty.
    pub node: &'a str,
    /// The answer. Serf passes on whatever follows; here nothing else is, so that nobody's packets are sent on to
    /// whomever they name, and no relay goes through a relay.
    pub response: QueryResponse<'a>,
}

impl<'a> Message<'a> {
    /// Takes apart the contents of memberlist's `user`.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Refused> {
        let (&kind, body) = bytes.split_first().ok_or(Refused::Truncated)?;
        let mut reader = Reader::new(body);
        match kind {
            LEAVE => Leave::read(&mut reader).map(Self::Leave),
            JOIN => Leave::read(&mut reader)
                .map(|leave| Self::Join(Join { ltime: leave.ltime, node: leave.node })),
            USER_EVENT => UserEvent::read(&mut reader).map(Self::UserEvent),
            QUERY => Query::read(&mut reader).map(Self::Query),
            QUERY_RESPONSE => QueryResponse::read(&mut reader).map(Self::QueryResponse),
            RELAY => Relay::read(&mut reader).map(Self::Relay),
            other => Err(Refused::Unknown(other)),
        }
    }

    /// Appends it as the contents of memberlist's `user`, without memberlist's type byte.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        match self {
            Self::Leave(leave) => leave.write(writer.plain(&[LEAVE])),
            Self::Join(join) => {
                writer.plain(&[JOIN]).map(2).text("LTime").u64(join.ltime);
                writer.text("Node").text(join.node);
            }
            Self::UserEvent(event) => event.write(writer.plain(&[USER_EVENT])),
            Self::Query(query) => query.write(writer.plain(&[QUERY])),
            Self::QueryResponse(response) => response.write(writer.plain(&[QUERY_RESPONSE])),
            Self::Relay(relay) => relay.write(writer.plain(&[RELAY])),
        }
    }
}

impl Encode for Message<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(memberlist::kind::USER);
        self.encode_body(out);
    }
}

impl<'a> Leave<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Refused> {
        let (mut ltime, mut node, mut prune) = (0, "", false);
        reader.fields(|field, reader| {
            match field {
                b"LTime" => ltime = reader.u64()?,
                b"Node" => node = name(reader)?,
                b"Prune" => prune = reader.bool()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        required(node)?;
        Ok(Self { ltime, node, prune })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.map(3).text("LTime").u64(self.ltime).text("Node").text(self.node);
        writer.text("Prune").bool(self.prune);
    }
}

impl<'a> UserEvent<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Refused> {
        let (mut ltime, mut name, mut payload, mut coalesce) = (0, "", &[][..], false);
        reader.fields(|field, reader| {
            match field {
                b"LTime" => ltime = reader.u64()?,
                b"Name" => name = reader.text()?,
                b"Payload" => payload = reader.bytes()?,
                b"CC" => coalesce = reader.bool()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        Ok(Self { ltime, name, payload, coalesce })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.map(4).text("CC").bool(self.coalesce).text("LTime").u64(self.ltime);
        writer.text("Name").text(self.name).text("Payload").bytes_or_nil(self.payload);
    }
}

impl<'a> Query<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Refused> {
        let mut query = Self {
            ltime: 0,
            id: 0,
            endpoint: SocketAddr::new(IpAddr::from([0; 4]), 0),
            source_node: "",
            filters: Vec::new(),
            flags: 0,
            relay_factor: 0,
            timeout_nanos: 0,
            name: "",
            payload: &[],
        };
        let mut source = None;
        reader.fields(|field, reader| {
            match field {
                b"LTime" => query.ltime = reader.u64()?,
                b"ID" => query.id = reader.number()?,
                b"Addr" => source = address(reader.bytes()?)?,
                b"Port" => query.endpoint.set_port(reader.number()?),
                b"SourceNode" => query.source_node = optional_name(reader)?,
                b"Filters" => {
                    query.filters =
                        reader.elements(limits::FILTERS, |r| Filter::decode(r.bytes()?))?;
                }
                b"Flags" => query.flags = reader.number()?,
                b"RelayFactor" => query.relay_factor = reader.number()?,
                b"Timeout" => query.timeout_nanos = reader.i64()?,
                b"Name" => query.name = reader.text()?,
                b"Payload" => query.payload = reader.bytes()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        query.endpoint.set_ip(source.ok_or(Refused::Empty("Addr"))?);
        Ok(query)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        write_address(writer.map(11).text("Addr"), self.endpoint.ip());
        writer.text("Filters");
        if self.filters.is_empty() {
            writer.nil();
        } else {
            writer.list(self.filters.len());
            for filter in &self.filters {
                filter.write(writer);
            }
        }
        writer.text("Flags").u64(u64::from(self.flags)).text("ID").u64(u64::from(self.id));
        writer.text("LTime").u64(self.ltime).text("Name").text(self.name);
        writer.text("Payload").bytes_or_nil(self.payload);
        writer.text("Port").u64(u64::from(self.endpoint.port()));
        writer.text("RelayFactor").u64(u64::from(self.relay_factor));
        writer.text("SourceNode").text(self.source_node);
        writer.text("Timeout").i64(self.timeout_nanos);
    }
}

impl<'a> Filter<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, Refused> {
        let (&kind, body) = bytes.split_first().ok_or(Refused::Truncated)?;
        let mut reader = Reader::new(body);
        match kind {
            0 => reader.elements(limits::FILTERS, Reader::text).map(Self::Nodes),
            1 => {
                let (mut tag, mut expression) = ("", "");
                reader.fields(|field, reader| {
                    match field {
                        b"Tag" => tag = reader.text()?,
                        b"Expr" => expression = reader.text()?,
                        _ => reader.skip()?,
                    }
                    Ok(())
                })?;
                Ok(Self::Tag { tag, expression })
            }
            _ => Ok(Self::Other(bytes)),
        }
    }

    /// A filter is bytes inside of the query: what is in it has to be written before its length is known.
    fn write(&self, writer: &mut Writer<'_>) {
        let mut bytes = Vec::new();
        let mut inner = Writer::new(&mut bytes);
        match self {
            Self::Nodes(names) => {
                inner.plain(&[0]).list(names.len());
                for name in names {
                    inner.text(name);
                }
            }
            Self::Tag { tag, expression } => {
                inner.plain(&[1]).map(2).text("Expr").text(expression).text("Tag").text(tag);
            }
            Self::Other(bytes) => {
                inner.plain(bytes);
            }
        }
        writer.bytes(&bytes);
    }
}

impl<'a> QueryResponse<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Refused> {
        let (mut ltime, mut id, mut from, mut flags, mut payload) = (0, 0, "", 0, &[][..]);
        reader.fields(|field, reader| {
            match field {
                b"LTime" => ltime = reader.u64()?,
                b"ID" => id = reader.number()?,
                b"From" => from = name(reader)?,
                b"Flags" => flags = reader.number()?,
                b"Payload" => payload = reader.bytes()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        required(from)?;
        Ok(Self { ltime, id, from, flags, payload })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.map(5).text("Flags").u64(u64::from(self.flags)).text("From").text(self.from);
        writer.text("ID").u64(u64::from(self.id)).text("LTime").u64(self.ltime);
        writer.text("Payload").bytes_or_nil(self.payload);
    }
}

impl<'a> Relay<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Refused> {
        let (mut to, mut port, mut node) = (None, 0, "");
        reader.fields(|field, reader| {
            match field {
                b"DestAddr" => reader.fields(|field, reader| {
                    match field {
                        b"IP" => to = address(reader.bytes()?)?,
                        b"Port" => port = reader.number()?,
                        _ => reader.skip()?,
                    }
                    Ok(())
                })?,
                b"DestName" => node = optional_name(reader)?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        let endpoint = SocketAddr::new(to.ok_or(Refused::Empty("DestAddr"))?, port);
        let (&kind, body) = reader.rest().split_first().ok_or(Refused::Truncated)?;
        if kind != QUERY_RESPONSE {
            return Err(Refused::Nested);
        }
        let response = QueryResponse::read(&mut Reader::new(body))?;
        Ok(Self { endpoint, node, response })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        write_address(writer.map(2).text("DestAddr").map(3).text("IP"), self.endpoint.ip());
        writer.text("Port").u64(u64::from(self.endpoint.port())).text("Zone").text("");
        writer.text("DestName").text(self.node).plain(&[QUERY_RESPONSE]);
        self.response.write(writer);
    }
}

/// What Serf adds to memberlist's push/pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushPull<'a> {
    /// The clock of intents, one ahead of what was last seen.
    pub ltime: u64,
    /// Each member's name, and the Lamport time of what is known of it. In Go's random order.
    pub status: Vec<(&'a str, u64)>,
    /// The members that left.
    pub left: Vec<&'a str>,
    /// The clock of events.
    pub event_ltime: u64,
    /// Recent events. Serf sends its ring of 512, with `nil` for the slots that are empty; those are left out here.
    pub events: Vec<Events<'a>>,
    /// The clock of queries.
    pub query_ltime: u64,
}

/// The events of one Lamport time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events<'a> {
    /// When.
    pub ltime: u64,
    /// Each event's name and payload.
    pub events: Vec<(&'a str, &'a [u8])>,
}

impl<'a> PushPull<'a> {
    /// Takes apart the user state of memberlist's push/pull.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Refused> {
        let mut reader = typed(bytes, PUSH_PULL)?;
        let mut state = Self::default();
        reader.fields(|field, reader| {
            match field {
                b"LTime" => state.ltime = reader.u64()?,
                b"StatusLTimes" => state.status = statuses(reader)?,
                b"LeftMembers" => state.left = reader.elements(limits::MEMBERS, name)?,
                b"EventLTime" => state.event_ltime = reader.u64()?,
                b"Events" => state.events = ring(reader)?,
                b"QueryLTime" => state.query_ltime = reader.u64()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        Ok(state)
    }

    /// The user state of memberlist's push/pull.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.plain(&[PUSH_PULL]).map(6).text("EventLTime").u64(self.event_ltime);
        writer.text("Events").list(self.events.len());
        for at in &self.events {
            writer.map(2).text("Events").list(at.events.len());
            for (name, payload) in &at.events {
                writer.map(2).text("Name").text(name).text("Payload").bytes_or_nil(payload);
            }
            writer.text("LTime").u64(at.ltime);
        }
        writer.text("LTime").u64(self.ltime).text("LeftMembers").list(self.left.len());
        for name in &self.left {
            writer.text(name);
        }
        writer.text("QueryLTime").u64(self.query_ltime);
        writer.text("StatusLTimes").map(self.status.len());
        for (name, ltime) in &self.status {
            writer.text(name).u64(*ltime);
        }
    }
}

fn statuses<'a>(reader: &mut Reader<'a>) -> Result<Vec<(&'a str, u64)>, Refused> {
    let n = usize::try_from(reader.map()?).map_err(|_| Refused::TooLarge)?;
    if n > limits::MEMBERS {
        return Err(Refused::TooLarge);
    }
    let mut statuses = Vec::new();
    for _ in 0..n {
        statuses.push((name(reader)?, reader.u64()?));
    }
    Ok(statuses)
}

/// The ring of events, without its empty slots.
fn ring<'a>(reader: &mut Reader<'a>) -> Result<Vec<Events<'a>>, Refused> {
    let slots = reader.list()?;
    let (mut ring, mut total) = (Vec::new(), 0_usize);
    for _ in 0..slots {
        let mut at = Events { ltime: 0, events: Vec::new() };
        reader.fields(|field, reader| {
            match field {
                b"LTime" => at.ltime = reader.u64()?,
                b"Events" => at.events = reader.elements(limits::EVENTS, event)?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        // `nil` reads as a struct without fields: an empty slot.
        if at.events.is_empty() {
            continue;
        }
        total += at.events.len();
        if total > limits::EVENTS {
            return Err(Refused::TooLarge);
        }
        ring.push(at);
    }
    Ok(ring)
}

fn event<'a>(reader: &mut Reader<'a>) -> Result<(&'a str, &'a [u8]), Refused> {
    let (mut name, mut payload) = ("", &[][..]);
    reader.fields(|field, reader| {
        match field {
            b"Name" => name = reader.text()?,
            b"Payload" => payload = reader.bytes()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok((name, payload))
}

/// Reads the body of a message that must have this type.
fn typed(bytes: &[u8], expected: u8) -> Result<Reader<'_>, Refused> {
    match bytes.split_first() {
        Some((kind, body)) if *kind == expected => Ok(Reader::new(body)),
        Some((kind, _)) => Err(Refused::Unknown(*kind)),
        None => Err(Refused::Truncated),
    }
}

/// The payload of a key query: the key that is installed, used or removed; empty where keys are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRequest<'a> {
    /// The key's bytes.
    pub key: &'a [u8],
}

impl<'a> KeyRequest<'a> {
    /// Takes apart a query's payload.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Refused> {
        let mut key = &[][..];
        typed(bytes, KEY_REQUEST)?.fields(|field, reader| {
            match field {
                b"Key" => key = reader.bytes()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        Ok(Self { key })
    }

    /// A query's payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.plain(&[KEY_REQUEST]).map(1).text("Key").bytes_or_nil(self.key);
    }
}

/// The payload of a response to a key query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyResponse<'a> {
    /// Whether it worked.
    pub result: bool,
    /// Why it didn't, or what else there is to say.
    pub message: &'a str,
    /// The keys that are installed, in base64, where they were asked for. As many as fit the response.
    pub keys: Vec<&'a str>,
    /// The primary among them. Old versions leave it empty.
    pub primary: &'a str,
}

impl<'a> KeyResponse<'a> {
    /// Takes apart a response's payload.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Refused> {
        let mut response = Self { result: false, message: "", keys: Vec::new(), primary: "" };
        typed(bytes, KEY_RESPONSE)?.fields(|field, reader| {
            match field {
                b"Result" => response.result = reader.bool()?,
                b"Message" => response.message = reader.text()?,
                b"Keys" => response.keys = reader.elements(limits::KEYS, Reader::text)?,
                b"PrimaryKey" => response.primary = reader.text()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        Ok(response)
    }

    /// A response's payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.plain(&[KEY_RESPONSE]).map(4).text("Keys");
        if self.keys.is_empty() {
            writer.nil();
        } else {
            writer.list(self.keys.len());
            for key in &self.keys {
                writer.text(key);
            }
        }
        writer.text("Message").text(self.message).text("PrimaryKey").text(self.primary);
        writer.text("Result").bool(self.result);
    }
}

/// A member as an answer to `_serf_conflict` tells it: the one that the answerer knows by the name that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it listens.
    pub endpoint: SocketAddr,
    /// Its tags.
    pub tags: Vec<(&'a str, &'a str)>,
    /// Serf's state of it: 1 alive, 2 leaving, 3 left, 4 failed.
    pub status: u8,
    /// Its versions.
    pub versions: memberlist::Versions,
}

/// The fields of [`Member::versions`], in the order of memberlist.
const VERSIONS: [&[u8]; 6] = [
    b"ProtocolMin",
    b"ProtocolMax",
    b"ProtocolCur",
    b"DelegateMin",
    b"DelegateMax",
    b"DelegateCur",
];

impl<'a> Member<'a> {
    /// Takes apart a response's payload.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Refused> {
        let endpoint = SocketAddr::new(IpAddr::from([0; 4]), 0);
        let mut member = Self { name: "", endpoint, tags: Vec::new(), status: 0, versions: [0; 6] };
        let mut listens = None;
        typed(bytes, CONFLICT_RESPONSE)?.fields(|field, reader| {
            match field {
                b"Name" => member.name = name(reader)?,
                b"Addr" => listens = address(reader.bytes()?)?,
                b"Port" => member.endpoint.set_port(reader.number()?),
                b"Tags" => {
                    for _ in 0..reader.map()? {
                        member.tags.push((reader.text()?, reader.text()?));
                    }
                }
                b"Status" => member.status = reader.number()?,
                _ => {
                    let versions = VERSIONS.iter().zip(&mut member.versions);
                    match versions.into_iter().find(|(version, _)| **version == field) {
                        Some((_, version)) => *version = reader.number()?,
                        None => reader.skip()?,
                    }
                }
            }
            Ok(())
        })?;
        required(member.name)?;
        member.endpoint.set_ip(listens.ok_or(Refused::Empty("Addr"))?);
        Ok(member)
    }

    /// A response's payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        let [min, max, current, delegate_min, delegate_max, delegate] =
            self.versions.map(u64::from);
        write_address(writer.plain(&[CONFLICT_RESPONSE]).map(11).text("Addr"), self.endpoint.ip());
        writer.text("DelegateCur").u64(delegate).text("DelegateMax").u64(delegate_max);
        writer.text("DelegateMin").u64(delegate_min).text("Name").text(self.name);
        writer.text("Port").u64(u64::from(self.endpoint.port()));
        writer.text("ProtocolCur").u64(current).text("ProtocolMax").u64(max);
        writer.text("ProtocolMin").u64(min).text("Status").u64(u64::from(self.status));
        writer.text("Tags").map(self.tags.len());
        for (name, value) in &self.tags {
            writer.text(name).text(value);
        }
    }
}
