//! memberlist's messages: a type byte, then a struct as a msgpack map.
//!
//! | type | message | type | message |
//! |---|---|---|---|
//! | 0 | ping | 7 | compound ([`crate::packet`]) |
//! | 1 | indirect ping | 8 | user: what lies on top, here Serf's |
//! | 2 | ack | 9 | compressed ([`crate::lzw`]) |
//! | 3 | suspect | 10 | encrypted stream ([`crate::stream`]) |
//! | 4 | alive | 11 | nack |
//! | 5 | dead | 12 | checksum ([`crate::packet`]) |
//! | 6 | push/pull ([`crate::stream`]) | 13 | error, on streams |
//!
//! Decoded messages borrow from the packet: taking one apart allocates nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{
    Refused, limits,
    msgpack::{Reader, Writer},
};

/// The types of messages, and of what wraps them.
pub mod kind {
    #![expect(missing_docs, reason = "the names say it all, and the table above says the rest")]
    pub const PING: u8 = 0;
    pub const INDIRECT_PING: u8 = 1;
    pub const ACK: u8 = 2;
    pub const SUSPECT: u8 = 3;
    pub const ALIVE: u8 = 4;
    pub const DEAD: u8 = 5;
    pub const PUSH_PULL: u8 = 6;
    pub const COMPOUND: u8 = 7;
    pub const USER: u8 = 8;
    pub const COMPRESSED: u8 = 9;
    pub const ENCRYPTED: u8 = 10;
    pub const NACK: u8 = 11;
    pub const CHECKSUM: u8 = 12;
    pub const ERROR: u8 = 13;
    pub const LABEL: u8 = 244;
}

/// Something that can be put into a packet as one part of it.
pub trait Encode {
    /// Appends its type byte and its body.
    fn encode(&self, out: &mut Vec<u8>);
}

impl<E: Encode + ?Sized> Encode for &E {
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}

/// A message that a packet may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Asks for an [`Ack`].
    Ping(Ping<'a>),
    /// Asks to ping another.
    IndirectPing(IndirectPing<'a>),
    /// Answers a ping.
    Ack(Ack<'a>),
    /// Says that an indirect ping had no answer in time.
    Nack {
        /// The indirect ping's.
        seq: u32,
    },
    /// Somebody suspects somebody.
    Suspect(Accusation<'a>),
    /// Somebody says that it is alive, and what it is.
    Alive(Alive<'a>),
    /// Somebody declares somebody dead, or itself, which means that it leaves.
    Dead(Accusation<'a>),
    /// What lies on top: Serf's type byte and body, see [`crate::serf`].
    User(&'a [u8]),
}

/// A ping. Whoever has another name than `node` doesn't answer: an agent may have restarted under a new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping<'a> {
    /// What the ack has to repeat.
    pub seq: u32,
    /// Who is meant. Old versions leave it empty.
    pub node: &'a str,
    /// Where the answer should go; old versions leave it out.
    pub source: Option<SocketAddr>,
    /// Who asks; old versions leave it empty.
    pub source_node: &'a str,
}

/// A request to ping `target`, and to pass its ack on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndirectPing<'a> {
    /// What the answer has to repeat.
    pub seq: u32,
    /// Where the one to be pinged is.
    pub target: SocketAddr,
    /// Who that is.
    pub node: &'a str,
    /// Whether the one who asks understands a nack.
    pub nack: bool,
    /// Where the answer should go; old versions leave it out.
    pub source: Option<SocketAddr>,
    /// Who asks; old versions leave it empty.
    pub source_node: &'a str,
}

/// An answer to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The ping's.
    pub seq: u32,
    /// What lies on top adds here: Serf its coordinate. None on streams.
    pub payload: Option<&'a [u8]>,
}

/// `from` says something of `node` as of an incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accusation<'a> {
    /// The incarnation that is accused.
    pub incarnation: u32,
    /// Who is accused.
    pub node: &'a str,
    /// Who accuses.
    pub from: &'a str,
}

/// Versions that a member speaks, in the order of the wire: memberlist's least, greatest and current, then those of
/// what lies on top.
pub type Versions = [u8; 6];

/// A member's own claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alive<'a> {
    /// The member's own counter.
    pub incarnation: u32,
    /// The member.
    pub node: &'a str,
    /// Where it listens.
    pub endpoint: SocketAddr,
    /// Its metadata, see [`crate::tags`].
    pub meta: &'a [u8],
    /// Its versions; memberlist's first release has none.
    pub versions: Option<Versions>,
}

/// A member's state in a push/pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It answers.
    Alive,
    /// It is suspected.
    Suspect,
    /// It failed.
    Dead,
    /// It left.
    Left,
}

/// One member as a push/pull tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeState<'a> {
    /// The member's name.
    pub name: &'a str,
    /// Where it listens.
    pub endpoint: SocketAddr,
    /// Its metadata, see [`crate::tags`].
    pub meta: &'a [u8],
    /// Its incarnation.
    pub incarnation: u32,
    /// Its state.
    pub status: Status,
    /// Its versions.
    pub versions: Option<Versions>,
}

impl<'a> Message<'a> {
    /// Takes apart one part of a packet: a type byte and a body. Bytes after the body are ignored, as in Go.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Refused> {
        let (&kind, body) = bytes.split_first().ok_or(Refused::Truncated)?;
        let mut reader = Reader::new(body);
        match kind {
            kind::PING => Ping::read(&mut reader).map(Self::Ping),
            kind::INDIRECT_PING => IndirectPing::read(&mut reader).map(Self::IndirectPing),
            kind::ACK => Ack::read(&mut reader).map(Self::Ack),
            kind::NACK => Ack::read(&mut reader).map(|ack| Self::Nack { seq: ack.seq }),
            kind::SUSPECT => Accusation::read(&mut reader).map(Self::Suspect),
            kind::ALIVE => Alive::read(&mut reader).map(Self::Alive),
            kind::DEAD => Accusation::read(&mut reader).map(Self::Dead),
            kind::USER => Ok(Self::User(body)),
            kind::COMPOUND | kind::COMPRESSED | kind::CHECKSUM => Err(Refused::Nested),
            other => Err(Refused::Unknown(other)),
        }
    }
}

impl Encode for Message<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        match self {
            Self::Ping(ping) => ping.write(writer.plain(&[kind::PING])),
            Self::IndirectPing(ping) => ping.write(writer.plain(&[kind::INDIRECT_PING])),
            Self::Ack(ack) => ack.write(writer.plain(&[kind::ACK])),
            Self::Nack { seq } => {
                writer.plain(&[kind::NACK]).map(1).text("SeqNo").u64(u64::from(*seq));
            }
            Self::Suspect(accusation) => accusation.write(writer.plain(&[kind::SUSPECT])),
            Self::Alive(alive) => alive.write(writer.plain(&[kind::ALIVE])),
            Self::Dead(accusation) => accusation.write(writer.plain(&[kind::DEAD])),
            Self::User(body) => {
                writer.plain(&[kind::USER]).plain(body);
            }
        }
    }
}

/// The address of 4 or 16 bytes; none for no bytes. A v4 address inside a v6 one is taken for what it is: Go writes
/// either, and a member must not look moved for it.
pub(crate) fn address(bytes: &[u8]) -> Result<Option<IpAddr>, Refused> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ok(Some(Ipv4Addr::from(four).into()));
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(sixteen) => Ok(Some(IpAddr::from(Ipv6Addr::from(sixteen)).to_canonical())),
        Err(_) if bytes.is_empty() => Ok(None),
        Err(_) => Err(Refused::Address),
    }
}

/// Writes an address as raw bytes.
pub(crate) fn write_address(writer: &mut Writer<'_>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => writer.bytes(&address.octets()),
        IpAddr::V6(address) => writer.bytes(&address.octets()),
    };
}

/// A member's name: neither empty nor endless.
pub(crate) fn name<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Refused> {
    let name = optional_name(reader)?;
    if name.is_empty() { Err(Refused::Empty("name")) } else { Ok(name) }
}

/// A member's name, which old versions leave empty.
pub(crate) fn optional_name<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Refused> {
    let name = reader.text()?;
    if name.len() > limits::NAME { Err(Refused::TooLarge) } else { Ok(name) }
}

fn meta<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Refused> {
    let meta = reader.bytes()?;
    if meta.len() > limits::META { Err(Refused::TooLarge) } else { Ok(meta) }
}

/// The first six of the versions; fewer are as good as none, as in memberlist.
fn versions(reader: &mut Reader<'_>) -> Result<Option<Versions>, Refused> {
    Ok(reader.bytes()?.first_chunk().copied())
}

fn write_versions(writer: &mut Writer<'_>, versions: Option<Versions>) {
    writer.text("Vsn").bytes_or_nil(versions.as_ref().map_or(&[], |versions| &versions[..]));
}

/// The fields that pings and indirect pings share: who asks, and from where. `omitempty` in Go.
#[derive(Default)]
struct Source<'a> {
    address: Option<IpAddr>,
    port: u16,
    node: &'a str,
}

impl<'a> Source<'a> {
    fn read(&mut self, field: &[u8], reader: &mut Reader<'a>) -> Result<(), Refused> {
        match field {
            b"SourceAddr" => self.address = address(reader.bytes()?)?,
            b"SourcePort" => self.port = reader.number()?,
            b"SourceNode" => self.node = optional_name(reader)?,
            _ => reader.skip()?,
        }
        Ok(())
    }

    fn endpoint(&self) -> Option<SocketAddr> {
        // Go takes a port of 0 as not given as well: there is nothing to send to.
        self.address.filter(|_| self.port != 0).map(|address| SocketAddr::new(address, self.port))
    }

    fn fields(endpoint: Option<SocketAddr>, node: &str) -> usize {
        2 * usize::from(endpoint.is_some()) + usize::from(!node.is_empty())
    }

    fn write(writer: &mut Writer<'_>, endpoint: Option<SocketAddr>, node: &str) {
        if let Some(endpoint) = endpoint {
            write_address(writer.text("SourceAddr"), endpoint.ip());
        }
        if !node.is_empty() {
            writer.text("SourceNode").text(node);
        }
        if let Some(endpoint) = endpoint {
            writer.text("SourcePort").u64(u64::from(endpoint.port()));
        }
    }
}

impl<'a> Ping<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, Refused> {
        let (mut seq, mut node, mut source) = (0, "", Source::default());
        reader.fields(|field, reader| {
            match field {
                b"SeqNo" => seq = reader.number()?,
                b"Node" => node = optional_name(reader)?,
                _ => source.read(field, reader)?,
            }
            Ok(())
        })?;
        Ok(Self { seq, node, source: source.endpoint(), source_node: source.node })
    }

    pub(crate) fn write(&self, writer: &mut Writer<'_>) {
        writer.map(2 + Source::fields(self.source, self.source_node));
        writer.text("Node").text(self.node).text("SeqNo").u64(u64::from(self.seq));
        Source::write(writer, self.source, self.source_node);
    }
}

impl<'a> IndirectPing<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Refused> {
        let (mut seq, mut target, mut port, mut node, mut nack) = (0, None, 0, "", false);
        let mut source = Source::default();
        reader.fields(|field, reader| {
            match field {
                b"SeqNo" => seq = reader.number()?,
                b"Target" => target = address(reader.bytes()?)?,
                b"Port" => port = reader.number()?,
                b"Node" => node = optional_name(reader)?,
                b"Nack" => nack = reader.bool()?,
                _ => source.read(field, reader)?,
            }
            Ok(())
        })?;
        let target = SocketAddr::new(target.ok_or(Refused::Empty("Target"))?, port);
        Ok(Self { seq, target, node, nack, source: source.endpoint(), source_node: source.node })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.map(5 + Source::fields(self.source, self.source_node));
        writer.text("Nack").bool(self.nack).text("Node").text(self.node);
        writer.text("Port").u64(u64::from(self.target.port()));
        writer.text("SeqNo").u64(u64::from(self.seq));
        Source::write(writer, self.source, self.source_node);
        write_address(writer.text("Target"), self.target.ip());
    }
}

impl<'a> Ack<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, Refused> {
        let (mut seq, mut payload) = (0, None);
        reader.fields(|field, reader| {
            match field {
                b"SeqNo" => seq = reader.number()?,
                b"Payload" => payload = reader.optional_bytes()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        Ok(Self { seq, payload })
    }

    pub(crate) fn write(&self, writer: &mut Writer<'_>) {
        writer.map(2).text("Payload");
        match self.payload {
            Some(payload) => writer.bytes(payload),
            None => writer.nil(),
        };
        writer.text("SeqNo").u64(u64::from(self.seq));
    }
}

impl<'a> Accusation<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Refused> {
        let (mut incarnation, mut node, mut from) = (0, "", "");
        reader.fields(|field, reader| {
            match field {
                b"Incarnation" => incarnation = reader.number()?,
                b"Node" => node = name(reader)?,
                b"From" => from = optional_name(reader)?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        required(node)?;
        Ok(Self { incarnation, node, from })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.map(3).text("From").text(self.from);
        writer.text("Incarnation").u64(u64::from(self.incarnation)).text("Node").text(self.node);
    }
}

/// A name that has to be there: its field may have been left out altogether.
pub(crate) fn required(name: &str) -> Result<(), Refused> {
    if name.is_empty() { Err(Refused::Empty("name")) } else { Ok(()) }
}

/// A member's record: the fields that [`Alive`] and [`NodeState`] share.
#[derive(Default)]
struct Record<'a> {
    name: &'a str,
    address: Option<IpAddr>,
    port: u16,
    meta: &'a [u8],
    incarnation: u32,
    state: u8,
    versions: Option<Versions>,
}

impl<'a> Record<'a> {
    fn read(reader: &mut Reader<'a>, name_field: &[u8]) -> Result<Self, Refused> {
        let mut record = Self::default();
        reader.fields(|field, reader| {
            match field {
                b"Addr" => record.address = address(reader.bytes()?)?,
                b"Port" => record.port = reader.number()?,
                b"Meta" => record.meta = meta(reader)?,
                b"Incarnation" => record.incarnation = reader.number()?,
                b"State" => record.state = reader.number()?,
                b"Vsn" => record.versions = versions(reader)?,
                _ if field == name_field => record.name = name(reader)?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        required(record.name)?;
        Ok(record)
    }

    fn endpoint(&self) -> Result<SocketAddr, Refused> {
        let address = self.address.ok_or(Refused::Empty("Addr"))?;
        Ok(SocketAddr::new(address, self.port))
    }
}

impl<'a> Alive<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Refused> {
        let record = Record::read(reader, b"Node")?;
        Ok(Self {
            incarnation: record.incarnation,
            node: record.name,
            endpoint: record.endpoint()?,
            meta: record.meta,
            versions: record.versions,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        write_address(writer.map(6).text("Addr"), self.endpoint.ip());
        writer.text("Incarnation").u64(u64::from(self.incarnation));
        writer.text("Meta").bytes_or_nil(self.meta).text("Node").text(self.node);
        writer.text("Port").u64(u64::from(self.endpoint.port()));
        write_versions(writer, self.versions);
    }
}

impl<'a> NodeState<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, Refused> {
        let record = Record::read(reader, b"Name")?;
        let status = match record.state {
            0 => Status::Alive,
            1 => Status::Suspect,
            2 => Status::Dead,
            3 => Status::Left,
            _ => return Err(Refused::Range),
        };
        Ok(Self {
            name: record.name,
            endpoint: record.endpoint()?,
            meta: record.meta,
            incarnation: record.incarnation,
            status,
            versions: record.versions,
        })
    }

    pub(crate) fn write(&self, writer: &mut Writer<'_>) {
        write_address(writer.map(7).text("Addr"), self.endpoint.ip());
        writer.text("Incarnation").u64(u64::from(self.incarnation));
        writer.text("Meta").bytes_or_nil(self.meta).text("Name").text(self.name);
        writer.text("Port").u64(u64::from(self.endpoint.port()));
        let state = match self.status {
            Status::Alive => 0,
            Status::Suspect => 1,
            Status::Dead => 2,
            Status::Left => 3,
        };
        writer.text("State").u64(state);
        write_versions(writer, self.versions);
    }
}
