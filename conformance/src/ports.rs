//! Loopback ports for processes under test: blocks that no two tests share, whichever processes they run in.
//!
//! A block is held by a listener on its first port for as long as the block lives, so another process that tries the
//! same block fails on that port. The ports lie below the range from which the kernel takes the ports of outgoing
//! connections: otherwise a client's connection could sit on a port between its choice and the server's bind.

use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Result, bail};

/// The lowest port of the first block.
const FIRST: u16 = 10_000;
/// How many blocks there are: the last one ends below 32,768, where Linux starts with outgoing ports.
const BLOCKS: u16 = 1_130;
/// Ports in a block, with the one that holds it.
const SIZE: u16 = 20;

/// A block of ports on 127.0.0.1, given back on drop; or one of a network namespace where nobody else is.
#[derive(Debug)]
pub struct Ports {
    base: u16,
    _guard: Option<TcpListener>,
}

impl Ports {
    /// Takes a free block: every port of it can be bound, TCP and UDP, at this moment.
    pub fn take() -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Each process starts elsewhere, so that they seldom meet.
        let start = (process::id() % u32::from(BLOCKS)).wrapping_mul(37);
        for _ in 0..BLOCKS {
            let n = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            let block = u16::try_from((start + n) % u32::from(BLOCKS))?;
            let base = FIRST + block * SIZE;
            let Ok(guard) = TcpListener::bind(loopback(base)) else { continue };
            if (base + 1..base + SIZE).all(is_free) {
                return Ok(Self { base, _guard: Some(guard) });
            }
        }
        bail!("no {SIZE} free ports in a row on 127.0.0.1 from {FIRST} on")
    }

    /// The block of a network namespace whose one agent has all ports to itself.
    pub const fn of_a_namespace() -> Self {
        Self { base: FIRST, _guard: None }
    }

    /// The `n`th port of the block, from 0; there are 19.
    pub fn port(&self, n: u16) -> u16 {
        assert!(n + 1 < SIZE, "a block has {} ports", SIZE - 1);
        self.base + 1 + n
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(loopback(port)).is_ok() && UdpSocket::bind(loopback(port)).is_ok()
}

fn loopback(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn blocks_that_are_held_at_once_share_no_port() {
        let blocks: Vec<Ports> = (0..8).map(|_| Ports::take().unwrap()).collect();
        let ports: BTreeSet<u16> =
            blocks.iter().flat_map(|block| (0..19).map(|n| block.port(n))).collect();
        assert_eq!(ports.len(), 8 * 19);
    }

    #[test]
    fn a_held_block_is_refused_to_others() {
        let block = Ports::take().unwrap();
        assert!(TcpListener::bind(loopback(block.base)).is_err());
    }
}
