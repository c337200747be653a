//! Gossip by somebody who means harm, with or without the key: rows 41 and 42.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Result, ensure};
use conformance::{
    agent::{Agent, alone},
    pool::{LIMIT, Pool},
    process::wait_for,
};
use gossip_wire::{
    envelope::Envelope,
    keyring::{Keyring, parse_key},
    memberlist::{Accusation, Alive, Encode, Message},
    packet::Scratch,
    serf,
};
use serde_json::json;

use crate::figure;

const KEY: &str = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s=";
const OTHER_KEY: &str = "3lg9DxVfKNzI8O+IQ5Ek+Q==";
/// Above every time that a pool of a test comes to, and far below what an extreme time would leave behind.
const PLAUSIBLE: u64 = 1 << 20;

/// Somebody with a socket.
struct Stranger {
    socket: UdpSocket,
    envelope: Envelope,
}

impl Stranger {
    fn new(envelope: Envelope) -> Self {
        Self { socket: UdpSocket::bind("127.0.0.1:0").unwrap(), envelope }
    }

    fn seal(&self, message: &impl Encode) -> Vec<u8> {
        let (mut scratch, mut datagram) = (Scratch::default(), Vec::new());
        self.envelope.seal_packet(&[message], true, &mut scratch, &mut datagram).unwrap();
        datagram
    }

    fn send(&self, datagram: &[u8], to: &Agent) {
        let to: SocketAddr = to.gossip_address().parse().unwrap();
        self.socket.send_to(datagram, to).unwrap();
    }

    fn send_to_all(&self, datagram: &[u8], pool: &Pool) {
        for agent in &pool.agents {
            self.send(datagram, agent);
        }
    }
}

fn with_key(key: &str) -> Envelope {
    let keyring = Keyring::new([parse_key(key).unwrap().as_bytes()]).unwrap();
    Envelope { keyring, ..Envelope::default() }
}

fn start(config: &serde_json::Value) -> Pool {
    let pool = Pool::on_loopback(3, 1, config).unwrap();
    pool.wait_until_all_alive(LIMIT).unwrap();
    pool
}

/// What each agent counted under this name so far; none where it doesn't answer.
fn counted(pool: &Pool, name: &str) -> Option<Vec<u64>> {
    let counted = |agent: &Agent| {
        // What was never counted isn't told; what the wire counts always is.
        figure(agent, "gossip_lan", "refused")?;
        Some(figure(agent, "gossip_lan", name).unwrap_or(0))
    };
    pool.agents.iter().map(counted).collect()
}

fn counts(pool: &Pool, name: &str) -> Result<Vec<u64>> {
    wait_for(name, LIMIT, || counted(pool, name))
}

/// Waits until each agent has counted so many more than it had.
fn wait_for_counts(pool: &Pool, name: &str, before: &[u64], more: u64) -> Result<()> {
    wait_for(&format!("{name}: {more} more"), LIMIT, || {
        let counts = counted(pool, name)?;
        counts.iter().zip(before).all(|(now, before)| *now >= before + more).then_some(())
    })
}

#[test]
fn row_41_extreme_incarnations_and_times_are_dropped_and_who_they_name_stays_alive() {
    let _alone = alone();
    let mut pool = start(&json!({}));
    extreme_incarnations(&pool).unwrap();
    extreme_times(&pool).unwrap();
    // A clock that had wrapped would give times that are old to everybody: then nobody would hear of an event, and who
    // leaves would seem to have failed.
    let fired = pool.agents[3].client().put("/v1/event/fire/after", b"").unwrap();
    assert_eq!(fired.status, 200, "{}", fired.text());
    for agent in &pool.agents {
        wait_for("the event", LIMIT, || {
            let heard = agent.client().get("/v1/event/list?name=after").ok()?.json().ok()?;
            (heard.as_array()?.len() == 1).then_some(())
        })
        .unwrap();
    }
    assert_eq!(pool.count(&["EventMemberFailed"]), 0, "{}", pool.logs());
    assert_eq!(pool.agents[3].client().put("/v1/agent/leave", b"").unwrap().status, 200);
    pool.agents[3].process.wait(LIMIT).unwrap();
    pool.wait_until_all_see(&pool.alive_but(&[3], "left"), LIMIT).unwrap();
}

/// `dead` of the highest incarnation of 32 bits has a real member wrap its own, after which nobody believes it.
fn extreme_incarnations(pool: &Pool) -> Result<()> {
    let stranger = Stranger::new(Envelope::default());
    let victim = &pool.agents[3];
    let endpoint: SocketAddr = victim.gossip_address().parse()?;
    let before = counts(pool, "dropped_incarnation")?;
    let extremes = [u32::MAX, 1 << 31];
    for incarnation in extremes {
        let accusation = Accusation { incarnation, node: &victim.name, from: "s1" };
        let alive = Alive {
            incarnation,
            node: &victim.name,
            endpoint,
            meta: &[],
            versions: Some([1, 5, 2, 2, 5, 4]),
        };
        let messages =
            [Message::Dead(accusation), Message::Suspect(accusation), Message::Alive(alive)];
        for datagram in messages.map(|message| stranger.seal(&message)) {
            stranger.send_to_all(&datagram, pool);
        }
    }
    wait_for_counts(pool, "dropped_incarnation", &before, 6)?;
    pool.wait_until_all_alive(LIMIT)?;
    // The highest that is taken at all: who is accused goes there, and stays alive (SWIM-10).
    let incarnation = (1 << 31) - 1;
    let accusation = Accusation { incarnation, node: &victim.name, from: "s1" };
    let datagram = stranger.seal(&Message::Dead(accusation));
    stranger.send_to_all(&datagram, pool);
    let refuted = format!("now at incarnation {incarnation}");
    wait_for("a refutation", LIMIT, || (victim.count(&[&refuted]) > 0).then_some(()))?;
    pool.wait_until_all_alive(LIMIT)
}

/// A time of 2^64 - 1 sets the clocks of real members to 0.
fn extreme_times(pool: &Pool) -> Result<()> {
    let stranger = Stranger::new(Envelope::default());
    let before = counts(pool, "implausible_time")?;
    let extremes = [u64::MAX, 1 << 62];
    for ltime in extremes {
        let messages = [
            serf::Message::Join(serf::Join { ltime, node: "c1" }),
            serf::Message::Leave(serf::Leave { ltime, node: "s2", prune: true }),
            serf::Message::UserEvent(serf::UserEvent {
                ltime,
                name: "consul:event:deploy",
                payload: &[],
                coalesce: false,
            }),
        ];
        for datagram in messages.map(|message| stranger.seal(&message)) {
            stranger.send_to_all(&datagram, pool);
        }
    }
    wait_for_counts(pool, "implausible_time", &before, 6)?;
    for agent in &pool.agents {
        for clock in ["member_time", "event_time", "query_time"] {
            let time = figure(agent, "serf_lan", clock);
            let plausible = time.is_some_and(|time| (1..PLAUSIBLE).contains(&time));
            ensure!(plausible, "{clock} of {}: {time:?}", agent.name);
        }
    }
    pool.wait_until_all_alive(LIMIT)
}

#[test]
fn row_42_forged_and_replayed_gossip_is_dropped_or_refuted() {
    let _alone = alone();
    let pool = start(&json!({ "encrypt": KEY }));
    without_the_key(&pool).unwrap();
    with_the_key(&pool).unwrap();
}

fn accusation(incarnation: u32) -> Message<'static> {
    Message::Dead(Accusation { incarnation, node: "c1", from: "s1" })
}

/// How many accusations the client refuted besides its own servers' suspicions, which a busy machine may give rise to.
fn refutations(pool: &Pool) -> usize {
    // Each server suspects it once at most until it is refuted, and each suspicion is refuted once at most.
    let refuted = pool.agents[3].count(&["Refuting an accusation"]);
    refuted.saturating_sub(pool.count(&["memberlist: Suspect c1 "]))
}

/// Whoever hasn't the key can't say anything.
fn without_the_key(pool: &Pool) -> Result<()> {
    let before = counts(pool, "refused")?;
    for envelope in [with_key(OTHER_KEY), Envelope::default()] {
        let stranger = Stranger::new(envelope);
        let datagram = stranger.seal(&accusation(1000));
        stranger.send_to_all(&datagram, pool);
    }
    wait_for_counts(pool, "refused", &before, 2)?;
    pool.wait_until_all_alive(LIMIT)?;
    ensure!(pool.count(&["EventMemberFailed"]) == 0, "{}", pool.logs());
    let refutations = refutations(pool);
    ensure!(refutations == 0, "a forgery was believed {refutations} times\n{}", pool.logs());
    Ok(())
}

/// Whoever has it, or has heard what somebody said who has it, is refuted by the one that it is about.
fn with_the_key(pool: &Pool) -> Result<()> {
    let insider = Stranger::new(with_key(KEY));
    let datagram = insider.seal(&accusation(1000));
    let failed = ["EventMemberFailed: c1 "];
    insider.send(&datagram, &pool.agents[1]);
    let refuted = "now at incarnation 1001";
    wait_for("a failure and its refutation", LIMIT, || {
        let victim = pool.agents[3].count(&["Refuting an accusation", refuted]);
        (pool.agents[1].count(&failed) == 1 && victim == 1).then_some(())
    })?;
    pool.wait_until_all_alive(LIMIT)?;
    // The same bytes again, by somebody who can't read them: what they say was refuted.
    let stranger = Stranger::new(with_key(OTHER_KEY));
    let (before, refused) = (pool.count(&failed), counts(pool, "refused")?);
    for agent in &pool.agents {
        for _ in 0..20 {
            stranger.send(&datagram, agent);
        }
        // Datagrams of one socket are taken in their order: this one's refusal shows that those were heard.
        stranger.send(&stranger.seal(&accusation(1000)), agent);
    }
    wait_for_counts(pool, "refused", &refused, 1)?;
    // One more turn of everybody's machine: what was heard has been answered.
    std::thread::sleep(Duration::from_millis(500));
    pool.wait_until_all_alive(LIMIT)?;
    ensure!(pool.count(&failed) == before, "a replay was believed:\n{}", pool.logs());
    let refutations = refutations(pool);
    ensure!(refutations <= 1, "a replay was refuted again: {refutations}\n{}", pool.logs());
    Ok(())
}
