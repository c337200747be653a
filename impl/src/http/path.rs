//! The path of a request as Go reads, cleans and redirects it (rules H2-H5 of Consul's HTTP surface).
//!
//! A path is percent-decoded once; matching and keys use the decoded bytes. An unclean path (`//`, `.`, `..`, also where
//! they come from `%2F`) is answered with 301 to the cleaned one.

use std::borrow::Cow;

use super::go::is_print;

/// A decoded path.
#[derive(Debug, PartialEq, Eq)]
pub struct Path<'a> {
    /// The percent-decoded bytes.
    pub decoded: Cow<'a, [u8]>,
    /// What cleaning makes of it, where that is something else.
    pub cleaned: Option<Vec<u8>>,
    /// Whether every character prints.
    pub printable: bool,
}

/// Decodes `raw`; `None` where an escape is malformed, which Go answers with a bare 400.
pub fn read(raw: &str) -> Option<Path<'_>> {
    if is_plain(raw.as_bytes()) {
        let decoded = Cow::Borrowed(raw.as_bytes());
        return Some(Path { decoded, cleaned: None, printable: true });
    }
    let decoded = unescape(raw.as_bytes(), false)?;
    let printable = prints(&decoded);
    let cleaned = clean(&decoded);
    let cleaned = (cleaned != *decoded).then_some(cleaned);
    Some(Path { decoded, cleaned, printable })
}

/// Whether a path is its own decoded, clean and printable form: one look at each byte settles nearly every request.
fn is_plain(raw: &[u8]) -> bool {
    let mut previous = 0;
    for &byte in raw {
        // A dot behind a slash may start `.` or `..`: the full reading decides.
        if !matches!(byte, b'!'..=b'~')
            || byte == b'%'
            || (previous == b'/' && matches!(byte, b'/' | b'.'))
        {
            return false;
        }
        previous = byte;
    }
    raw.first() == Some(&b'/')
}

fn prints(decoded: &[u8]) -> bool {
    // Bytes that aren't UTF-8 read as U+FFFD, which prints.
    decoded.utf8_chunks().all(|chunk| chunk.valid().chars().all(is_print))
}

/// Percent-decodes; in a query a `+` is a space.
pub fn unescape(raw: &[u8], query: bool) -> Option<Cow<'_, [u8]>> {
    let special = |byte: &u8| *byte == b'%' || (query && *byte == b'+');
    let Some(first) = raw.iter().position(special) else {
        return Some(Cow::Borrowed(raw));
    };
    let mut decoded = Vec::with_capacity(raw.len());
    decoded.extend_from_slice(&raw[..first]);
    let mut rest = raw[first..].iter();
    while let Some(&byte) = rest.next() {
        decoded.push(match byte {
            b'%' => hex(*rest.next()?)? << 4 | hex(*rest.next()?)?,
            b'+' if query => b' ',
            _ => byte,
        });
    }
    Some(Cow::Owned(decoded))
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Cleans as `net/http` does: `path.Clean` with a trailing slash put back.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut cleaned: Vec<u8> = Vec::with_capacity(path.len() + 1);
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                let parent = cleaned.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                cleaned.truncate(parent);
            }
            _ => {
                cleaned.push(b'/');
                cleaned.extend_from_slice(part);
            }
        }
    }
    if cleaned.is_empty() || path.last() == Some(&b'/') {
        cleaned.push(b'/');
    }
    cleaned
}

/// Where a redirect to `path` leads: escaped as `url.URL.String` does, with the query string kept as it came.
pub fn location(path: &[u8], query: Option<&str>) -> String {
    let mut location = String::with_capacity(path.len() + query.map_or(0, |query| query.len() + 1));
    for &byte in path {
        if is_unreserved(byte) || b"$&+,/:;=@".contains(&byte) {
            location.push(char::from(byte));
        } else {
            push_escaped(&mut location, byte);
        }
    }
    if let Some(query) = query {
        location.push('?');
        for &byte in query.as_bytes() {
            if byte.is_ascii() {
                location.push(char::from(byte));
            } else {
                push_escaped(&mut location, byte);
            }
        }
    }
    location
}

/// The body of Go's redirect: a link, the sentence, two newlines.
pub fn redirect_body(location: &str) -> String {
    let mut link = String::with_capacity(location.len() + 48);
    link.push_str("<a href=\"");
    for letter in location.chars() {
        match letter {
            '&' => link.push_str("&amp;"),
            '<' => link.push_str("&lt;"),
            '>' => link.push_str("&gt;"),
            '"' => link.push_str("&#34;"),
            '\'' => link.push_str("&#39;"),
            _ => link.push(letter),
        }
    }
    link.push_str("\">Moved Permanently</a>.\n\n");
    link
}

/// Whether no escaping ever touches this byte.
pub fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~')
}

/// Appends a byte as `%XX`.
pub fn push_escaped(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(raw: &str) -> Option<String> {
        read(raw).unwrap().cleaned.map(|path| String::from_utf8(path).unwrap())
    }

    #[test]
    fn unclean_paths_lead_to_clean_ones() {
        for (raw, clean) in [
            ("/v1/kv//a", "/v1/kv/a"),
            ("/v1/kv/a/../b", "/v1/kv/b"),
            ("/v1/kv/a%2F%2Fb", "/v1/kv/a/b"),
            ("/v1/kv/%2Fa", "/v1/kv/a"),
            ("/v1/kv/a/..", "/v1/kv"),
            ("/v1/kv/./a/", "/v1/kv/a/"),
            ("/v1/kv/a/.", "/v1/kv/a"),
            ("/../..", "/"),
            ("//", "/"),
        ] {
            assert_eq!(cleaned(raw).as_deref(), Some(clean), "{raw}");
        }
        for raw in ["/", "/v1/kv/", "/v1/kv/a/.b", "/v1/kv/..a/b", "/v1/kv/a%2Fb", "/v1/kv/a..b"] {
            assert_eq!(cleaned(raw), None, "{raw}");
        }
    }

    #[test]
    fn keys_are_the_decoded_path() {
        let decoded = |raw| read(raw).unwrap().decoded.into_owned();
        assert_eq!(decoded("/v1/kv/sp%2Fa%20b+c"), b"/v1/kv/sp/a b+c");
        assert_eq!(decoded("/v1/kv/sp/%C3%BC"), "/v1/kv/sp/ü".as_bytes());
        assert_eq!(decoded("/v1/kv/%ff"), b"/v1/kv/\xff");
        assert_eq!(read("/v1/kv/a%zz"), None);
        assert_eq!(read("/v1/kv/a%2"), None);
    }

    #[test]
    fn characters_that_do_not_print_are_seen_behind_their_escapes() {
        for raw in ["/v1/kv/a%01b", "/v1/kv/a%0Ab", "/v1/kv/a%C2%A0b", "/v1/kv/%E2%80%A8"] {
            assert!(!read(raw).unwrap().printable, "{raw}");
        }
        for raw in ["/v1/kv/a%20b", "/v1/kv/%FF", "/v1/kv/%C3%BC", "/v1/kv/a"] {
            assert!(read(raw).unwrap().printable, "{raw}");
        }
    }

    #[test]
    fn a_redirect_keeps_the_query_and_escapes_for_html() {
        let location = location(b"/v1/kv/a b", Some("x=1&y=<>"));
        assert_eq!(location, "/v1/kv/a%20b?x=1&y=<>");
        let body = redirect_body(&location);
        assert_eq!(body, "<a href=\"/v1/kv/a%20b?x=1&amp;y=&lt;&gt;\">Moved Permanently</a>.\n\n");
    }
}
