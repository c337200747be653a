//! JSON to the byte as Go's encoder writes it (rule H7): `<`, `>`, `&` and U+2028/9 escaped, bytes that aren't UTF-8 as
//! `\ufffd`, four spaces of indent where an answer is pretty.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

/// Appends a string in quotes.
pub fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    if text.iter().all(|byte| {
        matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&')
    }) {
        out.extend_from_slice(text);
    } else {
        push_escaped(out, text);
    }
    out.push(b'"');
}

fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                '\u{2028}' => out.extend_from_slice(b"\\u2028"),
                '\u{2029}' => out.extend_from_slice(b"\\u2029"),
                '\0'..='\x1f' | '<' | '>' | '&' => push_code(out, letter),
                _ => {
                    let mut buffer = [0; 4];
                    out.extend_from_slice(letter.encode_utf8(&mut buffer).as_bytes());
                }
            }
        }
        // Go replaces each byte that isn't UTF-8, not each run of them.
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

fn push_code(out: &mut Vec<u8>, letter: char) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let code = u32::from(letter) as usize;
    out.extend_from_slice(&[b'\\', b'u', b'0', b'0', DIGITS[code >> 4 & 15], DIGITS[code & 15]]);
}

/// Appends a number.
pub fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        // A remainder of ten is a digit.
        digits[start] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends a number with a fraction as Go does: without an exponent unless it is tiny or huge.
pub fn push_float(out: &mut Vec<u8>, number: f64) {
    let magnitude = number.abs();
    let text = if magnitude != 0.0 && magnitude < 1e-6 {
        format!("{number:e}")
    } else if magnitude >= 1e21 {
        format!("{number:e}").replace('e', "e+")
    } else {
        format!("{number}")
    };
    out.extend_from_slice(text.as_bytes());
}

/// Appends a comma, a name and a text.
pub fn push_field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(b',');
    push_string(out, name.as_bytes());
    out.push(b':');
    push_string(out, value.as_bytes());
}

/// Appends an array.
pub fn push_list<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    push: impl Fn(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        push(out, item);
    }
    out.push(b']');
}

/// Appends bytes as base64 in quotes.
pub fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    // The room was measured by the encoding's own rule, so it is always filled exactly.
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
    out.push(b'"');
}

/// Writes a value as Go would: serde's JSON, then Go's additional escapes.
pub fn encode(value: &impl Serialize) -> Vec<u8> {
    // Serialising into memory fails only for maps with keys that aren't strings; no answer has one.
    let plain = serde_json::to_vec(value).unwrap_or_default();
    let special = |byte: &u8| matches!(byte, b'<' | b'>' | b'&' | 0xe2);
    if !plain.iter().any(special) {
        return plain;
    }
    let mut escaped = Vec::with_capacity(plain.len() + 16);
    let mut at = 0;
    while let Some(&byte) = plain.get(at) {
        // Outside of strings none of these occurs.
        match (byte, plain.get(at + 1..at + 3)) {
            (b'<' | b'>' | b'&', _) => push_code(&mut escaped, char::from(byte)),
            (0xe2, Some([0x80, last @ (0xa8 | 0xa9)])) => {
                escaped.extend_from_slice(if *last == 0xa8 { b"\\u2028" } else { b"\\u2029" });
                at += 2;
            }
            _ => escaped.push(byte),
        }
        at += 1;
    }
    escaped
}

/// Indents compact JSON by four spaces and ends it with a newline, as `json.MarshalIndent` does.
pub fn indent(compact: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(compact.len() * 2);
    let mut depth = 0;
    let mut bytes = compact.iter().copied().peekable();
    let newline = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + depth * 4, b' ');
    };
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                out.push(byte);
                while let Some(inner) = bytes.next() {
                    out.push(inner);
                    match inner {
                        b'\\' => out.extend(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            b'{' | b'[' => {
                out.push(byte);
                if let Some(close @ (b'}' | b']')) = bytes.peek().copied() {
                    out.push(close);
                    bytes.next();
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth -= 1;
                newline(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                newline(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            _ => out.push(byte),
        }
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &[u8]) -> String {
        let mut out = Vec::new();
        push_string(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_escaped_as_gos_encoder_does() {
        for (text, json) in [
            (&b"k1"[..], r#""k1""#),
            (b"\"<&\\>", r#""\"\u003c\u0026\\\u003e""#),
            (b"q\xff\xfe", r#""q\ufffd\ufffd""#),
            (b"\x01\n\r\t\x7f", "\"\\u0001\\n\\r\\t\x7f\""),
            ("ü\u{2028}".as_bytes(), "\"ü\\u2028\""),
        ] {
            assert_eq!(string(text), json);
        }
        assert_eq!(
            encode(&"a<b>&\u{2029}€\""),
            b"\"a\\u003cb\\u003e\\u0026\\u2029\xe2\x82\xac\\\"\""
        );
    }

    #[test]
    fn fractions_are_written_as_gos_encoder_does() {
        for (number, text) in [
            (0.0, "0"),
            (1.5, "1.5"),
            (0.00001, "0.00001"),
            (0.000_052_083_406_661_419, "0.000052083406661419"),
            (-9.931_281_730_023_866e-7, "-9.931281730023866e-7"),
            (1e21, "1e+21"),
            (-2.0, "-2"),
        ] {
            let mut out = Vec::new();
            push_float(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn numbers_and_values_are_written_whole() {
        let mut out = Vec::new();
        for number in [0, 7, 10, u64::MAX] {
            push_number(&mut out, number);
            out.push(b' ');
        }
        for bytes in [&b"hello"[..], b"", b"ab", b"abc"] {
            push_base64(&mut out, bytes);
        }
        assert_eq!(out, b"0 7 10 18446744073709551615 \"aGVsbG8=\"\"\"\"YWI=\"\"YWJj\"");
    }

    #[test]
    fn pretty_answers_are_indented_by_four_spaces_and_end_with_a_newline() {
        let pretty = indent(br#"{"a":[],"b":{},"c":[1,"x,{\"y\":"],"d":{"e":null}}"#);
        let wanted = "{\n    \"a\": [],\n    \"b\": {},\n    \"c\": [\n        1,\n        \"x,{\\\"y\\\":\"\n    ],\n    \
                      \"d\": {\n        \"e\": null\n    }\n}\n";
        assert_eq!(String::from_utf8(pretty).unwrap(), wanted);
        assert_eq!(indent(b"true"), b"true\n");
    }
}
