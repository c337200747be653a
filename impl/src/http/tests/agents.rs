//! What comes by HTTP/2 from agents that are no servers.

use super::*;
use crate::{http::tunnel::Tunnels, net::Tunnels as _};

/// A frame of HTTP/2 (RFC 9113, section 4.1) on stream `stream`.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The head of a PUT, as literals without indexing (RFC 7541, section 6.2.2).
fn put_head(stream: u8, path: &str, length: Option<&str>) -> Vec<u8> {
    let literal = |name: &[u8], value: &str| {
        [name, &[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
    };
    let mut block = literal(&[2], "PUT");
    block.push(0x86);
    block.extend(literal(&[4], path));
    block.extend(literal(&[1], "server"));
    if let Some(length) = length {
        block.extend(literal(&[0x0f, 0x0d], length));
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// hyper resets streams with NO_ERROR where an agent's connection is found dead, and gives what had come as the whole body.
#[tokio::test]
async fn a_value_whose_stream_ends_before_it_is_whole_is_not_written() {
    let server = server().await;
    let tunnels = Tunnels::new(Api::new(server.clone(), Settings::default(), None).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut agent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let served = tokio::spawn(tunnels.serve(listener.accept().await.unwrap().0));
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    for (stream, path, length, sent) in [
        (1, "/v1/kv/announced", Some("4"), &b""[..]),
        (3, "/v1/kv/in-part", Some("4"), b"12"),
        (5, "/v1/kv/of-any-length", None, b"12"),
    ] {
        bytes.extend(put_head(stream, path, length));
        if !sent.is_empty() {
            bytes.extend(frame(DATA, 0, stream, sent));
        }
    }
    agent.write_all(&bytes).await.unwrap();
    // Their handlers wait for the rest by then.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut bytes: Vec<u8> =
        [1, 3, 5].iter().flat_map(|stream| frame(RST_STREAM, 0, *stream, &[0; 4])).collect();
    for (stream, path, length) in
        [(7, "/v1/kv/whole", Some("4")), (9, "/v1/kv/whole-of-any-length", None)]
    {
        bytes.extend(put_head(stream, path, length));
        bytes.extend(frame(DATA, END_STREAM, stream, b"1234"));
    }
    agent.write_all(&bytes).await.unwrap();
    let value = |key: &str| {
        let state = server.published().unwrap().state;
        state.kv_get(key.as_bytes()).1.map(|entry| entry.value.to_vec())
    };
    let written = async {
        while ["whole", "whole-of-any-length"].iter().any(|key| value(key).is_none()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), written).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(value("whole").as_deref(), Some(&b"1234"[..]));
    for key in ["announced", "in-part", "of-any-length"] {
        assert_eq!(value(key), None, "{key}");
    }
    served.abort();
}
