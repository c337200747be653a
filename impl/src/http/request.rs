//! What every read of Consul's takes from its query string and headers: consistency, wait, index, datacenter.
//!
//! Checked in Consul's order: consistency, `Cache-Control`, wait, index; the first fault is the answer. Whether the
//! datacenter is known shows last, when the request would be sent there.

use std::time::Duration;

use hyper::{HeaderMap, header::CACHE_CONTROL};

use super::{
    Settings, go,
    query::Values,
    respond::{Failure, Refusal, Reply},
};
use crate::server::Consistency;

/// The options that all reads share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// How fresh the answer must be.
    pub consistency: Consistency,
    /// Answer at once unless the result's index is beyond this; 0 never waits.
    pub min_index: u64,
    /// How long to wait at most.
    pub wait: Duration,
    /// How long ago the answering server may have heard the leader at most.
    pub max_stale: Option<Duration>,
}

impl Options {
    /// Reads the options, or answers what is wrong with them.
    pub(crate) fn read(
        settings: &Settings,
        values: &Values<'_>,
        headers: &HeaderMap,
    ) -> Result<Self, Refusal> {
        let mut options = Self {
            consistency: Consistency::Default,
            min_index: 0,
            wait: settings.default_query_time,
            max_stale: None,
        };
        if !values.is_empty() {
            options.consistency = consistency(values)?;
            let bound =
                values.get_filled("max_stale").and_then(|bound| go::parse_duration(bound).ok());
            options.max_stale = bound.and_then(go::positive).filter(|_| !values.has("stale"));
        }
        cache_control(headers)?;
        if !values.is_empty() {
            options.wait = wait(settings, values)?;
            if let Some(index) = values.get_filled("index") {
                let index = go::parse_uint(index);
                options.min_index = index.map_err(|_| Reply::bad_request("Invalid index"))?;
            }
        }
        Ok(options)
    }
}

/// Reads `stale`, `consistent`, `leader`, `cached` and `max_stale`.
pub(crate) fn consistency(values: &Values<'_>) -> Result<Consistency, Refusal> {
    let mut stale = values.has("stale");
    let consistent = values.has("consistent");
    if let Some(bound) = values.get_filled("max_stale") {
        let Ok(nanoseconds) = go::parse_duration(bound) else {
            let text = format!("Invalid max_stale value {}", go::quote(bound));
            return Err(Reply::bad_request(text));
        };
        // A bound is leave to be stale. The catalog holds it, KV doesn't; so does Consul.
        stale |= nanoseconds > 0;
    }
    match (consistent, stale, values.has("cached")) {
        (true, true, _) => Err(Reply::bad_request(
            "Cannot specify ?stale with ?consistent, conflicting semantics.",
        )),
        (true, _, true) => Err(Reply::bad_request(
            "Cannot specify ?cached with ?consistent, conflicting semantics.",
        )),
        (true, ..) => Ok(Consistency::Consistent),
        (_, true, _) => Ok(Consistency::Stale),
        _ => Ok(Consistency::Default),
    }
}

/// Refuses a `Cache-Control` whose ages aren't numbers. What it allows needs no obeying: answers are never cached.
pub(crate) fn cache_control(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(value) = headers.get(CACHE_CONTROL) else { return Ok(()) };
    let value = value.as_bytes().to_ascii_lowercase();
    for directive in value.split(|byte| *byte == b',') {
        let directive = directive.trim_ascii();
        for name in [&b"max-age="[..], b"stale-if-error="] {
            let age = directive.strip_prefix(name);
            let digits = |age: &[u8]| {
                let age = age.strip_prefix(b"-").or(age.strip_prefix(b"+")).unwrap_or(age);
                go::parse_uint(age).is_ok()
            };
            if age.is_some_and(|age| !digits(age)) {
                return Err(Reply::bad_request("Invalid Cache-Control header."));
            }
        }
    }
    Ok(())
}

/// Refuses a filter: an answer that isn't filtered would be taken for one that is.
pub(crate) fn no_filter(values: &Values<'_>) -> Result<(), Refusal> {
    match values.get_filled("filter") {
        Some(_) => Err(Reply::bad_request("The filter parameter is not supported yet")),
        None => Ok(()),
    }
}

/// Refuses a datacenter that isn't this one: there is no route to another.
pub(crate) fn known_datacenter(settings: &Settings, values: &Values<'_>) -> Result<(), Refusal> {
    match values.get_filled("dc") {
        Some(dc) if *dc != *settings.datacenter.as_bytes() => {
            Err(Failure::internal("No path to datacenter").into())
        }
        _ => Ok(()),
    }
}

fn wait(settings: &Settings, values: &Values<'_>) -> Result<Duration, Refusal> {
    let Some(text) = values.get_filled("wait") else { return Ok(settings.default_query_time) };
    let nanoseconds = go::parse_duration(text);
    let nanoseconds = nanoseconds.map_err(|_| Reply::bad_request("Invalid wait time"))?;
    let wait = go::positive(nanoseconds).unwrap_or(settings.default_query_time);
    Ok(wait.min(settings.max_query_time))
}

/// How long a request waits for a change, if it does; what is wrong with it a server says.
pub(crate) fn polls_for(settings: &Settings, values: &Values<'_>) -> Option<Duration> {
    let index = go::parse_uint(values.get_filled("index")?).ok()?;
    if index == 0 {
        return None;
    }
    wait(settings, values).ok()
}

/// Whether the client takes gzip: named, and not with quality 0.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(hyper::header::ACCEPT_ENCODING) else { return false };
    let Ok(value) = value.to_str() else { return false };
    value.split(',').any(|coding| {
        let mut parts = coding.split(';');
        let named = parts.next().is_some_and(|name| name.trim().eq_ignore_ascii_case("gzip"));
        let quality = parts.find_map(|part| part.trim().strip_prefix("q="));
        named
            && quality
                .is_none_or(|text| text.trim().parse().is_ok_and(|quality: f64| quality > 0.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Options, String> {
        let settings = Settings::default();
        let values = Values::read(Some(query)).unwrap();
        Options::read(&settings, &values, &HeaderMap::new())
            .map_err(|reply| format!("{} {}", reply.status(), reply.text()))
    }

    #[test]
    fn what_is_wrong_with_options_is_said_in_consuls_words() {
        for (query, refusal) in [
            ("index=1&wait=5", "400 Bad Request Invalid wait time"),
            ("wait=abc", "400 Bad Request Invalid wait time"),
            ("index=abc", "400 Bad Request Invalid index"),
            ("index=-1", "400 Bad Request Invalid index"),
            ("max_stale=zz", "400 Bad Request Invalid max_stale value \"zz\""),
            ("dc=nowhere&index=abc", "400 Bad Request Invalid index"),
            (
                "stale&consistent",
                "400 Bad Request Cannot specify ?stale with ?consistent, conflicting semantics.",
            ),
            (
                "cached&consistent",
                "400 Bad Request Cannot specify ?cached with ?consistent, conflicting semantics.",
            ),
        ] {
            assert_eq!(read(query), Err(refusal.to_owned()), "{query}");
        }
    }

    #[test]
    fn waits_default_and_are_capped() {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        for (query, wait) in [
            ("index=1", minutes(5)),
            ("wait=0", minutes(5)),
            ("wait=-1s", minutes(5)),
            ("wait=1m", minutes(1)),
            ("wait=1h", minutes(10)),
            ("wait=", minutes(5)),
        ] {
            assert_eq!(read(query).unwrap().wait, wait, "{query}");
        }
        assert_eq!(read("index=&dc=").unwrap().min_index, 0);
        assert_eq!(read("index=7&dc=dc1").unwrap().min_index, 7);
    }

    #[test]
    fn consistency_follows_the_parameters() {
        assert_eq!(read("leader").unwrap().consistency, Consistency::Default);
        assert_eq!(read("consistent").unwrap().consistency, Consistency::Consistent);
        assert_eq!(read("stale").unwrap().consistency, Consistency::Stale);
        assert_eq!(read("max_stale=1ms").unwrap().consistency, Consistency::Stale);
        assert_eq!(read("max_stale=0").unwrap().consistency, Consistency::Default);
    }

    #[test]
    fn gzip_is_given_when_it_is_named() {
        let accepts = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("accept-encoding", text.parse().unwrap());
            accepts_gzip(&headers)
        };
        assert!(accepts("gzip"));
        assert!(accepts("deflate, GZIP;q=0.5"));
        assert!(!accepts("gzip;q=0"));
        assert!(!accepts("*"));
        assert!(!accepts("gzipped"));
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn a_malformed_cache_control_is_refused() {
        let check = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("cache-control", text.parse().unwrap());
            cache_control(&headers).is_ok()
        };
        assert!(check("no-cache"));
        assert!(check("max-age=3, must-revalidate,stale-if-error=60"));
        assert!(!check("max-age=zz"));
        assert!(!check("Max-Age="));
        assert!(!check("must-revalidate, stale-if-error=1.5"));
    }
}
