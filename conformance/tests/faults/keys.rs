//! Rotation of gossip's keys while a member is down, or can't write them: rows 50 and 52.

use anyhow::{Result, ensure};
use conformance::{
    agent::alone,
    pool::{LIMIT, Pool, change_keyring, keyring},
    process::wait_for,
};
use serde_json::{Value, json};

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

#[test]
fn row_52_a_keyring_that_cant_be_written_is_refused_and_the_old_one_is_used() {
    let _alone = alone();
    let mut pool = Pool::on_loopback(1, 1, &json!({ "encrypt": KEY })).unwrap();
    pool.wait_until_all_alive(LIMIT).unwrap();
    who_cant_write_says_so(&mut pool).unwrap();
}

/// Its disk takes no keyring: the operator is told why, and it comes back with the keys that it had.
fn who_cant_write_says_so(pool: &mut Pool) -> Result<()> {
    let (folder, name) = (pool.agents[1].data_dir().join("serf"), pool.agents[1].name.clone());
    let file = folder.join("local.keyring");
    let before = std::fs::read(&file)?;
    // What the new file would be called is taken, for whomever the agent runs as.
    let obstacle = folder.join("local.keyring.new");
    std::fs::create_dir(&obstacle)?;
    let why = format!("{name}: Failed to write keyring file: ");
    for (method, key) in [("POST", NEXT), ("PUT", KEY), ("DELETE", NEXT)] {
        let refused = wait_for(&format!("{method} that the member answers"), LIMIT, || {
            let answer = keyring(&pool.agents[0], method, key).ok()?;
            // On a busy machine it may not have answered.
            (!answer.text().contains(&format!("{name}: did not answer"))).then_some(answer)
        })?;
        let says = refused.text();
        ensure!(refused.status == 500 && says.contains("1/2 nodes reported failure"), "{says}");
        ensure!(says.contains(&why) && says.contains("Is a directory"), "{method}: {says}");
    }
    // To list is possible, with a warning.
    let ring = wait_for("a list", LIMIT, || lan(pool))?;
    let warning = ring["Messages"][&name].as_str().unwrap_or_default();
    ensure!(warning.contains("Is a directory"), "{ring}");
    let expected = json!({ KEY: 2, NEXT: 1 });
    ensure!(ring["Keys"] == expected && ring["PrimaryKeys"] == json!({ KEY: 2 }), "{ring}");
    pool.agents[1].process.kill()?;
    ensure!(std::fs::read(&file)? == before, "it is as it was");
    pool.agents[1].process.restart()?;
    pool.wait_until_all_alive(LIMIT)?;
    let listed = || Some(lan(pool)?["Keys"] == expected);
    ensure!(wait_for("a list", LIMIT, listed)?, "it has the keys that it had");
    // Once it can write, nothing is left of that.
    std::fs::remove_dir(&obstacle)?;
    done(pool, "POST", NEXT)?;
    pool.agents[1].process.kill()?;
    pool.agents[1].process.restart()?;
    pool.wait_until_all_alive(LIMIT)?;
    wait_for("all to hold the next key", LIMIT, || (held(pool, NEXT)? == 2).then_some(()))
}

/// The keys of the LAN's pool, as they are listed; none where some don't answer.
fn lan(pool: &Pool) -> Option<Value> {
    let answer = keyring(&pool.agents[0], "GET", "").ok()?;
    let rings = (answer.status == 200).then(|| answer.json().ok())??;
    rings.as_array()?.iter().find(|ring| ring["WAN"] == false).cloned()
}

/// How many members of the LAN's pool hold a key; none where some don't answer.
fn held(pool: &Pool, key: &str) -> Option<u64> {
    lan(pool)?["Keys"].as_object()?.get(key).map_or(Some(0), Value::as_u64)
}

fn done(pool: &Pool, method: &str, key: &str) -> Result<()> {
    change_keyring(&pool.agents[0], method, key)
}

/// A failed member comes back with the keys that it had: it counts, and what isn't done by all isn't done.
fn who_is_down_holds_the_rotation_up(pool: &mut Pool) -> Result<()> {
    let name = pool.agents[DOWN].name.clone();
    pool.agents[DOWN].process.kill()?;
    pool.wait_until_all_see(&pool.alive_but(&[DOWN], "failed"), LIMIT)?;
    for method in ["POST", "PUT"] {
        let down = format!("{name}: did not answer");
        let refused = wait_for(&format!("{method} that all but one answer"), LIMIT, || {
            let answer = keyring(&pool.agents[0], method, NEXT).ok()?;
            let says = answer.text();
            // On a busy machine one more may not have answered.
            let told = says.contains("3/4 nodes reported success") && says.contains(&down);
            (answer.status != 500 || told).then_some(answer)
        })?;
        ensure!(refused.status == 500, "{method}: {}", refused.text());
    }
    list_names_who_is_down(pool, &name)?;
    // Nobody uses the new key: the one that was down understands everybody, and is understood.
    pool.agents[DOWN].process.restart()?;
    pool.wait_until_all_alive(LIMIT)?;
    // With all there, the rotation is taken up where it stood.
    done(pool, "POST", NEXT)?;
    wait_for("all to hold the next key", LIMIT, || (held(pool, NEXT)? == 4).then_some(()))?;
    done(pool, "PUT", NEXT)?;
    done(pool, "DELETE", KEY)?;
    wait_for("the old key's end", LIMIT, || (held(pool, KEY)? == 0).then_some(()))?;
    pool.wait_until_all_alive(LIMIT)
}

/// To list keys changes none: those that are there are counted, and who is down is named.
fn list_names_who_is_down(pool: &Pool, name: &str) -> Result<()> {
    let ring = wait_for("a list", LIMIT, || lan(pool))?;
    let told = &ring["Messages"][name];
    ensure!(told == "has failed: its keys are not counted", "{ring}");
    ensure!(
        ring["NumNodes"] == 3 && ring["Keys"][KEY] == 3 && ring["PrimaryKeys"][KEY] == 3,
        "{ring}"
    );
    Ok(())
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
