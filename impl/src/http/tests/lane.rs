//! Plain reads are answered without hyper, and nobody can tell.

use super::*;
use crate::http::lane::{SERVED, UNDER_WAY};

/// What of an answer is the same whenever it is asked for.
fn fixed(answer: &Answer) -> (Vec<&str>, &[u8]) {
    let varies = |line: &&str| line.starts_with("Date: ") || line.starts_with("X-Consul-Last");
    let mut lines: Vec<&str> = answer.head.lines().filter(|line| !varies(line)).collect();
    lines[1..].sort_unstable();
    (lines, &answer.body)
}

/// So many answers' bodies, however they come.
async fn bodies(stream: &mut TcpStream, count: usize) -> Vec<String> {
    let (mut bytes, mut bodies) = (Vec::new(), Vec::new());
    while bodies.len() < count {
        let text = String::from_utf8(bytes.clone()).unwrap();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let answer = Answer { head: head.to_owned(), body: Vec::new() };
            let length: usize = answer.header("Content-Length").unwrap().parse().unwrap();
            if rest.len() >= length {
                bodies.push(rest[..length].to_owned());
                bytes.drain(..head.len() + 4 + length);
                continue;
            }
        }
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await.unwrap();
        assert_ne!(read, 0, "the connection ended after {bodies:?}");
        bytes.extend_from_slice(&chunk[..read]);
    }
    bodies
}

#[tokio::test]
async fn a_read_is_answered_as_hyper_would_have_it_answered() {
    let agent = agent(recorded()).await;
    let long = vec![b'x'; 400_000];
    for (key, value) in [("a/one", &b"1"[..]), ("a/two", b""), ("long", &long)] {
        assert_eq!(put(&agent, &format!("/v1/kv/{key}"), value).await.text(), "true");
    }
    let mut stream = connect(&agent).await;
    let mut served = SERVED.get();
    for path in [
        "/v1/kv/a/one",
        "/v1/kv/a/one?raw",
        "/v1/kv/a/two?consistent&pretty",
        "/v1/kv/a/?recurse&stale",
        "/v1/kv/a?keys&separator=/",
        "/v1/kv/none",
        "/v1/kv/long?raw",
        "/v1/catalog/nodes",
        "/v1/catalog/node/none",
        "/v1/health/state/any",
        "/v1/coordinate/nodes",
    ] {
        for headers in
            ["", "Accept-Encoding: gzip\r\n", "User-Agent: x\r\nConnection: Keep-Alive\r\n"]
        {
            let head = format!("GET {path} HTTP/1.1\r\nHost: h\r\n{headers}");
            stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
            let answer = read_answer(&mut stream, false).await;
            served += 1;
            assert_eq!(SERVED.get(), served, "{path}");
            let mut other = connect(&agent).await;
            other.write_all(format!("{head}Content-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
            let by_hyper = read_answer(&mut other, false).await;
            assert_eq!(SERVED.get(), served, "{path}");
            assert_eq!(fixed(&answer), fixed(&by_hyper), "{path}");
            let date = answer.header("Date").unwrap();
            assert_eq!(date.len(), by_hyper.header("Date").unwrap().len());
            assert_eq!(answer.header("X-Oracle"), Some("yes"));
        }
    }
}

#[tokio::test]
async fn what_is_not_one_whole_read_goes_to_hyper_in_its_order() {
    let agent = agent(Settings::default()).await;
    let read = "GET /v1/kv/k?raw HTTP/1.1\r\nHost: h\r\n\r\n";
    let write = |value: &str| {
        format!("PUT /v1/kv/k HTTP/1.1\r\nContent-Length: {}\r\n\r\n{value}", value.len())
    };
    for (pieces, answers) in [
        // A head that comes in pieces.
        (vec!["GET /v1/kv/k?r".to_owned(), "aw HTTP/1.1\r\n\r\n".to_owned()], vec!["0"]),
        // Two reads at once, and a write with its body behind a read.
        (vec![format!("{read}{read}")], vec!["0", "0"]),
        (vec![format!("{read}{}", write("1")), read.to_owned()], vec!["0", "true", "1"]),
        (vec![write("0"), read.to_owned()], vec!["true", "0"]),
        // A head of more bytes, or more headers, than are read here.
        (vec![format!("GET /v1/kv/k?raw&{} HTTP/1.1\r\n\r\n", "x".repeat(5000))], vec!["0"]),
        (vec![format!("GET /v1/kv/k?raw HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(40))], vec!["0"]),
    ] {
        put(&agent, "/v1/kv/k", b"0").await;
        let mut stream = connect(&agent).await;
        stream.write_all(read.as_bytes()).await.unwrap();
        let served = SERVED.get();
        assert_eq!(read_answer(&mut stream, false).await.text(), "0");
        assert_eq!(SERVED.get(), served + 1);
        for piece in &pieces {
            stream.write_all(piece.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(bodies(&mut stream, answers.len()).await, answers, "{pieces:?}");
        assert_eq!(SERVED.get(), served + 1, "{pieces:?}");
    }
    put(&agent, "/v1/kv/k", b"0").await;
    // HTTP/1.0 ends behind its answer, and so does who asks for that.
    for head in [
        "GET /v1/kv/k?raw HTTP/1.0\r\n\r\n",
        "GET /v1/kv/k?raw HTTP/1.1\r\nConnection: close\r\n\r\n",
    ] {
        let mut stream = connect(&agent).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(read_answer(&mut stream, false).await.text(), "0");
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "{head}");
    }
}

#[tokio::test]
async fn an_agent_that_stops_ends_connections_that_rest_and_answers_reads_that_are_under_way() {
    let agent = agent(Settings::default()).await;
    put(&agent, "/v1/kv/k", b"0").await;
    let mut resting = connect(&agent).await;
    resting.write_all(b"GET /v1/kv/k?raw HTTP/1.1\r\n\r\n").await.unwrap();
    read_answer(&mut resting, false).await;
    let mut asking = connect(&agent).await;
    let (served, begun) = (SERVED.get(), UNDER_WAY.get());
    asking.write_all(b"GET /v1/kv/k?raw HTTP/1.1\r\n\r\n").await.unwrap();
    // Until the read is under way: its answer needs the consensus thread, and then this one again.
    while UNDER_WAY.get() == begun {
        tokio::task::yield_now().await;
    }
    agent.stop.send(()).unwrap();
    timeout(Duration::from_secs(20), agent.ended).await.unwrap().unwrap();
    assert_eq!(SERVED.get(), served + 1);
    assert_eq!(read_answer(&mut asking, false).await.text(), "0");
    for mut stream in [resting, asking] {
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
