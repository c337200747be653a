//! Long polls that leave their connection while they sleep: what a client sees of it is nothing.

use std::{fmt::Write as _, time::Duration};

use super::*;

const POLL: &str = "GET /v1/kv/a?raw&index=4&wait=10s";

/// An agent with a key whose index is 4.
async fn agent_with_a_key() -> Agent {
    let agent = agent(recorded()).await;
    put(&agent, "/v1/kv/a", b"1").await;
    agent
}

#[tokio::test]
async fn a_connection_serves_one_long_poll_after_another_and_other_requests_between() {
    let agent = agent_with_a_key().await;
    let mut stream = connect(&agent).await;
    for round in 0..3 {
        let index = 4 + round;
        let poll = format!("GET /v1/kv/a?raw&index={index}&wait=10s HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(poll.as_bytes()).await.unwrap();
        asleep(&agent, 1).await;
        put(&agent, "/v1/kv/a", format!("{round} again").as_bytes()).await;
        let answer = read_answer(&mut stream, false).await;
        assert_eq!((answer.text(), answer.index()), (format!("{round} again").as_str(), index + 1));
        assert_eq!(answer.header("X-Oracle"), Some("yes"));
        stream.write_all(b"GET /v1/catalog/datacenters HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert_eq!(read_answer(&mut stream, false).await.text(), "[\"dc1\"]");
    }
}

#[tokio::test]
async fn what_is_sent_around_a_long_poll_is_answered_in_its_order() {
    let agent = agent_with_a_key().await;
    let line = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let poll = format!("{POLL} HTTP/1.1\r\nHost: x\r\n\r\n");
    let last = b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let large = vec![b'.'; 400_000];
    put(&agent, "/v1/kv/large", &large).await;
    let mut sent = String::new();
    // A large answer before it, and a request behind it, are both in hyper's hands when the poll would sleep.
    let _ = write!(sent, "{}{poll}{}", line("/v1/kv/large?raw"), line("/v1/status/peers"));
    for cut in [sent.len(), sent.len() - 43, sent.len() - 30, sent.len() - 5] {
        put(&agent, "/v1/kv/a", b"1").await;
        let index = get(&agent, "/v1/kv/a").await.index();
        let sent = sent.replace("index=4", &format!("index={index}"));
        let mut stream = connect(&agent).await;
        stream.write_all(&sent.as_bytes()[..cut]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.write_all(&sent.as_bytes()[cut..]).await.unwrap();
        asleep(&agent, 1).await;
        put(&agent, "/v1/kv/a", b"2").await;
        stream.write_all(last).await.unwrap();
        let mut answers = String::new();
        let read = stream.read_to_string(&mut answers);
        timeout(Duration::from_secs(5), read).await.unwrap().unwrap();
        let bodies: Vec<_> = answers.split("\r\n\r\n").map(|part| part.lines().next()).collect();
        let found = |body: &str| bodies.iter().position(|part| *part == Some(body));
        let place = |body: &str| found(body).unwrap_or_else(|| panic!("{body}: {bodies:?}"));
        let large = str::from_utf8(&large).unwrap();
        assert!(bodies.iter().any(|part| part.is_some_and(|part| part.starts_with(large))));
        assert!(place("2HTTP/1.1 200 OK") > 1, "{cut}");
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 4, "{cut}");
    }
}

#[tokio::test]
async fn a_long_poll_ends_its_connection_where_the_client_wants_that() {
    let agent = agent_with_a_key().await;
    for (version, header, kept) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        put(&agent, "/v1/kv/a", b"before").await;
        let index = get(&agent, "/v1/kv/a").await.index();
        let poll = POLL.replace("index=4", &format!("index={index}"));
        let mut stream = connect(&agent).await;
        let poll = format!("{poll} HTTP/{version}\r\nHost: x\r\n{header}\r\n");
        stream.write_all(poll.as_bytes()).await.unwrap();
        asleep(&agent, 1).await;
        put(&agent, "/v1/kv/a", b"after").await;
        let answer = read_answer(&mut stream, false).await;
        assert_eq!(answer.text(), "after");
        assert!(answer.head.starts_with(&format!("HTTP/{version} 200 OK")), "{answer:?}");
        let close = answer.header("Connection") == Some("close");
        if kept {
            assert!(!close);
            stream.write_all(b"GET /v1/kv/a?raw HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            assert_eq!(read_answer(&mut stream, false).await.text(), "after");
        } else {
            assert!(close || version == "1.0", "{answer:?}");
            let ended = timeout(Duration::from_secs(5), stream.read(&mut [0; 9])).await;
            assert_eq!(ended.unwrap().unwrap(), 0);
        }
    }
}

#[tokio::test]
async fn a_long_poll_with_a_body_is_answered_as_well() {
    let agent = agent_with_a_key().await;
    let mut stream = connect(&agent).await;
    let poll = format!("{POLL} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody");
    stream.write_all(poll.as_bytes()).await.unwrap();
    asleep(&agent, 1).await;
    put(&agent, "/v1/kv/a", b"2").await;
    assert_eq!(read_answer(&mut stream, false).await.text(), "2");
}

#[tokio::test]
async fn an_agent_that_stops_ends_polls_that_sleep_at_once() {
    // What doesn't end would be cut off by then: a poll that isn't ended at once is told from one that is.
    let settings = Settings { stop_timeout: Duration::from_secs(20), ..recorded() };
    let agent = agent(settings).await;
    put(&agent, "/v1/kv/a", b"1").await;
    let poll = format!("{POLL} HTTP/1.1\r\nHost: x\r\n\r\n").replace("wait=10s", "wait=5m");
    let mut stream = connect(&agent).await;
    stream.write_all(poll.as_bytes()).await.unwrap();
    asleep(&agent, 1).await;
    let Agent { stop, ended, server, .. } = agent;
    stop.send(()).unwrap();
    timeout(Duration::from_secs(10), ended).await.unwrap().unwrap();
    assert!(server.watches().is_empty());
    assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
}
