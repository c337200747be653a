//! A client agent in front of servers in one process: what it passes on, what it answers itself, what it repeats.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Method, Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proconsul::{
    client::{Client, ClientSettings, ForwardError, KnownServers},
    config::ServerSettings,
    http::{Api, Settings, serve, tunnel::Tunnels},
    net::{self, RpcError, Tunnel},
    server::Server,
};
use spec::raft::NodeId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A server alone, in memory; its address for other agents, and for its own clients.
struct Alone {
    server: Server,
    tunnels: Arc<Tunnels>,
    rpc: String,
    http: SocketAddr,
}

/// Serves this API to clients.
async fn listen(api: Api) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, api, std::future::pending()));
    address
}

async fn alone(settings: Settings) -> Alone {
    let rpc = free_address();
    let server = Server::start(ServerSettings::dev("s1", rpc)).await.unwrap();
    assert!(server.wait_for_leader(Duration::from_secs(5)).await);
    let api = Api::new(server.clone(), settings, None).unwrap();
    let tunnels = Tunnels::new(api.clone());
    server.serve_agents(tunnels.clone());
    Alone { server, tunnels, rpc: rpc.to_string(), http: listen(api).await }
}

fn settings() -> ClientSettings {
    ClientSettings {
        node: NodeId(77),
        rpc_hold_timeout: Duration::from_secs(7),
        rpc_rate: -1.0,
        rpc_max_burst: 1000,
    }
}

/// A client agent that knows these servers.
fn client_with(settings: &ClientSettings, servers: &[String]) -> Client {
    let (_, known) = watch::channel(KnownServers::at(servers));
    Client::start(settings, known)
}

fn client(servers: &[String]) -> Client {
    client_with(&settings(), servers)
}

fn request(method: Method, target: &str, body: &'static str) -> Request<Bytes> {
    let request = Request::builder().method(method).uri(target);
    request.body(Bytes::from_static(body.as_bytes())).unwrap()
}

fn get(target: &str) -> Request<Bytes> {
    request(Method::GET, target, "")
}

fn put(target: &str, body: &'static str) -> Request<Bytes> {
    request(Method::PUT, target, body)
}

/// The answer to a request over a connection of its own, as it came; the time in it left out.
async fn raw(address: SocketAddr, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("{head}\r\nHost: x\r\nConnection: close\r\n").as_bytes())
        .await
        .unwrap();
    if !body.is_empty() {
        let length = format!("Content-Length: {}\r\n", body.len());
        stream.write_all(length.as_bytes()).await.unwrap();
    }
    stream.write_all(b"\r\n").await.unwrap();
    // Who refuses a body may close before it is sent.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let mut lines: Vec<&str> =
        answer.split("\r\n").filter(|line| !line.starts_with("Date: ")).collect();
    let head = lines.iter().position(|line| line.is_empty()).unwrap();
    // The order of headers means nothing.
    lines[1..head].sort_unstable();
    lines.join("\r\n")
}

fn status(answer: &str) -> &str {
    &answer[9..12]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_answers_comes_back_through_a_client_agent_unchanged() {
    let one = alone(Settings::default()).await;
    let client = client(std::slice::from_ref(&one.rpc));
    let through = listen(Api::of_client(client, Settings::default(), None).unwrap()).await;
    let large = vec![b'x'; 524_289];
    let long = format!("GET /v1/kv/{} HTTP/1.1", "k".repeat(60_000));
    for (head, body) in [
        ("PUT /v1/kv/a HTTP/1.1", &b"1"[..]),
        ("GET /v1/kv/a HTTP/1.1", b""),
        ("GET /v1/kv/a?raw HTTP/1.1", b""),
        ("GET /v1/kv/a?pretty HTTP/1.1", b""),
        ("GET /v1/kv/a?stale HTTP/1.1\r\nAccept-Encoding: gzip", b""),
        ("GET /v1/kv/missing HTTP/1.1", b""),
        ("GET /v1/kv/?keys HTTP/1.1", b""),
        ("GET /v1/kv/a%2Fb%20c HTTP/1.1", b""),
        (&long, b""),
        ("PUT /v1/kv/a?cas=x HTTP/1.1", b"1"),
        ("PUT /v1/kv/a?cas=0 HTTP/1.1", b"1"),
        ("PUT /v1/kv/large HTTP/1.1", &large),
        ("DELETE /v1/kv/nothing HTTP/1.1", b""),
        ("GET /v1/kv/a?index=x HTTP/1.1", b""),
        ("GET /v1/kv/a?dc=nowhere HTTP/1.1", b""),
        ("GET /v1/kv/a?x=%zz HTTP/1.1", b""),
        ("GET /v1/status/leader HTTP/1.1", b""),
        ("GET /v1/status/peers HTTP/1.1", b""),
        ("GET /v1/catalog/datacenters HTTP/1.1", b""),
        ("GET /v1/operator/raft/configuration HTTP/1.1", b""),
        ("DELETE /v1/operator/raft/peer HTTP/1.1", b""),
        ("POST /v1/kv/a HTTP/1.1", b""),
        ("OPTIONS /v1/kv/a HTTP/1.1", b""),
        ("HEAD /v1/kv/a HTTP/1.1", b""),
        ("GET /v1/nope HTTP/1.1", b""),
        ("GET //v1/kv/a HTTP/1.1", b""),
        ("GET / HTTP/1.1", b""),
    ] {
        let direct = raw(one.http, head, body).await;
        assert_eq!(raw(through, head, body).await, direct, "{head:.80}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_unknown_length_streams_through_and_is_counted_by_the_server() {
    let one = alone(Settings::default()).await;
    let api =
        Api::of_client(client(std::slice::from_ref(&one.rpc)), Settings::default(), None).unwrap();
    let through = listen(api).await;
    for (length, expected) in [(1000, "200"), (600_000, "413")] {
        let head = "PUT /v1/kv/chunked HTTP/1.1\r\nTransfer-Encoding: chunked";
        let mut stream = TcpStream::connect(through).await.unwrap();
        stream.write_all(format!("{head}\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let chunk = format!("{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length));
        stream.write_all(chunk.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(status(std::str::from_utf8(&answer).unwrap()), expected);
    }
    let stored = client(std::slice::from_ref(&one.rpc)).call(get("/v1/kv/chunked?raw")).await;
    assert_eq!(stored.unwrap().body().len(), 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_configured_about_clients_is_the_client_agent_s() {
    let header = |name: &str| vec![(name.to_owned(), "1".to_owned())];
    let one = alone(Settings {
        response_headers: header("X-Server"),
        block_endpoints: vec!["/v1/kv".to_owned()],
        allow_write_http_from: vec!["10.0.0.0/8".parse().unwrap()],
        dev: true,
        ..Settings::default()
    })
    .await;
    let client = client(std::slice::from_ref(&one.rpc));
    let own = Settings {
        response_headers: header("X-Client"),
        block_endpoints: vec!["/v1/operator".to_owned()],
        kv_max_value_size: 10,
        node_name: "c1".to_owned(),
        server: false,
        ..Settings::default()
    };
    let through = listen(Api::of_client(client, own, None).unwrap()).await;
    let answer = raw(through, "PUT /v1/kv/a HTTP/1.1", b"1").await;
    assert!(answer.ends_with("true") && answer.contains("X-Client: 1"), "{answer}");
    assert!(!answer.contains("X-Server"), "{answer}");
    assert_eq!(
        status(&raw(through, "GET /v1/operator/raft/configuration HTTP/1.1", b"").await),
        "403"
    );
    let answer = raw(through, "PUT /v1/kv/a HTTP/1.1", b"more than ten").await;
    assert!(answer.starts_with("HTTP/1.1 413 Request Entity Too Large"), "{answer}");
    let answer = raw(through, "GET /v1/agent/self HTTP/1.1", b"").await;
    for part in [
        r#""NodeName":"c1""#,
        r#""Server":false"#,
        r#""consul":{"acl":"disabled","known_servers":"1","server":"false"}"#,
        r#""role":"node""#,
        "X-Client: 1",
    ] {
        assert!(answer.contains(part), "{part}: {answer}");
    }
    assert!(!answer.contains("\"raft"), "{answer}");
    // What is about the agent that was asked is never another's to answer.
    let answer = self::client(&[one.rpc]).call(get("/v1/agent/self")).await.unwrap();
    assert_eq!(answer.status(), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_knows_no_server_says_so_at_once_and_learns_of_them_as_they_come() {
    let (known, news) = watch::channel(KnownServers::default());
    let client = Client::start(&settings(), news);
    let start = Instant::now();
    assert_eq!(client.call(get("/v1/kv/a")).await.unwrap_err(), ForwardError::NoServers);
    let through = listen(Api::of_client(client.clone(), Settings::default(), None).unwrap()).await;
    let answer = raw(through, "GET /v1/kv/a HTTP/1.1", b"").await;
    assert!(answer.starts_with("HTTP/1.1 500 Internal Server Error"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nNo known Consul servers"), "{answer}");
    // It would be held for 7 s.
    assert!(start.elapsed() < Duration::from_secs(5));
    let one = alone(Settings::default()).await;
    known.send_replace(KnownServers::at(std::slice::from_ref(&one.rpc)));
    while client.known_servers() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(client.call(get("/v1/kv/a")).await.unwrap().status(), 404);
    assert_eq!(client.server_in_use().unwrap().address, one.rpc);
    // The same server at another address.
    let moved = alone(Settings::default()).await;
    known.send_modify(|known| known.servers.get_mut(&one.rpc).unwrap().address = moved.rpc.clone());
    while client.server_in_use().unwrap().address != moved.rpc {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.call(put("/v1/kv/moved", "1")).await.unwrap();
    for (at, status) in [(&moved, "200"), (&one, "404")] {
        let answer = raw(at.http, "GET /v1/kv/moved HTTP/1.1", b"").await;
        assert_eq!(self::status(&answer), status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_held_while_no_server_can_be_reached() {
    let address = free_address().to_string();
    let hold = Duration::from_secs(1);
    let settings = ClientSettings { rpc_hold_timeout: hold, ..settings() };
    let client = client_with(&settings, std::slice::from_ref(&address));
    for request in [get("/v1/kv/a"), put("/v1/kv/a", "1")] {
        let start = Instant::now();
        let error = client.call(request).await.unwrap_err();
        let text = format!(
            "rpc error getting client: failed to get conn: dial tcp {address}: connect: connection refused"
        );
        assert_eq!(error.to_string(), text);
        let held = start.elapsed();
        // Far more than it takes on a busy machine, and far less than a default would.
        assert!(held >= hold && held < 5 * hold, "{held:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_belong_to_no_cluster_are_no_leaders_to_ask() {
    let blank = |name: &str, address| ServerSettings {
        dev: false,
        bootstrap_expect: 3,
        ..ServerSettings::dev(name, address)
    };
    let address = free_address();
    let waits = Server::start(blank("s9", address)).await.unwrap();
    waits.serve_agents(Tunnels::new(Api::new(waits.clone(), Settings::default(), None).unwrap()));
    let settings = ClientSettings { rpc_hold_timeout: Duration::from_millis(500), ..settings() };
    let lost = client_with(&settings, &[address.to_string()]);
    assert_eq!(lost.call(get("/v1/kv/a")).await.unwrap_err(), ForwardError::NoCluster);
    assert_eq!(ForwardError::NoCluster.to_string(), "No cluster leader");
    // Another that has one is asked instead.
    let one = alone(Settings::default()).await;
    let found = client(&[address.to_string(), one.rpc]);
    for _ in 0..20 {
        assert_eq!(found.call(put("/v1/kv/a", "1")).await.unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_that_is_exceeded_is_told_without_asking_a_server() {
    let one = alone(Settings::default()).await;
    let settings = ClientSettings { rpc_rate: 0.0, rpc_max_burst: 2, ..settings() };
    let client = client_with(&settings, std::slice::from_ref(&one.rpc));
    let through = listen(Api::of_client(client, Settings::default(), None).unwrap()).await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(raw(through, "GET /v1/kv/a HTTP/1.1", b"").await);
    }
    let statuses: Vec<&str> = answers.iter().map(|answer| status(answer)).collect();
    assert_eq!(statuses, ["404", "404", "429", "429"]);
    assert!(answers[3].ends_with("\r\n\r\n"), "{:?}", answers[3]);
    // What the agent says of itself costs nothing.
    assert_eq!(status(&raw(through, "GET /v1/agent/self HTTP/1.1", b"").await), "200");
}

/// Waits until so many polls wait at this server.
async fn parked(server: &Server, count: usize) {
    let start = Instant::now();
    while server.watches().len() != count {
        let in_time = start.elapsed() < Duration::from_mins(1);
        assert!(in_time, "{} wait, not {count}", server.watches().len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_long_polls_share_a_connection_and_leave_it_at_once() {
    const POLLS: usize = 3000;
    let one = alone(Settings::default()).await;
    let client = client(std::slice::from_ref(&one.rpc));
    client.call(put("/v1/kv/watched", "1")).await.unwrap();
    let index =
        client.call(get("/v1/kv/watched")).await.unwrap().headers()["x-consul-index"].clone();
    let target = format!("/v1/kv/watched?raw&wait=5m&index={}", index.to_str().unwrap());
    let start_polls = || {
        let mut polls = JoinSet::new();
        for _ in 0..POLLS {
            let (client, target) = (client.clone(), target.clone());
            polls.spawn(async move { client.call(get(&target)).await.unwrap() });
        }
        polls
    };
    let mut gone = start_polls();
    parked(&one.server, POLLS).await;
    // All at once their clients go away, which is no attack, and nothing of them stays.
    gone.shutdown().await;
    parked(&one.server, 0).await;
    let mut polls = start_polls();
    parked(&one.server, POLLS).await;
    client.call(put("/v1/kv/watched", "2")).await.unwrap();
    let mut woken = 0;
    while let Some(answer) = polls.join_next().await {
        assert_eq!(answer.unwrap().body(), "2");
        woken += 1;
    }
    assert_eq!(woken, POLLS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_hold_up_nobody() {
    let one = alone(Settings::default()).await;
    let client = client(std::slice::from_ref(&one.rpc));
    let value: &'static str = "x".repeat(500_000).leak();
    for n in 0..20 {
        client.call(put(&format!("/v1/kv/large/{n}"), value)).await.unwrap();
    }
    let through = listen(Api::of_client(client, Settings::default(), None).unwrap()).await;
    let mut silent = Vec::new();
    for _ in 0..30 {
        let mut stream = TcpStream::connect(through).await.unwrap();
        stream.write_all(b"GET /v1/kv/large?recurse HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut some = [0; 1000];
        stream.read_exact(&mut some).await.unwrap();
        silent.push(stream);
    }
    for n in 0..50 {
        let start = Instant::now();
        let answer = raw(through, &format!("GET /v1/kv/large/{}?raw HTTP/1.1", n % 20), b"").await;
        assert!(answer.len() > 500_000);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}

/// Takes an agent's requests, counts them, and breaks off without an answer.
#[derive(Default)]
struct Breaking(Arc<AtomicUsize>);

impl net::Tunnels for Breaking {
    fn is_open(&self) -> bool {
        true
    }

    fn serve(&self, stream: TcpStream) -> Tunnel {
        let broken = Arc::new(tokio::sync::Notify::new());
        let (breaks, count) = (broken.clone(), self.0.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let ping = request.uri().path() == "/v1/status/leader";
            if !ping {
                count.fetch_add(1, Ordering::SeqCst);
                breaks.notify_one();
            }
            async move {
                if !ping {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        Box::pin(async move {
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                () = broken.notified() => {}
            }
        })
    }
}

async fn breaking(name: &str) -> (Server, String, Arc<AtomicUsize>) {
    let address = free_address();
    let server = Server::start(ServerSettings::dev(name, address)).await.unwrap();
    assert!(server.wait_for_leader(Duration::from_secs(5)).await);
    let tunnels = Breaking::default();
    let count = tunnels.0.clone();
    server.serve_agents(Arc::new(tunnels));
    (server, address.to_string(), count)
}

/// A client agent that uses the first of these servers and knows the other.
async fn client_of_two(first: &str, other: &str) -> Client {
    let (known, news) = watch::channel(KnownServers::at(&[first.to_owned()]));
    let client = Client::start(&settings(), news);
    assert_eq!(client.server_in_use().unwrap().address, first);
    known.send_replace(KnownServers::at(&[first.to_owned(), other.to_owned()]));
    while client.known_servers() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_lost_on_the_way_is_not_repeated_and_a_read_goes_on() {
    let (_one, first, count) = breaking("b1").await;
    let good = alone(Settings::default()).await;
    let client = client_of_two(&first, &good.rpc).await;
    let error = client.call(put("/v1/kv/lost", "1")).await.unwrap_err();
    assert!(matches!(error, ForwardError::Rpc(RpcError::OutcomeUnknown(_))), "{error}");
    assert!(error.to_string().starts_with("rpc error making call: "), "{error}");
    assert_eq!(count.load(Ordering::SeqCst), 1);
    // It failed, so the other is in use once the connection's end is seen, and the write isn't there.
    while client.server_in_use().unwrap().address != good.rpc {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(client.call(get("/v1/kv/lost")).await.unwrap().status(), 404);

    let (_two, second, count) = breaking("b2").await;
    let client = client_of_two(&second, &good.rpc).await;
    assert_eq!(client.call(get("/v1/kv/lost")).await.unwrap().status(), 404);
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_lets_its_polls_go_and_they_wait_on_elsewhere() {
    let (one, other) = (alone(Settings::default()).await, alone(Settings::default()).await);
    let client = client_of_two(&one.rpc, &other.rpc).await;
    let through = listen(Api::of_client(client.clone(), Settings::default(), None).unwrap()).await;
    let start = Instant::now();
    let poll =
        tokio::spawn(
            async move { raw(through, "GET /v1/kv/a?index=1000&wait=6s HTTP/1.1", b"").await },
        );
    parked(&one.server, 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    one.tunnels.stop(Duration::from_secs(1)).await;
    parked(&one.server, 0).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // In all it waits as long as it asked for, and up to a sixteenth more: not as long again.
    assert_eq!(status(&poll.await.unwrap()), "404");
    let waited = start.elapsed();
    assert!(waited >= Duration::from_secs(6) && waited < Duration::from_secs(10), "{waited:?}");
    // Whoever comes now isn't taken, so a write finds the other.
    assert_eq!(client.call(put("/v1/kv/a", "1")).await.unwrap().body(), "true");
}
