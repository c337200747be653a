//! The commands' HTTP client: one request, one answer, and Go's words for what goes wrong.

use std::fmt;
use std::fs;
use std::io;
use std::net::ToSocketAddrs as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::flags::Given;
use super::go_error;

/// The port of an address that names none.
const HTTP_PORT: u16 = 80;

const TLS: &str = "TLS is not supported yet, and without it nothing is encrypted or verified";
const ENTERPRISE: &str = "namespaces and partitions are not part of this agent";

/// What Consul's commands honour and ours can't: the flag, where there is one, its variable, and why. To pass over it would
/// do something else than was asked for. `CONSUL_HTTP_SSL_VERIFY` isn't here: it only says how TLS is done.
const REFUSED: [(Option<&str>, &str, &str); 7] = [
    (Some("ca-file"), "CONSUL_CACERT", TLS),
    (Some("ca-path"), "CONSUL_CAPATH", TLS),
    (Some("client-cert"), "CONSUL_CLIENT_CERT", TLS),
    (Some("client-key"), "CONSUL_CLIENT_KEY", TLS),
    (Some("tls-server-name"), "CONSUL_TLS_SERVER_NAME", TLS),
    (None, "CONSUL_NAMESPACE", ENTERPRISE),
    (None, "CONSUL_PARTITION", ENTERPRISE),
];

/// Where an agent's HTTP API is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// `host:port`, as it was given.
    Tcp(String),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// What requests are sent with.
#[derive(Clone, Debug)]
pub struct Client {
    target: Target,
    token: Option<String>,
    basic_auth: Option<String>,
    datacenter: Option<String>,
    stale: bool,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The answer if its status is 200, or else Consul's line about it.
    pub fn ok(self) -> Result<Self, String> {
        if self.status == StatusCode::OK {
            return Ok(self);
        }
        let text = String::from_utf8_lossy(&self.body);
        Err(format!("Unexpected response code: {} ({})", self.status.as_u16(), text))
    }
}

/// A client as the flags and then the environment say; its error is told as Consul's commands tell it.
pub fn connect(given: &Given) -> Result<Client, String> {
    Client::new(given).map_err(|error| format!("Error connecting to Consul agent: {error}"))
}

impl Client {
    /// A client as the flags and then the environment say.
    pub fn new(given: &Given) -> Result<Self, String> {
        let setting = |flag: &str, variable: &str| {
            let given = given.text(flag).map(str::to_owned);
            given.or_else(|| std::env::var(variable).ok()).filter(|text| !text.is_empty())
        };
        let address = setting("http-addr", "CONSUL_HTTP_ADDR");
        let mut token = setting("token", "CONSUL_HTTP_TOKEN");
        if let Some(path) = setting("token-file", "CONSUL_HTTP_TOKEN_FILE") {
            let text = fs::read_to_string(&path).map_err(|error| {
                format!("Error loading token file: open {path}: {}", go_error(&error))
            })?;
            // The file wins over a token, unless it is empty: as in Consul.
            token = Some(text.trim().to_owned()).filter(|text| !text.is_empty()).or(token);
        }
        let tls = std::env::var("CONSUL_HTTP_SSL")
            .is_ok_and(|text| matches!(text.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
        for (flag, variable, why) in REFUSED {
            if let Some(flag) = flag
                && given.text(flag).is_some_and(|text| !text.is_empty())
            {
                return Err(format!("-{flag} cannot be set: {why}"));
            }
            if std::env::var_os(variable).is_some_and(|text| !text.is_empty()) {
                return Err(format!("{variable} cannot be set: {why}"));
            }
        }
        let auth = std::env::var("CONSUL_HTTP_AUTH").ok().filter(|text| !text.is_empty());
        Ok(Self {
            target: target(address.as_deref().unwrap_or("127.0.0.1:8500"), tls)?,
            token,
            basic_auth: auth.as_deref().map(basic_auth),
            datacenter: given.text("datacenter").map(str::to_owned),
            stale: given.on("stale"),
        })
    }

    /// Sends one request and reads its answer to the end.
    pub fn send(
        &self,
        method: &Method,
        path: &str,
        query: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| go_error(&error))?;
        let path_and_query = format!("/v1/{}{}", escape_path(path), self.query(method, query));
        runtime.block_on(self.exchange(method, &path_and_query, body)).map_err(|error| {
            let host = match &self.target {
                Target::Tcp(address) => address.clone(),
                Target::Unix(path) => escape(&path.to_string_lossy(), |_| false),
            };
            let mut verb = method.as_str().to_lowercase();
            verb[..1].make_ascii_uppercase();
            format!("{verb} \"http://{host}{path_and_query}\": {error}")
        })
    }

    /// The query, sorted by name as Go sorts it.
    fn query(&self, method: &Method, own: &[(&str, &str)]) -> String {
        let mut pairs = own.to_vec();
        pairs.extend(self.datacenter.as_deref().map(|datacenter| ("dc", datacenter)));
        if self.stale && method == Method::GET {
            pairs.push(("stale", ""));
        }
        pairs.sort_unstable();
        let encode = |text: &str| escape(text, |byte| byte == b' ').replace(' ', "+");
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
            .collect();
        if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
    }

    async fn exchange(&self, method: &Method, path: &str, body: Bytes) -> Result<Answer, String> {
        match &self.target {
            Target::Tcp(address) => {
                let stream = dial(address).await?;
                self.converse(stream, address, method, path, body).await
            }
            Target::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(|error| {
                    format!("dial unix {}: connect: {}", socket.display(), go_error(&error))
                })?;
                self.converse(stream, "localhost", method, path, body).await
            }
        }
    }

    async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        host: &str,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, String> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let headers = request.headers_mut();
        for (name, value) in
            [("x-consul-token", &self.token), (AUTHORIZATION.as_str(), &self.basic_auth)]
        {
            let Some(value) = value else { continue };
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| format!("net/http: invalid header field value for key {name:?}"))?;
            value.set_sensitive(true);
            headers.insert(
                hyper::header::HeaderName::from_bytes(name.as_bytes()).map_err(broken)?,
                value,
            );
        }
        let answer = sender.send_request(request).await.map_err(broken)?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(broken)?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }
}

async fn dial(address: &str) -> Result<TcpStream, String> {
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let with_port = if has_port { address.to_owned() } else { format!("{address}:{HTTP_PORT}") };
    let host = with_port.rsplit_once(':').map_or(with_port.as_str(), |(host, _)| host);
    let places = with_port
        .to_socket_addrs()
        .map_err(|_| format!("dial tcp: lookup {host}: no such host"))?;
    let mut failure = format!("dial tcp: lookup {host}: no such host");
    for place in places {
        match TcpStream::connect(place).await {
            Ok(stream) => {
                // A request in two segments must not wait for the first one's acknowledgement.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => failure = format!("dial tcp {place}: connect: {}", go_error(&error)),
        }
    }
    Err(failure)
}

/// What a connection that broke is called: Go says EOF where hyper says that the message is incomplete.
fn broken(error: impl std::error::Error + 'static) -> String {
    let error: &(dyn std::error::Error + 'static) = &error;
    if let Some(error) = error.downcast_ref::<hyper::Error>()
        && error.is_incomplete_message()
    {
        return "EOF".to_owned();
    }
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(source) => go_error(source),
        None => error.to_string(),
    }
}

/// What `CONSUL_HTTP_AUTH` comes to: `user:password`, or a user whose password is empty.
fn basic_auth(auth: &str) -> String {
    let colon = if auth.contains(':') { "" } else { ":" };
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{auth}{colon}"));
    format!("Basic {encoded}")
}

fn target(address: &str, tls: bool) -> Result<Target, String> {
    if let Some(path) = address.strip_prefix("unix://") {
        return Ok(Target::Unix(Path::new(path).to_owned()));
    }
    let (scheme, rest) = address.split_once("://").unwrap_or(("http", address));
    match scheme {
        "http" if !tls => Ok(Target::Tcp(rest.trim_end_matches('/').to_owned())),
        // To speak plainly where TLS was asked for would show the token to the network.
        "http" | "https" => Err("https is not supported yet".to_owned()),
        _ => Err(format!("Unknown protocol scheme: {scheme}")),
    }
}

/// A path as Go escapes it: of what is reserved, all but `?` may stand.
fn escape_path(path: &str) -> String {
    escape(path, |byte| b"$&+,/:;=@".contains(&byte))
}

fn escape(text: &str, stands: impl Fn(u8) -> bool) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || stands(byte) {
            out.push(char::from(byte));
        } else {
            let _ = fmt::Write::write_fmt(&mut out, format_args!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(datacenter: Option<&str>, stale: bool) -> Client {
        Client {
            target: Target::Tcp("127.0.0.1:1".to_owned()),
            token: None,
            basic_auth: None,
            datacenter: datacenter.map(str::to_owned),
            stale,
        }
    }

    #[test]
    fn paths_and_queries_are_escaped_as_go_escapes_them() {
        assert_eq!(escape_path("kv/a b%/ü?x"), "kv/a%20b%25/%C3%BC%3Fx");
        assert_eq!(escape_path("kv/a+b@c"), "kv/a+b@c");
        let query =
            client(Some("dc2"), true).query(&Method::GET, &[("separator", "/"), ("keys", "")]);
        assert_eq!(query, "?dc=dc2&keys=&separator=%2F&stale=");
        assert_eq!(client(None, true).query(&Method::PUT, &[]), "");
    }

    #[test]
    fn an_agent_that_is_not_there_is_reported_in_go_s_words() {
        let error = client(None, false).send(&Method::GET, "kv/a", &[], Bytes::new()).unwrap_err();
        assert_eq!(
            error,
            "Get \"http://127.0.0.1:1/v1/kv/a\": dial tcp 127.0.0.1:1: connect: connection refused"
        );
        let nowhere = Client { target: Target::Unix("/nope.sock".into()), ..client(None, false) };
        assert_eq!(
            nowhere.send(&Method::GET, "kv/a", &[], Bytes::new()).unwrap_err(),
            "Get \"http://%2Fnope.sock/v1/kv/a\": dial unix /nope.sock: connect: no such file or directory"
        );
    }

    #[test]
    fn a_user_without_a_password_has_an_empty_one() {
        assert_eq!(basic_auth("user:word"), "Basic dXNlcjp3b3Jk");
        assert_eq!(basic_auth("user"), basic_auth("user:"));
    }

    #[test]
    fn tls_is_refused_not_left_out() {
        for (address, tls) in [("https://127.0.0.1:8501", false), ("127.0.0.1:8500", true)] {
            assert!(target(address, tls).is_err());
        }
        assert_eq!(target("ftp://x", false), Err("Unknown protocol scheme: ftp".to_owned()));
        assert_eq!(target("http://h:1/", false), Ok(Target::Tcp("h:1".to_owned())));
    }
}
