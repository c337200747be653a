//! What shapes the HTTP API: where it listens, who may use it, and its limits.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::Reader;
use crate::config::{HttpConfig, Limits, Listen, SocketAccess};
use crate::http::Network;

/// The largest value: what fits one frame between servers beside its envelope.
const MAX_REQUEST_BYTES: usize = 3 * 1024 * 1024;

pub(super) fn read(reader: &mut Reader<'_>) -> HttpConfig {
    let client = reader.template("client_addr").unwrap_or_default();
    if client.starts_with("unix://") {
        reader.errors.push("client_addr cannot be a unix socket".to_owned());
    }
    let (path, places) = match reader.template("addresses.http") {
        Some(places) if !places.is_empty() => ("addresses.http", places),
        _ => ("client_addr", client),
    };
    let mut listen = Vec::new();
    if let Some(port) = reader.port("ports.http") {
        for place in places.split_whitespace() {
            if let Some(socket) = place.strip_prefix("unix://") {
                listen.push(Listen::Unix(PathBuf::from(socket)));
            } else if let Some(address) = reader.ip(path, place) {
                listen.push(Listen::Tcp(SocketAddr::new(address, port)));
            }
        }
    }
    let mut allow_write_http_from = Vec::new();
    for text in reader.texts("http_config.allow_write_http_from") {
        match text.parse::<Network>() {
            Ok(network) => allow_write_http_from.push(network),
            Err(_) => reader.errors.push(format!("allow_write_http_from: invalid cidr: {text}")),
        }
    }
    HttpConfig {
        listen,
        socket_access: read_socket_access(reader),
        response_headers: reader.pairs("http_config.response_headers"),
        block_endpoints: reader.texts("http_config.block_endpoints"),
        allow_write_http_from,
        disable_unprintable_char_filter: reader.bool("disable_http_unprintable_char_filter"),
        default_query_time: reader.duration("default_query_time"),
        max_query_time: reader.duration("max_query_time"),
    }
}

fn read_socket_access(reader: &mut Reader<'_>) -> SocketAccess {
    let filled = |reader: &Reader<'_>, path| reader.text(path).filter(|text| !text.is_empty());
    let mode = filled(reader, "unix_sockets.mode").and_then(|text| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| digits && *mode <= 0o777);
        if mode.is_none() {
            reader.errors.push(format!("unix_sockets.mode: invalid mode specified: {text}"));
        }
        mode
    });
    SocketAccess {
        user: filled(reader, "unix_sockets.user"),
        group: filled(reader, "unix_sockets.group"),
        mode,
    }
}

pub(super) fn read_limits(reader: &mut Reader<'_>) -> Limits {
    let limits = Limits {
        http_max_conns_per_client: reader.count("limits.http_max_conns_per_client"),
        rpc_max_conns_per_client: reader.count("limits.rpc_max_conns_per_client"),
        rpc_rate: reader.number("limits.rpc_rate"),
        rpc_max_burst: reader.count("limits.rpc_max_burst"),
        rpc_handshake_timeout: reader.duration("limits.rpc_handshake_timeout"),
        kv_max_value_size: reader.count("limits.kv_max_value_size"),
    };
    let bytes = limits.kv_max_value_size;
    if bytes > MAX_REQUEST_BYTES {
        reader.errors.push(format!(
            "limits.kv_max_value_size cannot be {bytes}. Must be less than or equal to {MAX_REQUEST_BYTES}"
        ));
    }
    limits
}
