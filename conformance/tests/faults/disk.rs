//! A disk without room: row 31.

use std::time::Instant;

use anyhow::{Result, ensure};
use conformance::{
    agent::{Agent, Options, Place, alone},
    http::Address,
    pool::LIMIT,
    ports::Ports,
    process::wait_for,
    volume::Volume,
    writers::{Spread, Writers},
};
use serde_json::json;
use tempfile::TempDir;

use crate::{WRITES_GO_ON, write_through};

/// Room for the log's first segments, of 4, 8, 16 and 32 MiB, and little more.
const MIB: u32 = 80;
const VALUE: usize = 256 << 10;

#[test]
fn row_31_a_full_disk_is_told_and_passes() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let Some((servers, volumes)) = on_volumes(&folder, 3).unwrap() else { return };
    let http: Vec<Address> = servers.iter().map(|server| server.http().clone()).collect();
    let writers = Writers::start(&http, 4, Spread::All, 31);
    writers.wait_for_write(LIMIT).unwrap();
    the_leader_s_disk_is_full(&servers, &volumes, &writers).unwrap();
    let tally = writers.stop().judge(&servers.iter().collect::<Vec<_>>()).unwrap();
    println!("{tally:?}");
    assert!(tally.acknowledged > 20, "{tally:?}");
}

#[test]
fn row_31_who_is_alone_with_a_full_disk_refuses_writes_and_reads_on() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let Some((servers, volumes)) = on_volumes(&folder, 1).unwrap() else { return };
    let (server, volume) = (&servers[0], &volumes[0]);
    write_through(server, "row-31", "before").unwrap();
    volume.fill().unwrap();
    wait_until_refused(server).unwrap();
    let answer = server.client().get("/v1/kv/row-31?raw&stale").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "before"));
    volume.free().unwrap();
    write_through(server, "row-31", "after").unwrap();
    let answer = server.client().get("/v1/kv/row-31?raw").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "after"));
}

/// Servers whose data lie on a volume each.
fn on_volumes(folder: &TempDir, servers: usize) -> Result<Option<(Vec<Agent>, Vec<Volume>)>> {
    let place = |_| Ok(Place::loopback(Ports::take()?));
    let places = (0..servers).map(place).collect::<Result<Vec<_>>>()?;
    let join: Vec<String> = places.iter().map(Place::gossip_address).collect();
    let (mut agents, mut volumes) = (Vec::new(), Vec::new());
    for (n, place) in places.into_iter().enumerate() {
        let name = format!("s{}", n + 1);
        let data = folder.path().join(&name).join("data");
        let Some(volume) = Volume::mount(&data, MIB)? else { return Ok(None) };
        volumes.push(volume);
        let config = json!({
            "bootstrap_expect": servers, "retry_join": join, "retry_interval": "1s",
        });
        agents.push(Agent::start_at(place, &Options::ours(&name)?.config(config), folder.path())?);
    }
    for agent in &mut agents {
        agent.wait_until_ready(LIMIT)?;
    }
    Ok(Some((agents, volumes)))
}

/// Writes large values until one is refused for want of room.
fn wait_until_refused(server: &Agent) -> Result<()> {
    let mut last = None;
    let refused = wait_for("a write that is refused", LIMIT, || {
        let answer = server.client().put("/v1/kv/large", &vec![b'x'; VALUE]).ok()?;
        let refused = answer.status == 503 && answer.text().contains("disk is full");
        last = Some(answer);
        refused.then_some(())
    });
    refused.map_err(|error| {
        let last = last.map(|answer| (answer.status, answer.text()));
        anyhow::anyhow!("{error}: {last:?}\n{}", server.process.log_tail(30))
    })
}

fn the_leader_s_disk_is_full(
    servers: &[Agent],
    volumes: &[Volume],
    writers: &Writers,
) -> Result<()> {
    let place = |among: &[usize]| {
        let leader = servers[*among.first()?].leader()?;
        among.iter().copied().find(|at| servers[*at].server_address() == leader)
    };
    let full = wait_for("a leader", LIMIT, || place(&[0, 1, 2]))?;
    let others: Vec<usize> = (0..servers.len()).filter(|at| *at != full).collect();
    volumes[full].fill()?;
    let start = Instant::now();
    // What it has of its segments is used up first.
    wait_for("another leader", LIMIT, || {
        let _ = servers[others[0]].client().put("/v1/kv/large", &vec![b'x'; VALUE]);
        place(&others)
    })?;
    let took = writers.wait_for_write(WRITES_GO_ON)?;
    println!(
        "row 31: another leads {:?} after the disk was full, and writes {took:?} later",
        start.elapsed()
    );
    // More than the first segments hold: by then it can't follow either.
    for n in 0..64 {
        servers[others[0]].write(&format!("large-{n}"), vec![b'x'; VALUE], LIMIT)?;
    }
    write_through(&servers[others[0]], "row-31", "others")?;
    ensure!(servers[full].count(&["disk is full"]) > 0, "{}", servers[full].process.log_tail(30));
    let answer = servers[full].client().get("/v1/kv/large?raw&stale")?;
    ensure!(answer.status == 200 && answer.body.len() == VALUE, "{}", answer.status);
    let answer = servers[full].client().get("/v1/kv/row-31?raw&stale")?;
    ensure!(answer.status == 404, "it follows without room: {answer:?}");
    volumes[full].free()?;
    let start = Instant::now();
    wait_for("the server to catch up", LIMIT, || {
        let answer = servers[full].client().get("/v1/kv/row-31?raw&stale").ok()?;
        (answer.text() == "others").then_some(())
    })?;
    println!("row 31: it has caught up {:?} after there was room", start.elapsed());
    write_through(&servers[full], "row-31", "whole")?;
    Ok(())
}
