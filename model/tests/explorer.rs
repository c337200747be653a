//! `explore` serves Stateright's Explorer: a person's browser finds the states of a scope there, and what follows them.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The served process, which ends with the test however that ends.
struct Explorer {
    child: Child,
    address: SocketAddr,
}

impl Drop for Explorer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Explorer {
    fn start(scope: &str) -> Self {
        // The port is free again at once, and nobody else was given it.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_model"))
            .args(["explore", scope, "--bind", &address.to_string()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let explorer = Self { child, address };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(started.elapsed() < Duration::from_mins(1), "nothing listens on {address}");
            std::thread::sleep(Duration::from_millis(20));
        }
        explorer
    }

    /// The body of what is served under a path.
    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.lines().next().unwrap().ends_with("200 OK"), "{path}: {head}");
        body.to_owned()
    }

    fn json(&self, path: &str) -> serde_json::Value {
        serde_json::from_str(&self.get(path)).unwrap()
    }
}

#[test]
fn the_explorer_shows_states_their_actions_and_the_properties() {
    let explorer = Explorer::start("raft-lone-voter");
    assert!(explorer.get("/").contains("app.js"));
    let status = explorer.json("/.status");
    assert!(status["properties"].to_string().contains("election_safety"), "{status}");

    let first = explorer.json("/.states/");
    let first = &first.as_array().unwrap()[0];
    assert!(first["state"].as_str().unwrap().contains("voted_for"), "{first}");
    let place = &first["actionIndex"];

    // A state is named by the places of the actions that lead to it.
    let next = explorer.json(&format!("/.states/{place}"));
    let steps = next.as_array().unwrap();
    assert!(steps.iter().all(|step| step["action"].is_string()), "{next}");
    let changed =
        steps.iter().any(|step| step["fingerprint"].is_string() && step["state"] != first["state"]);
    assert!(changed, "no action leads on: {next}");
}
