//! Membership as one machine: SWIM (Das, Gupta and Motivala 2002) with Lifeguard (Dadgar, Phillips and Currey 2018),
//! by the rules of HashiCorp's memberlist but for the divergences that `prose/swim.md` lists.
//!
//! | file | what it specifies |
//! |---|---|
//! | [`types`] | names, incarnations, members, what is durable, the layer on top |
//! | [`message`] | what members send each other |
//! | [`interface`] | commands, outputs, timers |
//! | [`config`] | the settings and their profiles |
//! | [`node`] | the machine: state and dispatch |
//! | [`member`](self) | announcements, accusations, deaths, reaping |
//! | [`own`] | a member's own incarnations, refutation, leaving |
//! | [`probe`] | pings, relays, nacks |
//! | [`suspicion`] | how long a suspicion lasts |
//! | [`refusal`] | what a refused stream says of a suspect |
//! | [`awareness`] | local health |
//! | [`broadcast`] | the queue of gossip, and what goes into a datagram |
//! | [`push_pull`] | the exchange of whole tables |
//! | [`invariant`] | what must hold within one node |

pub mod awareness;
pub mod broadcast;
pub mod config;
pub mod interface;
pub mod invariant;
mod member;
pub mod message;
pub mod node;
pub mod own;
pub mod probe;
pub mod push_pull;
pub mod refusal;
pub mod suspicion;
pub mod types;

pub use config::Config;
pub use interface::{Command, Dropped, ExchangeError, Output, Timer};
pub use message::{Ack, Alive, Dead, IndirectPing, Message, Nack, Part, Ping, PushPull, Suspect};
pub use node::Node;
pub use types::{
    Durable, Endpoint, Incarnation, Layer, Member, MemberState, Name, NoLayer, Peer, Status,
    Versions,
};
