//! The server as a client sees it, on a socket: what Consul 1.8.7 answered to the same steps, and the limits.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::{Instant, timeout},
};

mod agents;
mod lane;
mod polls;

use super::{Api, Settings, serve};
use crate::{config::ServerSettings, server::Server};

/// An agent on a free port, and what stops it.
struct Agent {
    address: SocketAddr,
    server: Server,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<()>,
}

/// A server alone, in memory, that has elected itself.
async fn server() -> Server {
    let settings = ServerSettings {
        node_id: Some("0a4e64c1-872e-a0ec-b2dc-fdf268e35d46".to_owned()),
        advertise_address: "127.0.0.1:18300".parse().unwrap(),
        ..ServerSettings::dev("s1", "127.0.0.1:0".parse().unwrap())
    };
    let server = Server::start(settings).await.unwrap();
    assert!(server.wait_for_leader(Duration::from_secs(5)).await);
    // A new cluster's first command, of index 3.
    while server.published().unwrap().state.autopilot().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server
}

async fn agent(settings: Settings) -> Agent {
    agent_of(server().await, settings).await
}

async fn agent_of(server: Server, settings: Settings) -> Agent {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let api = Api::new(server.clone(), settings, None).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(serve(listener, api, async {
        let _ = stopped.await;
    }));
    Agent { address, server, stop, ended }
}

/// As the recorded agent was configured.
fn recorded() -> Settings {
    Settings {
        node_name: "s1".to_owned(),
        response_headers: vec![("X-Oracle".to_owned(), "yes".to_owned())],
        block_endpoints: vec!["/v1/agent/self".to_owned()],
        ..Settings::default()
    }
}

/// An answer: the head as it came, and the body.
#[derive(Debug)]
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head[9..12].parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        lines.filter_map(|line| line.split_once(": ")).find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn index(&self) -> u64 {
        self.header("X-Consul-Index").unwrap().parse().unwrap()
    }
}

async fn connect(agent: &Agent) -> TcpStream {
    TcpStream::connect(agent.address).await.unwrap()
}

async fn read_answer(stream: &mut TcpStream, head_only: bool) -> Answer {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let mut answer = Answer { head, body: bytes.split_off(end + 4) };
            let length = answer.header("Content-Length").map_or(0, |text| text.parse().unwrap());
            while !head_only && answer.body.len() < length {
                let read = stream.read(&mut chunk).await.unwrap();
                assert_ne!(read, 0, "{answer:?}");
                answer.body.extend_from_slice(&chunk[..read]);
            }
            return answer;
        }
        let read = stream.read(&mut chunk).await.unwrap();
        assert_ne!(read, 0, "the connection ended after {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&chunk[..read]);
    }
}

async fn request(agent: &Agent, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let mut stream = connect(agent).await;
    let length =
        if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}{length}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    timeout(Duration::from_secs(20), read_answer(&mut stream, method == "HEAD")).await.unwrap()
}

async fn get(agent: &Agent, path: &str) -> Answer {
    request(agent, "GET", path, "", b"").await
}

async fn put(agent: &Agent, path: &str, body: &[u8]) -> Answer {
    request(agent, "PUT", path, "", body).await
}

/// Waits until so many watches of long polls are there.
async fn asleep(agent: &Agent, count: usize) {
    let sleeping = async {
        while agent.server.watches().len() != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = timeout(Duration::from_secs(20), sleeping).await.is_ok();
    assert!(in_time, "{} watches instead of {count}", agent.server.watches().len());
}

const TEXT: Option<&str> = Some("text/plain; charset=utf-8");
const JSON: Option<&str> = Some("application/json");
const HTML: Option<&str> = Some("text/html; charset=utf-8");

/// Steps on one agent, in order: request, value, and what Consul answered.
#[tokio::test]
#[rustfmt::skip]
async fn recorded_steps_are_answered_as_consul_answered_them() {
    let agent = agent(recorded()).await;
    for (method, path, value, status, content_type, body) in [
        ("GET", "/", "", 200, TEXT, "Consul Agent"),
        ("GET", "/v1/nope", "", 404, None, ""),
        ("GET", "/v1/catalog/nodes/", "", 404, None, ""),
        ("POST", "/v1/kv/x", "", 405, TEXT, "method POST not allowed"),
        ("HEAD", "/v1/kv/x", "", 405, TEXT, ""),
        ("OPTIONS", "/v1/kv/x", "", 200, None, ""),
        ("GET", "/v1/kv/a%01b", "", 400, None, ""),
        ("GET", "/v1/kv/a%0Ab", "", 400, None, ""),
        ("GET", "/v1/kv/a%zz", "", 400, TEXT, "400 Bad Request"),
        ("GET", "/v1/status/peers", "", 200, JSON, "[\"127.0.0.1:18300\"]"),
        ("GET", "/v1/status/peers?pretty", "", 200, JSON, "[\n    \"127.0.0.1:18300\"\n]\n"),
        ("GET", "/v1/status/leader", "", 200, JSON, "\"127.0.0.1:18300\""),
        ("GET", "/v1/catalog/datacenters", "", 200, JSON, "[\"dc1\"]"),
        ("GET", "/v1/kv//a", "", 301, HTML, "<a href=\"/v1/kv/a\">Moved Permanently</a>.\n\n"),
        ("GET", "/v1/kv/a/../b", "", 301, HTML, "<a href=\"/v1/kv/b\">Moved Permanently</a>.\n\n"),
        ("GET", "/v1/kv", "", 301, HTML, "<a href=\"/v1/kv/\">Moved Permanently</a>.\n\n"),
        ("PUT", "/v1/kv//a", "x", 301, None, ""),
        ("GET", "/v1/status/leader?x=%zz", "", 500, None, ""),
        ("GET", "/v1/agent/self", "", 403, TEXT, "Endpoint is blocked by agent configuration"),
        // Of what isn't built, too: as Consul answers for what it has there.
        ("GET", "/v1/agent/self/x", "", 403, TEXT, "Endpoint is blocked by agent configuration"),
        ("PUT", "/v1/agent/selfish", "", 403, TEXT, "Endpoint is blocked by agent configuration"),
        ("GET", "/v1/agent/other", "", 404, None, ""),
        ("PUT", "/v1/kv/k1", "hello", 200, JSON, "true"),
        ("GET", "/v1/kv/k1", "", 200, JSON,
            r#"[{"LockIndex":0,"Key":"k1","Flags":0,"Value":"aGVsbG8=","CreateIndex":4,"ModifyIndex":4}]"#),
        ("GET", "/v1/kv/k1?raw", "", 200, Some("text/plain"), "hello"),
        ("GET", "/v1/kv/missing", "", 404, None, ""),
        ("GET", "/v1/kv/missing/?recurse", "", 404, None, ""),
        ("GET", "/v1/kv/missing/?keys", "", 404, None, ""),
        ("PUT", "/v1/kv/app/x/1", "a", 200, JSON, "true"),
        ("PUT", "/v1/kv/app/x/2", "a", 200, JSON, "true"),
        ("PUT", "/v1/kv/app/y", "a", 200, JSON, "true"),
        ("GET", "/v1/kv/?keys", "", 200, JSON, r#"["app/x/1","app/x/2","app/y","k1"]"#),
        ("GET", "/v1/kv/app/?keys&separator=/", "", 200, JSON, r#"["app/x/","app/y"]"#),
        ("GET", "/v1/kv/app/?keys&seperator=/", "", 200, JSON, r#"["app/x/","app/y"]"#),
        ("GET", "/v1/kv/ap?keys&separator=/", "", 200, JSON, r#"["app/"]"#),
        ("DELETE", "/v1/kv/app/x?recurse", "", 200, JSON, "true"),
        ("GET", "/v1/kv/app?recurse", "", 200, JSON,
            r#"[{"LockIndex":0,"Key":"app/y","Flags":0,"Value":"YQ==","CreateIndex":7,"ModifyIndex":7}]"#),
        ("PUT", "/v1/kv/f1?flags=18446744073709551615", "v", 200, JSON, "true"),
        ("GET", "/v1/kv/f1", "", 200, JSON,
            r#"[{"LockIndex":0,"Key":"f1","Flags":18446744073709551615,"Value":"dg==","CreateIndex":9,"ModifyIndex":9}]"#),
        ("PUT", "/v1/kv/f1?flags=abc", "v", 500, TEXT, "strconv.ParseUint: parsing \"abc\": invalid syntax"),
        ("PUT", "/v1/kv/f1?flags=-1", "v", 500, TEXT, "strconv.ParseUint: parsing \"-1\": invalid syntax"),
        ("PUT", "/v1/kv/empty", "", 200, JSON, "true"),
        ("GET", "/v1/kv/empty", "", 200, JSON,
            r#"[{"LockIndex":0,"Key":"empty","Flags":0,"Value":null,"CreateIndex":10,"ModifyIndex":10}]"#),
        ("GET", "/v1/kv/empty?raw", "", 200, Some("text/plain"), ""),
        ("PUT", "/v1/kv/cas1?cas=0", "1", 200, JSON, "true"),
        ("PUT", "/v1/kv/cas1?cas=0", "2", 200, JSON, "false"),
        ("PUT", "/v1/kv/cas1?cas=11", "2", 200, JSON, "true"),
        ("PUT", "/v1/kv/cas-none?cas=77", "3", 200, JSON, "false"),
        ("PUT", "/v1/kv/cas1?cas=abc", "2", 500, TEXT, "strconv.ParseUint: parsing \"abc\": invalid syntax"),
        ("PUT", "/v1/kv/cas1?cas=", "2", 500, TEXT, "strconv.ParseUint: parsing \"\": invalid syntax"),
        ("PUT", "/v1/kv/", "x", 400, TEXT, "Missing key name"),
        ("GET", "/v1/kv/", "", 400, TEXT, "Missing key name"),
        ("DELETE", "/v1/kv/", "", 400, TEXT, "Missing key name"),
        ("PUT", "/v1/kv/a?cas=1&acquire=abc", "x", 400, TEXT, "Conflicting flags: acquire=abc&cas=1"),
        ("DELETE", "/v1/kv/a?recurse&cas=1", "", 400, TEXT, "Conflicting flags: cas=1&recurse="),
        ("DELETE", "/v1/kv/cas1?cas=0", "", 200, JSON, "false"),
        ("DELETE", "/v1/kv/cas1?cas=1", "", 200, JSON, "false"),
        ("DELETE", "/v1/kv/cas1", "", 200, JSON, "true"),
        ("DELETE", "/v1/kv/cas1", "", 200, JSON, "true"),
        ("DELETE", "/v1/kv/cas1?cas=5", "", 200, JSON, "true"),
        ("PUT", "/v1/kv/sp%2Fa%20b+c", "1", 200, JSON, "true"),
        ("PUT", "/v1/kv/sp/%C3%BC", "2", 200, JSON, "true"),
        ("GET", "/v1/kv/sp?keys", "", 200, JSON, "[\"sp/a b+c\",\"sp/ü\"]"),
        ("GET", "/v1/kv/sp/a%20b+c?raw", "", 200, Some("text/plain"), "1"),
        ("GET", "/v1/kv/k1?dc=nowhere", "", 500, TEXT, "No path to datacenter"),
        ("GET", "/v1/kv/k1?index=1&wait=5", "", 400, TEXT, "Invalid wait time"),
        ("PUT", "/v1/kv/k1?index=abc", "v", 400, TEXT, "Invalid index"),
        ("GET", "/v1/kv/k1?stale&consistent", "", 400, TEXT,
            "Cannot specify ?stale with ?consistent, conflicting semantics."),
        ("PUT", "/v1/kv/l?acquire=nope", "x", 500, TEXT,
            "failed session lookup: index error: UUID must be 36 characters"),
        ("PUT", "/v1/kv/l?acquire=00000000-0000-0000-0000-000000000000", "x", 500, TEXT,
            "invalid session \"00000000-0000-0000-0000-000000000000\""),
        ("PUT", "/v1/kv/l?acquire=00000000-0000-0000-0000-00000000000z", "x", 500, TEXT,
            "failed session lookup: index error: Invalid UUID: encoding/hex: invalid byte: U+007A 'z'"),
        ("GET", "/v1/kv/?dc=nowhere", "", 400, TEXT, "Missing key name"),
        ("PUT", "/v1/kv/k1?dc=nowhere&cas=abc", "", 500, TEXT, "strconv.ParseUint: parsing \"abc\": invalid syntax"),
        ("PUT", "/v1/kv/l?acquire=", "x", 500, TEXT, "missing session"),
        ("PUT", "/v1/kv/l?release=1460c008-bab1-2b04-28c9-ad45d136e076", "x", 200, JSON, "false"),
        ("PUT", "/v1/kv/l?release=", "x", 500, TEXT, "missing session"),
        ("DELETE", "/v1/operator/raft/peer", "", 400, TEXT,
            "Bad request: Must specify either ?id with the server's ID or ?address with IP:port of peer to remove"),
        ("DELETE", "/v1/operator/raft/peer?address=1.2.3.4:8300", "", 500, TEXT,
            "address \"1.2.3.4:8300\" was not found in the Raft configuration"),
        ("DELETE", "/v1/operator/raft/peer?address=1.2.3.4:8300&id=x", "", 400, TEXT,
            "Bad request: Must specify only one of ?id or ?address"),
        ("GET", "/v1/snapshot?dc=nowhere", "", 500, TEXT, "No path to datacenter"),
        ("GET", "/v1/operator/raft/configuration", "", 200, JSON,
            r#"{"Servers":[{"ID":"0a4e64c1-872e-a0ec-b2dc-fdf268e35d46","Node":"s1","Address":"127.0.0.1:18300","Leader":true,"ProtocolVersion":"3","Voter":true}],"Index":1}"#),
    ] {
        let answer = request(&agent, method, path, "", value.as_bytes()).await;
        let step = format!("{method} {path}: {answer:?}");
        assert_eq!(answer.status(), status, "{step}");
        assert_eq!(answer.header("Content-Type"), content_type, "{step}");
        assert_eq!(answer.text(), body, "{step}");
        let unrouted = ["/", "/v1/nope", "/v1/catalog/nodes/", "/v1/agent/other"];
        let unreadable = path.contains("/kv/a%");
        let routed = status != 301 && !unrouted.contains(&path) && !unreadable;
        assert_eq!(answer.header("Vary").is_some(), routed, "{step}");
        assert_eq!(answer.header("X-Oracle").is_some(), routed, "{step}");
    }
}

#[tokio::test]
async fn headers_say_what_a_read_knew() {
    let agent = agent(recorded()).await;
    let missing = get(&agent, "/v1/kv/k").await;
    assert_eq!(missing.index(), 1);
    put(&agent, "/v1/kv/k", b"v").await;
    let found = get(&agent, "/v1/kv/k?raw").await;
    for (name, value) in [
        ("X-Consul-Index", "4"),
        ("X-Consul-Knownleader", "true"),
        ("X-Consul-Lastcontact", "0"),
        ("X-Consul-Default-Acl-Policy", "allow"),
        ("X-Consul-Query-Backend", "blocking-query"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "sandbox"),
        ("Content-Length", "1"),
    ] {
        assert_eq!(found.header(name), Some(value), "{name}: {found:?}");
    }
    assert!(found.header("Date").is_some());
    let redirect = get(&agent, "/v1//kv/a%20b?x=1").await;
    assert_eq!(redirect.header("Location"), Some("/v1/kv/a%20b?x=1"));
    let refused = request(&agent, "POST", "/v1/kv/x", "", b"").await;
    assert_eq!(refused.header("Allow"), Some("OPTIONS,GET,PUT,DELETE"));
}

#[tokio::test]
async fn indexes_follow_keys_and_prefixes() {
    let agent = agent(recorded()).await;
    put(&agent, "/v1/kv/ix/a", b"1").await;
    put(&agent, "/v1/kv/ix/b", b"1").await;
    assert_eq!(get(&agent, "/v1/kv/ix/a").await.index(), 4);
    assert_eq!(get(&agent, "/v1/kv/ix/?recurse").await.index(), 5);
    request(&agent, "DELETE", "/v1/kv/ix/b", "", b"").await;
    assert_eq!(get(&agent, "/v1/kv/ix/?recurse").await.index(), 6);
    assert_eq!(get(&agent, "/v1/kv/ix/b").await.index(), 6);
    assert_eq!(get(&agent, "/v1/kv/ix/a").await.index(), 4);
    // Writing the same again changes nothing.
    put(&agent, "/v1/kv/ix/a", b"1").await;
    assert_eq!(get(&agent, "/v1/kv/ix/a").await.index(), 4);
}

#[tokio::test]
async fn gzip_comes_when_it_is_asked_for() {
    use std::io::Read;
    let agent = agent(recorded()).await;
    let zipped =
        request(&agent, "GET", "/v1/status/leader", "Accept-Encoding: gzip\r\n", b"").await;
    assert_eq!(zipped.header("Content-Encoding"), Some("gzip"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(&zipped.body[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text, "\"127.0.0.1:18300\"");
    let missing = request(&agent, "GET", "/v1/kv/none", "Accept-Encoding: gzip\r\n", b"").await;
    assert_eq!((missing.header("Content-Encoding"), missing.body.len()), (None, 0));
}

#[tokio::test]
async fn a_dev_agent_is_always_pretty() {
    let agent = agent(Settings { dev: true, ..recorded() }).await;
    assert_eq!(put(&agent, "/v1/kv/k", b"v").await.text(), "true\n");
}

#[tokio::test]
async fn a_value_beyond_the_limit_is_refused_however_it_comes() {
    let agent = agent(Settings { kv_max_value_size: 1000, ..recorded() }).await;
    let refusal = "Request body(1001 bytes) too large, max size: 1000 bytes. See \
                   https://www.consul.io/docs/agent/options.html#kv_max_value_size.";
    let declared = put(&agent, "/v1/kv/big", &[0; 1001]).await;
    assert_eq!((declared.status(), declared.text()), (413, refusal));
    assert_eq!(declared.header("Connection"), Some("close"));
    assert!(declared.head.starts_with("HTTP/1.1 413 Request Entity Too Large\r\n"));
    let mut chunked = b"3e9\r\n".to_vec();
    chunked.extend_from_slice(&[0; 1001]);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let mut stream = connect(&agent).await;
    let head = b"PUT /v1/kv/big HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head).await.unwrap();
    stream.write_all(&chunked).await.unwrap();
    let counted = read_answer(&mut stream, false).await;
    assert_eq!((counted.status(), counted.text()), (413, refusal));
    assert_eq!(get(&agent, "/v1/kv/big").await.status(), 404);
    assert_eq!(put(&agent, "/v1/kv/fits", &[0; 1000]).await.status(), 200);
}

#[tokio::test]
async fn the_refusal_of_a_large_value_is_seen_by_a_client_that_is_still_sending() {
    let agent = agent(recorded()).await;
    for _ in 0..5 {
        let refused = put(&agent, "/v1/kv/big", &vec![0; 8 << 20]).await;
        assert_eq!(refused.status(), 413);
    }
}

#[tokio::test]
async fn a_long_poll_wakes_on_its_key_and_not_on_others() {
    let agent = agent(recorded()).await;
    put(&agent, "/v1/kv/a", b"1").await;
    let started = Instant::now();
    let (answer, ()) = tokio::join!(get(&agent, "/v1/kv/a?index=4&wait=10s"), async {
        asleep(&agent, 1).await;
        put(&agent, "/v1/kv/ab", b"1").await;
        assert_eq!(agent.server.watches().len(), 1);
        tokio::time::sleep(Duration::from_millis(100)).await;
        put(&agent, "/v1/kv/a", b"2").await;
    });
    assert_eq!((answer.status(), answer.index()), (200, 6));
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_millis(100) && elapsed < Duration::from_secs(5));
    let past = get(&agent, "/v1/kv/a?index=1&wait=10s").await;
    assert_eq!(past.index(), 6);
}

#[tokio::test]
async fn a_long_poll_ends_with_its_time_and_gives_the_index_that_stands() {
    let agent = agent(recorded()).await;
    put(&agent, "/v1/kv/a", b"1").await;
    let started = Instant::now();
    let (current, future, missing, list) = tokio::join!(
        get(&agent, "/v1/kv/a?index=4&wait=300ms"),
        get(&agent, "/v1/kv/a?index=99999&wait=300ms"),
        get(&agent, "/v1/kv/none?index=4&wait=300ms"),
        get(&agent, "/v1/kv/?recurse&index=4&wait=300ms"),
    );
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_millis(300), "{elapsed:?}");
    assert_eq!((current.index(), future.index(), missing.index(), list.index()), (4, 4, 4, 4));
    assert_eq!(missing.status(), 404);
    assert!(agent.server.watches().is_empty());
}

#[tokio::test]
async fn what_is_missing_is_waited_for_until_it_comes() {
    let agent = agent(recorded()).await;
    let (answer, ()) = tokio::join!(get(&agent, "/v1/kv/none/a?index=1&wait=10s"), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        put(&agent, "/v1/kv/none/b", b"1").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        put(&agent, "/v1/kv/none/a", b"1").await;
    });
    assert_eq!((answer.status(), answer.index()), (200, 5));
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_long_poll_at_once() {
    let agent = agent(recorded()).await;
    let mut stream = connect(&agent).await;
    let poll = b"GET /v1/kv/a?index=1&wait=300s HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(poll).await.unwrap();
    asleep(&agent, 1).await;
    drop(stream);
    asleep(&agent, 0).await;
}

#[tokio::test]
async fn a_client_with_too_many_connections_is_told_so() {
    let agent = agent(Settings { http_max_conns_per_client: 2, ..recorded() }).await;
    let mut first = connect(&agent).await;
    let _second = connect(&agent).await;
    // Both are taken in before the third comes.
    first.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(read_answer(&mut first, false).await.status(), 200);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let refused = get(&agent, "/v1/status/leader").await;
    assert_eq!(refused.status(), 429);
    assert_eq!(
        refused.text(),
        "Your IP is issuing too many concurrent connections, please rate limit your calls\n"
    );
    drop(first);
    // Its end is seen a moment later.
    let served = async { while get(&agent, "/v1/status/leader").await.status() != 200 {} };
    timeout(Duration::from_secs(20), served).await.unwrap();
}

#[tokio::test]
async fn a_client_that_never_ends_its_head_is_cut_off_and_an_idle_one_is_not() {
    let settings = Settings { head_timeout: Duration::from_millis(500), ..recorded() };
    let agent = agent(settings).await;
    let (mut silent, mut slow, mut idle) =
        (connect(&agent).await, connect(&agent).await, connect(&agent).await);
    for stream in [&mut slow, &mut idle] {
        stream.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert_eq!(read_answer(stream, false).await.status(), 200);
    }
    slow.write_all(b"GET /v1/st").await.unwrap();
    let mut byte = [0];
    for stream in [&mut silent, &mut slow] {
        let read = timeout(Duration::from_secs(5), stream.read(&mut byte)).await.unwrap();
        assert_eq!(read.unwrap_or(0), 0);
    }
    idle.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(read_answer(&mut idle, false).await.status(), 200);
}

#[tokio::test]
async fn writes_are_let_in_from_the_configured_networks_only() {
    let settings = |network: &str| Settings {
        allow_write_http_from: vec![network.parse().unwrap()],
        ..recorded()
    };
    let far = agent(settings("10.0.0.0/8")).await;
    let refused = put(&far, "/v1/kv/a", b"1").await;
    assert_eq!((refused.status(), refused.text()), (403, "Access is restricted"));
    assert_eq!(get(&far, "/v1/kv/a").await.status(), 404);
    let near = agent(settings("127.0.0.0/8")).await;
    assert_eq!(put(&near, "/v1/kv/a", b"1").await.text(), "true");
}

#[tokio::test]
async fn the_agent_describes_itself_with_consuls_keys() {
    let agent = agent(Settings { block_endpoints: Vec::new(), ..recorded() }).await;
    let answer = get(&agent, "/v1/agent/self").await;
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(json["Config"]["NodeName"], "s1");
    assert_eq!(json["Config"]["Server"], true);
    assert_eq!(json["Member"]["Tags"]["role"], "consul");
    assert_eq!(json["Stats"]["raft"]["state"], "Leader");
    assert_eq!(json["Stats"]["consul"]["leader_addr"], "127.0.0.1:18300");
    let stats = json["Stats"].as_object().unwrap().values();
    let mut values = stats.flat_map(|group| group.as_object().unwrap().values());
    assert!(values.all(serde_json::Value::is_string));
}

#[tokio::test]
async fn a_stop_ends_long_polls_and_returns() {
    let agent = agent(recorded()).await;
    let mut stream = connect(&agent).await;
    let poll = b"GET /v1/kv/a?index=1&wait=300s HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(poll).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    agent.stop.send(()).unwrap();
    timeout(Duration::from_secs(3), agent.ended).await.unwrap().unwrap();
    assert!(TcpStream::connect(agent.address).await.is_err());
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("consul.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let api = Api::new(server().await, recorded(), None).unwrap();
    let served = tokio::spawn(serve(listener, api, std::future::pending()));
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let head = b"GET /v1/catalog/datacenters HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n\r\n[\"dc1\"]"), "{answer}");
    served.abort();
}

#[tokio::test]
async fn a_connection_serves_many_requests_also_when_they_come_at_once() {
    let agent = agent(recorded()).await;
    let mut stream = connect(&agent).await;
    for value in ["1", "2"] {
        let put = format!("PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{value}");
        stream.write_all(put.as_bytes()).await.unwrap();
        assert_eq!(read_answer(&mut stream, false).await.text(), "true");
    }
    let gets = "GET /v1/kv/a?raw HTTP/1.1\r\nHost: x\r\n\r\n".repeat(3);
    let last = "GET /v1/kv/b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all((gets + last).as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches("\r\n\r\n2").count(), 3, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 404 Not Found").count(), 1, "{answers}");
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_gets_leave_or_a_refusal() {
    let agent = agent(Settings { kv_max_value_size: 10, ..recorded() }).await;
    let ask = |length| {
        format!(
            "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let mut stream = connect(&agent).await;
    stream.write_all(ask(5).as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut stream, true).await.status(), 100);
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(read_answer(&mut stream, false).await.text(), "true");
    stream.write_all(ask(11).as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut stream, false).await.status(), 413);
}

#[tokio::test]
async fn a_snapshot_is_saved_and_restored_and_ends_every_wait() {
    let agent = agent(recorded()).await;
    put(&agent, "/v1/kv/kept", b"1").await;
    let saved = get(&agent, "/v1/snapshot").await;
    assert_eq!(saved.header("Content-Type"), Some("application/x-gzip"));
    assert!(saved.index() > 1);
    put(&agent, "/v1/kv/kept", b"2").await;
    let index = get(&agent, "/v1/kv/kept").await.index();
    let poll = format!("/v1/kv/other?index={index}&wait=20s");
    let (woken, ()) = tokio::join!(get(&agent, &poll), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let restored = put(&agent, "/v1/snapshot", &saved.body).await;
        assert_eq!((restored.status(), restored.text()), (200, ""));
    });
    assert!(woken.index() > index, "{woken:?} after {index}");
    assert_eq!(get(&agent, "/v1/kv/kept?raw").await.text(), "1");
    let garbage = put(&agent, "/v1/snapshot", b"garbage").await;
    assert_eq!(garbage.status(), 500);
    assert_eq!(garbage.text(), "failed to decompress snapshot: unexpected EOF");
}

#[tokio::test]
async fn without_a_leader_requests_are_held_and_refused_and_local_answers_still_come() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(ServerSettings {
        dev: false,
        data_dir: Some(directory.path().to_owned()),
        bootstrap: false,
        bootstrap_expect: 3,
        rpc_hold_timeout: Duration::from_millis(200),
        ..ServerSettings::dev("nl1", "127.0.0.1:0".parse().unwrap())
    });
    let agent = agent_of(server.await.unwrap(), recorded()).await;
    assert_eq!(get(&agent, "/v1/status/leader").await.text(), "\"\"");
    assert_eq!(get(&agent, "/v1/status/peers").await.text(), "[]");
    assert_eq!(get(&agent, "/v1/catalog/datacenters").await.text(), "[\"dc1\"]");
    for (method, path) in [
        ("GET", "/v1/kv/x"),
        ("GET", "/v1/kv/x?stale"),
        ("GET", "/v1/kv/x?index=1&wait=10s"),
        ("PUT", "/v1/kv/x"),
        ("DELETE", "/v1/kv/x"),
        ("GET", "/v1/operator/raft/configuration?stale"),
        ("GET", "/v1/snapshot"),
    ] {
        let started = Instant::now();
        let answer = request(&agent, method, path, "", b"").await;
        assert_eq!((answer.status(), answer.text()), (500, "No cluster leader"), "{method} {path}");
        assert_eq!(answer.header("X-Consul-Index"), None, "{method} {path}");
        let held = started.elapsed();
        assert!(held >= Duration::from_millis(200) && held < Duration::from_secs(5), "{held:?}");
    }
}

mod catalog;
