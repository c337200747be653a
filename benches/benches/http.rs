//! The KV API over HTTP: one server in memory, one keep-alive connection over loopback.

use std::{net::SocketAddr, thread, time::Duration};

use benches::{
    load::{Client, blank},
    wire::{Protocol, Reads, Request},
};
use criterion::Criterion;
use proconsul::{
    config::ServerSettings,
    http::{Api, Settings, serve},
    server::Server,
};
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(5);

/// A server on threads of its own, for as long as the process lives.
fn agent() -> SocketAddr {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let address = listener.local_addr().expect("its address");
    let any = "127.0.0.1:0".parse().expect("an address");
    let started = runtime.block_on(Server::start(ServerSettings::dev("s1", any)));
    let server = started.expect("a server in memory");
    assert!(runtime.block_on(server.wait_for_leader(PATIENCE)), "it doesn't lead");
    let api = Api::new(server, Settings::default(), None).expect("the default settings");
    thread::spawn(move || runtime.block_on(serve(listener, api, std::future::pending())));
    address
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut client = Client::connect(Protocol::Http, agent()).expect("a connection");
    let mut ask = |request: Request<'_>| {
        let (answer, _) = client.ask(request, PATIENCE).expect("an answer");
        assert!(answer.ok, "{answer:?}");
    };
    let key = "service/web/config";
    for size in [64, 16 << 10] {
        let value = blank(size);
        let mut group = criterion.benchmark_group(format!("http/{size}B"));
        group.bench_function("put", |bench| {
            bench.iter(|| ask(Request::Put { key, value: &value }));
        });
        group.bench_function("get", |bench| {
            bench.iter(|| ask(Request::Get { key, reads: Reads::Default }));
        });
        group.bench_function("get-raw", |bench| {
            bench.iter(|| ask(Request::Check { key, reads: Reads::Default }));
        });
        group.finish();
    }
    criterion.final_summary();
}
