//! How a connection between servers opens.
//!
//! The side that dialled sends four bytes and a [`Hello`]; the other answers with a [`Welcome`] or a [`Refusal`], and
//! closes in the latter case. Nothing else is read before that: a server of another cluster, or one that meant the
//! server that lived at this address before, gets no further.

use std::{fmt, io};

use bincode::{Decode, Encode};
use spec::{
    codec,
    raft::{ClusterId, ServerId},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What a connection begins with; no protocol that Consul speaks on its server port does.
const MAGIC: [u8; 4] = *b"PCNS";
/// The version of what follows the hello.
pub const PROTOCOL: u16 = 1;
/// The longest hello and the longest answer, in bytes.
const LIMIT: usize = 1024;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Class {
    /// Raft's small messages, one way.
    Raft,
    /// Requests and responses.
    Rpc,
    /// Chunks of snapshots, one way: Raft's other messages never wait behind them.
    Bulk,
    /// Requests of the clients of an agent that is no server, as HTTP/2.
    Http,
}

/// What the side that dialled says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub(super) struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u16,
    /// What the connection is for.
    pub class: Class,
    /// The cluster that it belongs to.
    pub cluster: Option<ClusterId>,
    /// Who it is.
    pub from: ServerId,
    /// Whom it wants to talk to; none where it knows no more than an address.
    pub to: Option<ServerId>,
    /// Where it answers itself: a server whose log is old may not know a leader that joined since.
    pub address: Option<String>,
}

/// What the side that was dialled says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub(super) struct Welcome {
    /// The cluster that it belongs to.
    pub cluster: Option<ClusterId>,
    /// Who it is.
    pub server: ServerId,
}

/// Why a connection was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Refusal {
    /// It speaks another version.
    Protocol {
        /// The version that the refusing side speaks.
        speaks: u16,
    },
    /// It belongs to another cluster.
    Cluster {
        /// The refusing side's; none where it has none and Raft's messages need one.
        belongs_to: Option<ClusterId>,
    },
    /// Another server lives here.
    Addressee {
        /// The refusing side.
        is: ServerId,
    },
    /// Its address has as many connections as allowed.
    TooManyConnections,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol { speaks } => {
                write!(f, "it speaks version {speaks} of the protocol, this server {PROTOCOL}")
            }
            Self::Cluster { belongs_to: Some(cluster) } => {
                write!(f, "it belongs to another cluster ({:032x})", cluster.0)
            }
            Self::Cluster { belongs_to: None } => f.write_str("it belongs to no cluster yet"),
            Self::Addressee { is } => {
                write!(f, "another server lives there: node {}, disk {:016x}", is.node, is.disk.0)
            }
            Self::TooManyConnections => f.write_str("too many connections from this address"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
enum Answer {
    Welcome(Welcome),
    Refused(Refusal),
}

impl Hello {
    /// Whether a server that is `own` takes the connection.
    pub(super) fn check(&self, own: Welcome) -> Result<(), Refusal> {
        if self.protocol != PROTOCOL {
            return Err(Refusal::Protocol { speaks: PROTOCOL });
        }
        if self.to.is_some_and(|to| to != own.server) {
            return Err(Refusal::Addressee { is: own.server });
        }
        let agree = match (self.cluster, own.cluster) {
            (Some(theirs), Some(ours)) => theirs == ours,
            // Servers that look for a cluster talk to anybody, but Raft's messages belong to one: a server that
            // promised itself to one set must not be drawn into another's log.
            (None, _) | (_, None) if self.class == Class::Rpc => true,
            // An agent that is no server belongs where its servers do. One that is in no cluster yet would only hold
            // its requests, which another server could answer.
            (None, Some(_)) => self.class == Class::Http,
            (_, None) => false,
        };
        if agree { Ok(()) } else { Err(Refusal::Cluster { belongs_to: own.cluster }) }
    }
}

async fn write<T: Encode>(stream: &mut TcpStream, mut bytes: Vec<u8>, value: &T) -> io::Result<()> {
    codec::frame(value, &mut bytes);
    stream.write_all(&bytes).await
}

async fn read<T: Decode<()>>(stream: &mut TcpStream) -> io::Result<T> {
    let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut header = [0; 4];
    stream.read_exact(&mut header).await?;
    let length = codec::frame_length::<LIMIT>(header).map_err(malformed)?;
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    codec::unframe::<T, LIMIT>(&frame).map_err(malformed)
}

/// Opens a connection that this side dialled.
pub(super) async fn open(
    stream: &mut TcpStream,
    hello: &Hello,
) -> io::Result<Result<Welcome, Refusal>> {
    write(stream, MAGIC.to_vec(), hello).await?;
    Ok(match read(stream).await? {
        Answer::Welcome(welcome) => Ok(welcome),
        Answer::Refused(refusal) => Err(refusal),
    })
}

/// Reads what the side that dialled says of itself.
pub(super) async fn receive(stream: &mut TcpStream) -> io::Result<Hello> {
    let mut magic = [0; 4];
    stream.read_exact(&mut magic).await?;
    if magic != MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a server of ours"));
    }
    read(stream).await
}

/// Takes the connection.
pub(super) async fn welcome(stream: &mut TcpStream, own: Welcome) -> io::Result<()> {
    write(stream, vec![], &Answer::Welcome(own)).await
}

/// Refuses the connection, and lets the reason arrive before the end.
pub(super) async fn refuse(stream: &mut TcpStream, refusal: Refusal) -> io::Result<()> {
    write(stream, vec![], &Answer::Refused(refusal)).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::stand_still;

    fn hello(class: Class, cluster: Option<u128>, to: Option<ServerId>) -> Hello {
        let cluster = cluster.map(ClusterId);
        Hello { protocol: PROTOCOL, class, cluster, from: ServerId::new(9, 9), to, address: None }
    }

    #[test]
    fn only_the_same_cluster_and_the_meant_server_get_in() {
        let me = ServerId::new(1, 1);
        let own = |cluster: Option<u128>| Welcome { cluster: cluster.map(ClusterId), server: me };
        let other = |cluster: Option<u128>| Refusal::Cluster { belongs_to: cluster.map(ClusterId) };
        assert_eq!(hello(Class::Raft, Some(7), Some(me)).check(own(Some(7))), Ok(()));
        assert_eq!(hello(Class::Raft, Some(8), Some(me)).check(own(Some(7))), Err(other(Some(7))));
        assert_eq!(hello(Class::Rpc, Some(8), None).check(own(Some(7))), Err(other(Some(7))));
        assert_eq!(hello(Class::Raft, Some(8), Some(me)).check(own(None)), Err(other(None)));
        assert_eq!(hello(Class::Bulk, None, Some(me)).check(own(Some(7))), Err(other(Some(7))));
        assert_eq!(hello(Class::Rpc, None, None).check(own(Some(7))), Ok(()));
        assert_eq!(hello(Class::Rpc, Some(7), None).check(own(None)), Ok(()));
        assert_eq!(hello(Class::Http, None, None).check(own(Some(7))), Ok(()));
        assert_eq!(hello(Class::Http, None, None).check(own(None)), Err(other(None)));
        assert_eq!(hello(Class::Http, Some(8), None).check(own(Some(7))), Err(other(Some(7))));
        // The same node with a wiped disk is another server.
        let wiped = Some(ServerId::new(1, 2));
        let refusal = Refusal::Addressee { is: me };
        assert_eq!(hello(Class::Raft, Some(7), wiped).check(own(Some(7))), Err(refusal));
        let newer = Hello { protocol: 2, ..hello(Class::Rpc, None, None) };
        assert_eq!(newer.check(own(None)), Err(Refusal::Protocol { speaks: PROTOCOL }));
    }

    #[test]
    fn the_bytes_of_a_hello_stand_still() {
        let hello = hello(Class::Bulk, Some(3), Some(ServerId::new(1, 2)));
        let mut bytes = vec![];
        codec::frame(&hello, &mut bytes);
        assert_eq!(bytes, [11, 0, 0, 0, 1, 1, 2, 1, 3, 9, 9, 1, 1, 2, 0]);
        let hello = Hello { class: Class::Http, cluster: None, to: None, ..hello };
        bytes.clear();
        codec::frame(&hello, &mut bytes);
        assert_eq!(bytes, [8, 0, 0, 0, 1, 1, 3, 0, 9, 9, 0, 0]);
        let classes =
            vec![(Class::Raft, "00"), (Class::Rpc, "01"), (Class::Bulk, "02"), (Class::Http, "03")];
        stand_still(4, classes);
    }

    #[test]
    fn the_bytes_of_the_answer_to_a_hello_stand_still() {
        let server = ServerId::new(1, 7);
        let welcome = |cluster| Answer::Welcome(Welcome { cluster, server });
        let refused = Answer::Refused;
        let cluster = Some(ClusterId(300));
        stand_still(
            2,
            vec![
                (welcome(None), "00000107"),
                (welcome(cluster), "0001fb2c010107"),
                (refused(Refusal::Protocol { speaks: 300 }), "0100fb2c01"),
                (refused(Refusal::Cluster { belongs_to: None }), "010100"),
                (refused(Refusal::Cluster { belongs_to: cluster }), "010101fb2c01"),
                (refused(Refusal::Addressee { is: server }), "01020107"),
                (refused(Refusal::TooManyConnections), "0103"),
            ],
        );
        stand_still::<Refusal>(4, vec![]);
    }
}
