//! Rotation of gossip's keys while a member is down: row 50.

use anyhow::{Result, ensure};
use conformance::{
    agent::alone,
    pool::{LIMIT, Pool, keyring},
    process::wait_for,
};
use serde_json::json;

const KEY: &str = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s=";
const NEXT: &str = "3lg9DxVfKNzI8O+IQ5Ek+Q==";
/// The member that is down.
const DOWN: usize = 3;

#[test]
fn row_50_keys_are_rotated_while_a_member_is_down_and_the_pool_stays_one() {
    let _alone = alone();
    let mut pool = Pool::on_loopback(3, 1, &json!({ "encrypt": KEY })).unwrap();
    pool.wait_until_all_alive(LIMIT).unwrap();
    who_is_down_holds_the_rotation_up(&mut pool).unwrap();
    who_was_forced_out_is_not_let_in_with_the_old_key(&mut pool).unwrap();
}

/// How many members of the LAN's pool hold a key; none where nobody does, or some don't answer.
fn held(pool: &Pool, key: &str) -> Option<u64> {
    let answer = keyring(&pool.agents[0], "GET", "").ok()?;
    let rings = (answer.status == 200).then(|| answer.json().ok())??;
    let lan = rings.as_array()?.iter().find(|ring| ring["WAN"] == false)?;
    lan["Keys"][key].as_u64()
}

/// Does what must be answered by everybody, again where an answer was lost on a busy machine.
fn done(pool: &Pool, method: &str, key: &str) -> Result<()> {
    wait_for(&format!("{method} of a key"), LIMIT, || {
        let answer = keyring(&pool.agents[0], method, key).ok()?;
        (answer.status == 200).then_some(())
    })
}

/// A failed member comes back with the keys that it had: it counts, and what isn't done by all isn't done.
fn who_is_down_holds_the_rotation_up(pool: &mut Pool) -> Result<()> {
    let name = pool.agents[DOWN].name.clone();
    pool.agents[DOWN].process.kill()?;
    pool.wait_until_all_see(&pool.alive_but(&[DOWN], "failed"), LIMIT)?;
    for method in ["POST", "PUT"] {
        let answer = keyring(&pool.agents[0], method, NEXT)?;
        let says = answer.text();
        ensure!(answer.status == 500, "{method}: {says}");
        ensure!(says.contains("3/4 nodes reported success"), "{method}: {says}");
        ensure!(says.contains(&format!("{name}: did not answer")), "{method}: {says}");
    }
    // Nobody uses the new key: the one that was down understands everybody, and is understood.
    pool.agents[DOWN].process.restart()?;
    pool.wait_until_all_alive(LIMIT)?;
    // With all there, the rotation is taken up where it stood.
    done(pool, "POST", NEXT)?;
    wait_for("all to hold the next key", LIMIT, || (held(pool, NEXT)? == 4).then_some(()))?;
    done(pool, "PUT", NEXT)?;
    done(pool, "DELETE", KEY)?;
    ensure!(held(pool, KEY).is_none(), "the old key is gone");
    pool.wait_until_all_alive(LIMIT)
}

/// Forced out, it holds nothing up. With its old keys it is no member any more, and is told why; the others stay one pool.
fn who_was_forced_out_is_not_let_in_with_the_old_key(pool: &mut Pool) -> Result<()> {
    let name = pool.agents[DOWN].name.clone();
    pool.agents[DOWN].process.kill()?;
    pool.wait_until_all_see(&pool.alive_but(&[DOWN], "failed"), LIMIT)?;
    let answer = pool.agents[0].client().put(&format!("/v1/agent/force-leave/{name}"), b"")?;
    ensure!(answer.status == 200, "{answer:?}");
    pool.wait_until_all_see(&pool.alive_but(&[DOWN], "left"), LIMIT)?;
    for (method, key) in [("POST", KEY), ("PUT", KEY), ("DELETE", NEXT)] {
        done(pool, method, key)?;
    }
    let agent = &mut pool.agents[DOWN];
    let refused = ["(LAN) couldn't join", "key"];
    let failures = agent.count(&refused);
    agent.process.restart()?;
    wait_for("a clear error", LIMIT, || (agent.count(&refused) > failures).then_some(()))?;
    ensure!(agent.members().is_some_and(|seen| seen.len() == 1), "alone, by its own word");
    let others: Vec<usize> = pool.servers();
    pool.wait_until_these_see(&others, &pool.alive_but(&[DOWN], "left"), LIMIT)?;
    // The operator gives it the key of the pool: its file is where the keys are.
    let file = pool.agents[DOWN].data_dir().join("serf/local.keyring");
    pool.agents[DOWN].process.kill()?;
    std::fs::copy(pool.agents[0].data_dir().join("serf/local.keyring"), file)?;
    pool.agents[DOWN].process.restart()?;
    pool.wait_until_all_alive(LIMIT)
}
