//! The harness starts and stops the real peers: what later tests compare with is what it claims to be.

use conformance::peers::{self, Etcd};
use serde_json::json;

/// Tells that a test was left out for want of a peer; fails where the peers must be there.
fn left_out(peer: &str) {
    assert!(!peers::required(), "{peer} must be there: run conformance/peers/get target/peers");
    eprintln!("left out: no {peer} (conformance/peers/get target/peers fetches it)");
}

#[test]
fn a_real_consul_starts_answers_and_stops() {
    let Some((agents, _folder)) = peers::consul_cluster(1, &json!({})).unwrap() else {
        return left_out("consul");
    };
    let mut client = agents[0].client();
    assert_eq!(client.put("/v1/kv/a", b"1").unwrap().text(), "true");
    let answer = client.get("/v1/kv/a?raw").unwrap();
    assert_eq!(answer.text(), "1");
    assert!(answer.headers.iter().any(|(name, _)| name == "X-Consul-Knownleader"));
}

#[test]
fn a_real_etcd_starts_answers_and_stops() {
    let Some((servers, _folder)) = Etcd::cluster(1, &[]).unwrap() else { return left_out("etcd") };
    let mut client = conformance::http::Client::local(servers[0].client_port());
    let answer = client.get("/version").unwrap();
    assert!(answer.text().contains("etcdserver"), "{answer:?}");
}
