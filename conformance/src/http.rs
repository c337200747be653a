//! A small blocking HTTP/1.1 client that shows what came over the wire: header names in their own bytes, the order of
//! the headers, how the body was framed.
//!
//! A library client would lower-case names, follow redirects, drop bodies or retry; a contract is about just these.

use std::{
    fmt,
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

/// An answer as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status line, without its end.
    pub status_line: String,
    /// The status code.
    pub status: u16,
    /// Names and values in their own bytes and order.
    pub headers: Vec<(String, String)>,
    /// The body, with the chunks' framing removed.
    pub body: Vec<u8>,
    /// From the first byte sent to the last byte received.
    pub elapsed: Duration,
}

impl Response {
    /// The value of the first header of this name, in whichever case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// `X-Consul-Index`.
    pub fn index(&self) -> Option<u64> {
        self.header("x-consul-index")?.parse().ok()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("not JSON: {} {:?}", self.status_line, self.text()))
    }
}

/// How a request's body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// No body, and no header about it.
    None,
    /// With its Content-Length.
    Sized(&'a [u8]),
    /// In chunks, without a length.
    Chunked(&'a [u8]),
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// Path and query as they go over the wire.
    pub target: &'a str,
    /// Headers besides Host.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: Body<'a>,
}

/// Why there is no answer, and whether the request may have had an effect.
#[derive(Debug)]
pub enum Failure {
    /// No connection: the request was never sent.
    NotSent(anyhow::Error),
    /// It was sent, in part at least, and no whole answer came: it may or may not have happened.
    Unknown(anyhow::Error),
}

impl From<Failure> for anyhow::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotSent(error) => error.context("not sent"),
            Failure::Unknown(error) => error.context("no answer"),
        }
    }
}

/// Where a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// At a port.
    Tcp(SocketAddr),
    /// At a socket file: network namespaces share the file system.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// A connection.
#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(address: &Address, timeout: Duration) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let limit = Duration::from_secs(5).min(timeout);
                let stream = TcpStream::connect_timeout(address, limit)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                Ok(Self::Tcp(stream))
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                Ok(Self::Unix(stream))
            }
        }
    }

    fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(on),
            Self::Unix(stream) => stream.set_nonblocking(on),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Unix(stream) => stream.flush(),
        }
    }
}

/// Talks to one server, over one connection at a time, which it keeps open.
#[derive(Debug)]
pub struct Client {
    address: Address,
    timeout: Duration,
    connection: Option<BufReader<Stream>>,
}

/// A request that was sent in part. To drop it closes its connection.
#[derive(Debug)]
pub struct Begun {
    connection: BufReader<Stream>,
    rest: Vec<u8>,
    method: String,
}

impl Begun {
    /// Sends the rest, and reads the answer.
    pub fn finish(mut self) -> Result<Response> {
        // It may have been answered before.
        let written = self.connection.get_mut().write_all(&self.rest);
        match read_response(&mut self.connection, &self.method) {
            Ok((response, _)) => Ok(response),
            Err(error) => Err(written.err().map_or(error, anyhow::Error::from)),
        }
    }
}

impl Client {
    /// Talks to `address`; an answer may take as long as `timeout`.
    pub fn new(address: SocketAddr, timeout: Duration) -> Self {
        Self::at(Address::Tcp(address), timeout)
    }

    /// As [`Client::new`], wherever it is.
    pub fn at(address: Address, timeout: Duration) -> Self {
        Self { address, timeout, connection: None }
    }

    /// Talks to this port of 127.0.0.1, with a timeout of 30 s.
    pub fn local(port: u16) -> Self {
        Self::new(SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(30))
    }

    /// GET.
    pub fn get(&mut self, target: &str) -> Result<Response> {
        Ok(self.send(&Request { method: "GET", target, headers: &[], body: Body::None })?)
    }

    /// PUT.
    pub fn put(&mut self, target: &str, body: &[u8]) -> Result<Response> {
        let body = Body::Sized(body);
        Ok(self.send(&Request { method: "PUT", target, headers: &[], body })?)
    }

    /// DELETE.
    pub fn delete(&mut self, target: &str) -> Result<Response> {
        Ok(self.send(&Request { method: "DELETE", target, headers: &[], body: Body::None })?)
    }

    /// Sends a request and reads its answer. Never retries: a request that may have had an effect isn't sent twice.
    pub fn send(&mut self, request: &Request<'_>) -> Result<Response, Failure> {
        let mut connection = self.connect().map_err(Failure::NotSent)?;
        let start = Instant::now();
        // A server may answer before it has read the whole body, and close: the answer is there all the same.
        let written = connection.get_mut().write_all(&self.encode(request));
        let (mut response, keep) = match read_response(&mut connection, request.method) {
            Ok(answer) => answer,
            Err(error) => {
                let error = match written {
                    Ok(()) => error,
                    Err(write) => error.context(write),
                };
                return Err(Failure::Unknown(error));
            }
        };
        response.elapsed = start.elapsed();
        if keep && written.is_ok() {
            self.connection = Some(connection);
        }
        Ok(response)
    }

    /// Sends a request but for what comes after so many bytes of its body, as they go over the wire; on a connection of
    /// its own.
    pub fn begin(&self, request: &Request<'_>, sent: usize) -> Result<Begun> {
        let mut bytes = self.encode(request);
        let head = bytes.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |at| at + 4);
        let rest = bytes.split_off(bytes.len().min(head + sent));
        let mut stream = Stream::connect(&self.address, self.timeout)?;
        stream.write_all(&bytes)?;
        Ok(Begun { connection: BufReader::new(stream), rest, method: request.method.to_owned() })
    }

    fn connect(&mut self) -> Result<BufReader<Stream>> {
        if let Some(mut connection) = self.connection.take() {
            // A server that restarted has closed it: that shows as a readable end, and then nothing was sent yet.
            connection.get_ref().set_nonblocking(true)?;
            let alive = matches!(connection.fill_buf(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock);
            connection.get_ref().set_nonblocking(false)?;
            if alive {
                return Ok(connection);
            }
        }
        let stream = Stream::connect(&self.address, self.timeout)
            .with_context(|| format!("can't connect to {}", self.address))?;
        Ok(BufReader::new(stream))
    }

    fn encode(&self, request: &Request<'_>) -> Vec<u8> {
        let Request { method, target, headers, body } = request;
        let host = match &self.address {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(_) => "localhost".to_owned(),
        };
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
        for (name, value) in *headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        let mut bytes = head.into_bytes();
        match body {
            Body::None => bytes.extend(b"\r\n"),
            Body::Sized(body) => {
                bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
                bytes.extend(*body);
            }
            Body::Chunked(body) => {
                bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in body.chunks(16 << 10) {
                    bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
            }
        }
        bytes
    }
}

/// Reads one answer; tells also whether the connection can carry another request.
fn read_response(reader: &mut BufReader<Stream>, method: &str) -> Result<(Response, bool)> {
    let (status_line, status) = loop {
        let line = read_line(reader)?;
        let code = line.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
        let status = code.with_context(|| format!("not a status line: {line:?}"))?;
        if status >= 200 {
            break (line, status);
        }
        while !read_line(reader)?.is_empty() {}
    };
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').with_context(|| format!("no header: {line:?}"))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let elapsed = Duration::ZERO;
    let mut response = Response { status_line, status, headers, body: Vec::new(), elapsed };
    let mut keep = !response.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
    if method == "HEAD" || status == 204 || status == 304 {
        return Ok((response, keep));
    }
    let chunked =
        response.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
    let length = response.header("content-length").map(str::parse::<usize>).transpose()?;
    if chunked {
        response.body = read_chunks(reader)?;
    } else if let Some(length) = length {
        response.body = vec![0; length];
        reader.read_exact(&mut response.body).context("the body ended early")?;
    } else {
        reader.read_to_end(&mut response.body)?;
        keep = false;
    }
    Ok((response, keep))
}

fn read_chunks(reader: &mut BufReader<Stream>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let length =
            usize::from_str_radix(digits, 16).with_context(|| format!("no chunk: {line:?}"))?;
        let start = body.len();
        body.resize(start + length, 0);
        reader.read_exact(&mut body[start..])?;
        if length == 0 {
            while !read_line(reader)?.is_empty() {}
            return Ok(body);
        }
        ensure!(read_line(reader)?.is_empty(), "a chunk is longer than it said");
    }
}

fn read_line(reader: &mut BufReader<Stream>) -> Result<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        bail!("the connection ended within the answer's head");
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(String::from_utf8(line)?)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::unix::net::UnixListener, thread};

    use super::*;
    use crate::process::wait_for;

    /// Answers one connection's requests with these bytes, one each, and gives back what it was sent.
    fn serve(answers: &[&str]) -> (Client, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = String::new();
            for answer in answers {
                let mut buffer = [0; 4096];
                let n = stream.read(&mut buffer).unwrap();
                seen += std::str::from_utf8(&buffer[..n]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
            seen
        });
        (Client::local(port), server)
    }

    #[test]
    fn header_names_come_in_their_own_bytes_and_order() {
        let answer = "HTTP/1.1 200 OK\r\nX-Consul-Knownleader: true\r\nvary: a\r\nContent-Length: 2\r\n\r\nhi";
        let (mut client, server) = serve(&[answer]);
        let response = client.get("/v1/kv/a?raw").unwrap();
        assert_eq!(response.status_line, "HTTP/1.1 200 OK");
        let names: Vec<&str> = response.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["X-Consul-Knownleader", "vary", "Content-Length"]);
        assert_eq!(response.body, b"hi");
        assert!(server.join().unwrap().starts_with("GET /v1/kv/a?raw HTTP/1.1\r\nHost: 127."));
    }

    #[test]
    fn chunks_are_joined_and_the_connection_is_used_again() {
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        let (mut client, server) =
            serve(&[chunked, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]);
        assert_eq!(client.get("/a").unwrap().body, b"abcd");
        assert_eq!(client.put("/b", b"x").unwrap().status, 404);
        assert!(server.join().unwrap().ends_with("Content-Length: 1\r\n\r\nx"));
    }

    #[test]
    fn a_connection_that_ends_within_the_answer_leaves_the_outcome_unknown() {
        let (mut client, _server) = serve(&["HTTP/1.1 200 OK\r\nContent-Le"]);
        let request = Request { method: "PUT", target: "/a", headers: &[], body: Body::None };
        assert!(matches!(client.send(&request), Err(Failure::Unknown(_))));
    }

    #[test]
    fn a_server_at_a_socket_file_is_talked_to_alike() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            for answer in ["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"; 2] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut buffer = [0; 4096];
                let n = stream.read(&mut buffer).unwrap();
                assert!(buffer[..n].starts_with(b"GET /a HTTP/1.1\r\nHost: localhost\r\n"));
                // It closes the connection after each answer.
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut client = Client::at(Address::Unix(path), Duration::from_secs(5));
        assert_eq!(client.get("/a").unwrap().body, b"hi");
        wait_for("the connection's end", Duration::from_secs(5), || {
            let connection = client.connection.as_mut()?;
            connection.get_ref().set_nonblocking(true).unwrap();
            let ended = matches!(connection.fill_buf(), Ok([]));
            connection.get_ref().set_nonblocking(false).unwrap();
            ended.then_some(())
        })
        .unwrap();
        assert_eq!(client.get("/a").unwrap().body, b"hi");
        server.join().unwrap();
        let request = Request { method: "PUT", target: "/a", headers: &[], body: Body::None };
        assert!(matches!(client.send(&request), Err(Failure::NotSent(_))));
    }

    #[test]
    fn a_refused_connection_means_that_nothing_was_sent() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let request = Request { method: "PUT", target: "/a", headers: &[], body: Body::None };
        assert!(matches!(Client::local(port).send(&request), Err(Failure::NotSent(_))));
    }
}
