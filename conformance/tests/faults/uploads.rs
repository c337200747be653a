//! A client agent that is cut off while values pass through it: row 51.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use conformance::{
    agent::alone,
    http::{Begun, Body, Request},
    pool::{LIMIT, Pool},
};
use serde_json::json;

use crate::write_through;

const SERVER: usize = 0;
const CLIENT: usize = 1;
/// Uploads at once: fewer than the streams of one connection.
const UPLOADS: usize = 60;

#[test]
fn row_51_an_agent_that_is_cut_off_in_the_middle_of_uploads_writes_whole_values_only() {
    let _alone = alone();
    let config = json!({ "performance": { "rpc_hold_timeout": "1s" } });
    let Some(mut pool) = Pool::in_network(1, 1, &config).unwrap() else { return };
    pool.wait_until_all_alive(LIMIT).unwrap();
    write_through(&pool.agents[CLIENT], "before", "1").unwrap();
    // One that the connection outlasts; and some after which both ends have given it up: 2 + 4 seconds without an answer.
    for (round, cut) in [1, 8, 8].into_iter().enumerate() {
        let written = uploads_end_whole_or_not_at_all(&mut pool, round, Duration::from_secs(cut));
        let written = written.unwrap();
        println!("row 51: {written} of {UPLOADS} written after {cut} s");
        assert!(written > 0 || cut > 1, "nothing outlasted a second");
    }
}

/// The value of an upload: short or long, and none is the beginning of another.
fn value(round: usize, n: usize) -> Vec<u8> {
    let length = if n.is_multiple_of(2) { 12 } else { 40_000 };
    format!("{round}-{n}-").into_bytes().into_iter().cycle().take(length).collect()
}

/// Begins uploads, each of which stops at another part of its value, none at its end; cuts the agent off for so long; goes on with one half
/// of them, and gives the others up. How many are written in the end.
fn uploads_end_whole_or_not_at_all(pool: &mut Pool, round: usize, cut: Duration) -> Result<usize> {
    let key = |n: usize| format!("row-51/{round}/{n}");
    let target = |n: usize| format!("/v1/kv/{}", key(n));
    for n in 0..UPLOADS {
        write_through(&pool.agents[SERVER], &key(n), "old")?;
    }
    let begin = |n: usize| {
        let value = value(round, n);
        // What comes in chunks passes through the agent as it comes; a few with a length, which it reads whole before. In
        // pairs, so that short and long values come in both ways.
        let body =
            if (n / 2).is_multiple_of(4) { Body::Sized(&value) } else { Body::Chunked(&value) };
        let request = Request { method: "PUT", target: &target(n), headers: &[], body };
        pool.agents[CLIENT].client().begin(&request, n * value.len() / UPLOADS)
    };
    let mut begun: Vec<Begun> = (0..UPLOADS).map(begin).collect::<Result<_>>()?;
    // What was sent is at the server by then.
    thread::sleep(Duration::from_millis(500));
    pool.network()?.unplug(CLIENT)?;
    thread::sleep(cut);
    pool.network()?.plug(CLIENT)?;
    drop(begun.split_off(UPLOADS / 2));
    let acknowledged = |begun: Begun| begun.finish().is_ok_and(|answer| answer.body == b"true");
    let acknowledged: Vec<bool> = begun.into_iter().map(acknowledged).collect();
    write_through(&pool.agents[CLIENT], "after", "1")?;
    let mut written = 0;
    for n in 0..UPLOADS {
        let answer = pool.agents[SERVER].client().get(&format!("{}?raw", target(n)))?;
        let whole = answer.body == value(round, n);
        ensure!(whole || answer.body == b"old", "{}: {:?}", key(n), answer.text());
        ensure!(whole || acknowledged.get(n) != Some(&true), "{} is lost", key(n));
        ensure!(!whole || n < UPLOADS / 2, "{} was given up, and is written", key(n));
        written += usize::from(whole);
    }
    Ok(written)
}
