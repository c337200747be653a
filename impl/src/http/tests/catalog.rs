//! The catalog, health, coordinates and autopilot, as Consul 1.8.7 answered.

use super::*;

async fn register(agent: &Agent, body: &str) {
    let answer = request(agent, "PUT", "/v1/catalog/register", "", body.as_bytes()).await;
    assert_eq!((answer.status(), answer.text()), (200, "true"), "{body}");
}

const EXT1: &str = r#"{"Node":"ext1","Address":"203.0.113.7","NodeMeta":{"external-node":"true"},
    "Checks":[{"CheckID":"c","Name":"a <check>","Status":"passing",
        "Definition":{"Interval":"10s","TCP":"x:1","Timeout":""}}]}"#;
const EXT1_NODE: &str = r#"{"ID":"","Node":"ext1","Address":"203.0.113.7","Datacenter":"dc1","TaggedAddresses":null,"Meta":{"external-node":"true"},"CreateIndex":4,"ModifyIndex":4}"#;
const EXT1_CHECK: &str = r#"{"Node":"ext1","CheckID":"c","Name":"a \u003ccheck\u003e","Status":"passing","Notes":"","Output":"","ServiceID":"","ServiceName":"","ServiceTags":[],"Type":"","Definition":{"TCP":"x:1","Interval":"10s"},"CreateIndex":4,"ModifyIndex":4}"#;

#[tokio::test]
async fn what_is_registered_is_told_as_consul_tells_it() {
    let agent = agent(recorded()).await;
    register(&agent, EXT1).await;
    for (path, body) in [
        ("/v1/catalog/nodes", format!("[{EXT1_NODE}]")),
        ("/v1/catalog/nodes?node-meta=external-node:true", format!("[{EXT1_NODE}]")),
        ("/v1/catalog/nodes?node-meta=external-node:false", "[]".to_owned()),
        ("/v1/catalog/nodes?near=_agent", format!("[{EXT1_NODE}]")),
        ("/v1/catalog/node/EXT1", format!("{{\"Node\":{EXT1_NODE},\"Services\":{{}}}}")),
        ("/v1/catalog/node/nosuch", "null".to_owned()),
        ("/v1/catalog/node-services/ext1", format!("{{\"Node\":{EXT1_NODE},\"Services\":[]}}")),
        ("/v1/catalog/node-services/nosuch", "{\"Node\":null,\"Services\":null}".to_owned()),
        ("/v1/health/node/ext1", format!("[{EXT1_CHECK}]")),
        ("/v1/health/node/nosuch", "[]".to_owned()),
        ("/v1/health/state/any", format!("[{EXT1_CHECK}]")),
        ("/v1/health/state/passing?node-meta=external-node:true", format!("[{EXT1_CHECK}]")),
        ("/v1/health/state/critical", "[]".to_owned()),
    ] {
        let answer = get(&agent, path).await;
        assert_eq!((answer.status(), answer.text()), (200, &*body), "{path}");
        assert_eq!(answer.index(), 4, "{path}");
        assert_eq!(answer.header("X-Consul-Effective-Consistency"), Some("leader"), "{path}");
    }
    let stale = get(&agent, "/v1/catalog/nodes?max_stale=1h").await;
    assert_eq!(stale.header("X-Consul-Effective-Consistency"), Some("stale"));
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused_in_consuls_words() {
    let agent = agent(recorded()).await;
    for (body, status, text) in [
        ("{", 400, "Request decode failed: unexpected EOF"),
        ("", 400, "Request decode failed: EOF"),
        ("{}", 500, "Must provide node"),
        (r#"{"Node":"x"}"#, 500, "Must provide address if SkipNodeUpdate is not set"),
        (
            r#"{"Node":"x","Address":"1.1.1.1","ID":"short"}"#,
            500,
            "Bad node ID: uuid string is wrong length",
        ),
        (
            r#"{"Node":"x","Address":"1.1.1.1","Bogus":1}"#,
            400,
            "Request decode failed: json: unknown field \"Bogus\"",
        ),
        (
            r#"{"Node":"x","Address":"1.1.1.1","Datacenter":"nowhere"}"#,
            500,
            "No path to datacenter",
        ),
        (
            r#"{"Node":"x","Address":"1.1.1.1","Check":{"Name":"c","ServiceID":"nosvc"}}"#,
            500,
            "failed inserting check: Missing service registration on node \"x\"",
        ),
        (
            r#"{"Node":"x","Address":"1.1.1.1","Check":{"Node":"y","Name":"c"}}"#,
            500,
            "failed inserting check: check node \"y\" does not match node \"x\"",
        ),
    ] {
        let answer = request(&agent, "PUT", "/v1/catalog/register", "", body.as_bytes()).await;
        assert_eq!((answer.status(), answer.text()), (status, text), "{body}");
    }
    assert_eq!(get(&agent, "/v1/catalog/nodes").await.text(), "[]");
    for (path, status, text) in [
        ("/v1/catalog/node/", 400, "Missing node name"),
        ("/v1/health/state/", 400, "Missing check state"),
        ("/v1/catalog/nodes?wait=zz", 400, "Invalid wait time"),
        ("/v1/catalog/nodes?filter=x", 400, "The filter parameter is not supported yet"),
        ("/v1/catalog/nodes?dc=nowhere", 500, "No path to datacenter"),
    ] {
        let answer = get(&agent, path).await;
        assert_eq!((answer.status(), answer.text()), (status, text), "{path}");
    }
    let nameless = request(&agent, "PUT", "/v1/catalog/deregister", "", b"{}").await;
    assert_eq!((nameless.status(), nameless.text()), (500, "Must provide node"));
}

#[tokio::test]
async fn long_polls_of_the_catalog_wake_for_what_they_ask_and_not_for_others() {
    let agent = agent(recorded()).await;
    register(&agent, EXT1).await;
    let other = r#"{"Node":"other","Address":"1.1.1.1"}"#;
    let failing = r#"{"Node":"ext1","SkipNodeUpdate":true,
        "Check":{"CheckID":"c","Name":"c","Status":"critical"}}"#;
    let (node, checks, state, both, nodes, ()) = tokio::join!(
        get(&agent, "/v1/catalog/node/zz-other?index=4&wait=3s"),
        get(&agent, "/v1/health/node/ext1?index=4&wait=10s"),
        get(&agent, "/v1/health/state/critical?index=4&wait=10s"),
        get(&agent, "/v1/health/state/any?index=4&wait=10s&node-meta=external-node:true"),
        get(&agent, "/v1/catalog/nodes?index=4&wait=10s"),
        async {
            // One each, and two of the one that depends on nodes and checks.
            asleep(&agent, 6).await;
            register(&agent, other).await;
            // That one and the one of all nodes are answered before anything else changes.
            asleep(&agent, 3).await;
            register(&agent, failing).await;
        }
    );
    assert_eq!(nodes.index(), 5);
    assert_eq!((checks.index(), state.index()), (6, 6));
    assert!(state.text().contains("critical"));
    // What depends on nodes and checks wakes for either.
    assert_eq!(both.index(), 5);
    assert_eq!(node.text(), "null");
    assert!(agent.server.watches().is_empty());
}

#[tokio::test]
async fn coordinates_are_kept_as_they_were_sent() {
    let agent = agent(recorded()).await;
    register(&agent, r#"{"Node":"a","Address":"1.1.1.1"}"#).await;
    register(&agent, r#"{"Node":"b","Address":"1.1.1.2"}"#).await;
    register(&agent, r#"{"Node":"c","Address":"1.1.1.3"}"#).await;
    let place = |node: &str, x: &str| {
        format!(
            r#"{{"Node":"{node}","Coord":{{"Vec":[{x},0,0,0,0,0,0,-9.931281730023866e-7],"Error":1.5,"Adjustment":0,"Height":0.00001}}}}"#
        )
    };
    for (node, x) in [("c", "0.1"), ("b", "0.3")] {
        let body = place(node, x);
        let answer = request(&agent, "PUT", "/v1/coordinate/update", "", body.as_bytes()).await;
        assert_eq!((answer.status(), answer.text()), (200, ""));
    }
    let entry =
        |node: &str, x: &str| place(node, x).replace("\"Coord\"", "\"Segment\":\"\",\"Coord\"");
    // They are gathered first, and written together.
    let all = loop {
        let all = get(&agent, "/v1/coordinate/nodes").await;
        if all.text().contains("\"b\"") {
            break all;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(all.text(), format!("[{},{}]", entry("b", "0.3"), entry("c", "0.1")));
    assert_eq!(all.header("X-Consul-Effective-Consistency"), None);
    let one = get(&agent, "/v1/coordinate/node/C").await;
    assert_eq!(one.text(), format!("[{}]", entry("c", "0.1")));
    let none = get(&agent, "/v1/coordinate/node/a").await;
    assert_eq!((none.status(), none.header("X-Consul-Index")), (404, None));
    let near = get(&agent, "/v1/catalog/nodes?near=c").await;
    let order: Vec<usize> =
        ["\"c\"", "\"b\"", "\"a\""].map(|name| near.text().find(name).unwrap()).to_vec();
    assert!(order.is_sorted(), "{near:?}");
    for (body, text) in [
        (r#"{"Node":"a","Coord":{"Vec":[1]}}"#, "incompatible coordinate"),
        (r#"{"Node":"a","Coord":{"Vec":[1,2,3,4,5,6,7,"x"]}}"#, "invalid coordinate"),
    ] {
        let answer = request(&agent, "PUT", "/v1/coordinate/update", "", body.as_bytes()).await;
        assert_eq!((answer.status(), answer.text()), (500, text));
    }
}

#[tokio::test]
async fn autopilots_configuration_and_health_are_told() {
    let agent = agent(recorded()).await;
    let configuration = "/v1/operator/autopilot/configuration";
    let told = |threshold: &str, index: u64| {
        format!(
            r#"{{"CleanupDeadServers":true,"LastContactThreshold":"{threshold}","MaxTrailingLogs":250,"MinQuorum":0,"ServerStabilizationTime":"10s","RedundancyZoneTag":"","DisableUpgradeMigration":false,"UpgradeVersionTag":"","CreateIndex":3,"ModifyIndex":{index}}}"#
        )
    };
    assert_eq!(get(&agent, configuration).await.text(), told("200ms", 3));
    let other = br#"{"CleanupDeadServers":true,"LastContactThreshold":"300ms","MaxTrailingLogs":250,"ServerStabilizationTime":"10s"}"#;
    for (query, body, status, text) in [
        ("?cas=1", &other[..], 200, "false"),
        ("?cas=3", other, 200, "true"),
        (
            "?cas=x",
            other,
            400,
            "Bad request: Error parsing cas value: strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
        (
            "",
            br#"{"LastContactThreshold":"zz"}"#,
            400,
            "Bad request: Error parsing autopilot config: time: invalid duration \"zz\"",
        ),
    ] {
        let path = format!("{configuration}{query}");
        let answer = request(&agent, "PUT", &path, "", body).await;
        assert_eq!((answer.status(), answer.text()), (status, text), "{path}");
    }
    let now = get(&agent, configuration).await;
    assert!(now.text().contains("\"300ms\"") && now.text().contains("\"CreateIndex\":3"));
    let health = get(&agent, "/v1/operator/autopilot/health").await;
    assert_eq!(health.status(), 200);
    let start = r#"{"Healthy":true,"FailureTolerance":0,"Servers":[{"ID":"0a4e64c1-872e-a0ec-b2dc-fdf268e35d46","Name":"s1","Address":"127.0.0.1:18300","SerfStatus":"alive","Version":"1.8.7","Leader":true,"LastContact":"0s","LastTerm":"#;
    assert!(health.text().starts_with(start), "{}", health.text());
    assert!(health.text().contains(r#""Healthy":true,"Voter":true,"StableSince":"20"#));
}
