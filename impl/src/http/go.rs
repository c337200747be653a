//! Go's own readings and texts, as Consul's answers carry them: durations, unsigned numbers, quoted strings.
//!
//! Clients match on these texts (`strconv.ParseUint: parsing "abc": invalid syntax`), so they are rebuilt to the byte.

use std::{fmt::Write, time::Duration};

/// Why text is no unsigned number, in the words of `strconv.ParseUint`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// Something other than digits.
    #[error("strconv.ParseUint: parsing {}: invalid syntax", quote(.0))]
    Syntax(Vec<u8>),
    /// More than 64 bits hold.
    #[error("strconv.ParseUint: parsing {}: value out of range", quote(.0))]
    Range(Vec<u8>),
}

/// Reads a decimal number as `strconv.ParseUint(text, 10, 64)` does: digits alone, no sign.
pub fn parse_uint(text: &[u8]) -> Result<u64, NumberError> {
    if text.is_empty() {
        return Err(NumberError::Syntax(text.to_vec()));
    }
    let mut value = Some(0_u64);
    for &byte in text {
        if !byte.is_ascii_digit() {
            return Err(NumberError::Syntax(text.to_vec()));
        }
        value = value
            .and_then(|so_far| so_far.checked_mul(10))
            .and_then(|so_far| so_far.checked_add(u64::from(byte - b'0')));
    }
    value.ok_or_else(|| NumberError::Range(text.to_vec()))
}

/// Why text is no duration, in the words of `time.ParseDuration`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time: {fault} duration {}", quote(.text))]
pub struct DurationError {
    fault: String,
    text: Vec<u8>,
}

/// The nanoseconds of a duration as `time.ParseDuration` reads it.
///
/// A number needs a unit unless it is 0; units are ns, us, µs, μs, ms, s, m, h; parts add up (`1h30m`).
pub fn parse_duration(text: &[u8]) -> Result<i64, DurationError> {
    let refused = |fault| DurationError { fault, text: text.to_vec() };
    let invalid = || refused("invalid".to_owned());
    let (negative, mut rest) = match text.first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == b"0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let (part, after) = duration_part(rest).map_err(refused)?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = after;
    }
    Ok(if negative { -total } else { total })
}

/// One number with its unit, and what follows; or what is wrong with it.
fn duration_part(text: &[u8]) -> Result<(i64, &[u8]), String> {
    let invalid = || "invalid".to_owned();
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole_length = digits(text);
    let mut whole: i64 = 0;
    for byte in &text[..whole_length] {
        let tens = whole.checked_mul(10).ok_or_else(invalid)?;
        whole = tens.checked_add(i64::from(byte - b'0')).ok_or_else(invalid)?;
    }
    let mut rest = &text[whole_length..];
    let mut fraction: &[u8] = &[];
    if let Some(after_point) = rest.strip_prefix(b".") {
        let length = digits(after_point);
        (fraction, rest) = after_point.split_at(length);
    }
    if whole_length == 0 && fraction.is_empty() {
        return Err(invalid());
    }
    let unit_length =
        rest.iter().take_while(|byte| **byte != b'.' && !byte.is_ascii_digit()).count();
    let unit: i64 = match &rest[..unit_length] {
        b"ns" => 1,
        b"us" | b"\xc2\xb5s" | b"\xce\xbcs" => 1_000,
        b"ms" => 1_000_000,
        b"s" => 1_000_000_000,
        b"m" => 60_000_000_000,
        b"h" => 3_600_000_000_000,
        b"" => return Err("missing unit in".to_owned()),
        unit => return Err(format!("unknown unit {} in", quote(unit))),
    };
    let mut total = whole.checked_mul(unit).ok_or_else(invalid)?;
    let mut place = unit;
    // Digits beyond a nanosecond are dropped one by one: 18 of them can't overflow what 19 could.
    for byte in fraction {
        place /= 10;
        total = total.checked_add(i64::from(byte - b'0') * place).ok_or_else(invalid)?;
    }
    Ok((total, &rest[unit_length..]))
}

/// A duration that can be waited for: `None` for zero and what is negative, by which Consul means its default.
pub fn positive(nanoseconds: i64) -> Option<Duration> {
    u64::try_from(nanoseconds).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos)
}

/// A duration as `time.Duration.String` gives it: `1.5s`, `2m0s`, `300µs`.
pub fn duration(duration: Duration) -> String {
    fn decimal(nanos: u128, unit: u128, name: &str) -> String {
        let (whole, fraction) = (nanos / unit, nanos % unit);
        let width = unit.ilog10() as usize;
        let fraction = format!("{fraction:0width$}");
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        format!("{whole}{point}{fraction}{name}")
    }
    const SECOND: u128 = 1_000_000_000;
    let nanos = duration.as_nanos();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => decimal(nanos, 1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(nanos, 1_000_000, "ms"),
        1_000_000_000..60_000_000_000 => decimal(nanos, SECOND, "s"),
        _ => {
            let minutes = nanos / (60 * SECOND);
            // What is left of a minute is always said in seconds.
            let seconds = decimal(nanos % (60 * SECOND), SECOND, "s");
            match minutes / 60 {
                0 => format!("{minutes}m{seconds}"),
                hours => format!("{hours}h{}m{seconds}", minutes % 60),
            }
        }
    }
}

/// A moment, in seconds since 1970, as `time.RFC3339` has it in UTC.
pub fn rfc3339(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days since the first of March of the year 0, in eras of 400 years (the calendar's period).
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Text in quotes as `strconv.Quote` gives it.
pub fn quote(text: &[u8]) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for chunk in text.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '"' | '\\' => quoted.extend(['\\', letter]),
                '\x07' => quoted.push_str("\\a"),
                '\x08' => quoted.push_str("\\b"),
                '\x0c' => quoted.push_str("\\f"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                '\x0b' => quoted.push_str("\\v"),
                _ if is_print(letter) => quoted.push(letter),
                _ => {
                    let code = u32::from(letter);
                    // Writing into a string can't fail.
                    let _ = match code {
                        0..0x80 => write!(quoted, "\\x{code:02x}"),
                        0x80..0x1_0000 => write!(quoted, "\\u{code:04x}"),
                        _ => write!(quoted, "\\U{code:08x}"),
                    };
                }
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(quoted, "\\x{byte:02x}");
        }
    }
    quoted.push('"');
    quoted
}

/// Whether a character prints by `unicode.IsPrint`: letters, marks, numbers, punctuation, symbols, the ASCII space.
pub fn is_print(letter: char) -> bool {
    if letter.is_ascii() {
        return matches!(letter, ' '..='~');
    }
    // The standard library's escape table is built from the same Unicode categories. It spares combining marks only
    // behind another character, hence the letter in front.
    let mut buffer = [b'a'; 5];
    letter.encode_utf8(&mut buffer[1..]);
    std::str::from_utf8(&buffer[..=letter.len_utf8()])
        .is_ok_and(|text| text.escape_debug().nth(1) == Some(letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_795_333_578, "2026-11-22T07:46:18Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("1m30s", 90_000_000_000),
            ("5s", 5_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("-2ms", -2_000_000),
            ("+1us", 1_000),
            ("1µs", 1_000),
            ("100ns", 100),
            ("0.0000000001s", 0),
        ] {
            assert_eq!(parse_duration(text.as_bytes()), Ok(nanoseconds), "{text}");
        }
    }

    #[test]
    fn bad_durations_are_refused_in_go_s_words() {
        for (text, refusal) in [
            ("5", "time: missing unit in duration \"5\""),
            ("1..5s", "time: missing unit in duration \"1..5s\""),
            ("1h5", "time: missing unit in duration \"1h5\""),
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            ("abc", "time: invalid duration \"abc\""),
            (".s", "time: invalid duration \".s\""),
            ("9999999999h", "time: invalid duration \"9999999999h\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
        ] {
            assert_eq!(parse_duration(text.as_bytes()).unwrap_err().to_string(), refusal);
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanos, text) in [
            (0, "0s"),
            (300, "300ns"),
            (1_500, "1.5µs"),
            (12_000_000, "12ms"),
            (1_234_567, "1.234567ms"),
            (2_000_000_000, "2s"),
            (61_500_000_000, "1m1.5s"),
            (120_000_000_000, "2m0s"),
            (60_000_000_001, "1m0.000000001s"),
            (3_661_000_000_000, "1h1m1s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn bad_numbers_are_refused_in_strconvs_words() {
        assert_eq!(parse_uint(b"18446744073709551615"), Ok(u64::MAX));
        for (text, refusal) in [
            ("abc", "strconv.ParseUint: parsing \"abc\": invalid syntax"),
            ("-1", "strconv.ParseUint: parsing \"-1\": invalid syntax"),
            ("", "strconv.ParseUint: parsing \"\": invalid syntax"),
            (
                "18446744073709551616",
                "strconv.ParseUint: parsing \"18446744073709551616\": value out of range",
            ),
            ("1\n", "strconv.ParseUint: parsing \"1\\n\": invalid syntax"),
        ] {
            assert_eq!(parse_uint(text.as_bytes()).unwrap_err().to_string(), refusal);
        }
    }

    #[test]
    fn characters_print_as_unicode_says() {
        for letter in ['a', ' ', '~', 'ü', '漢', '\u{301}', '\u{fffd}', '€', '\'', '"', '\\'] {
            assert!(is_print(letter), "{letter:?}");
        }
        for letter in
            ['\u{1}', '\n', '\x7f', '\u{85}', '\u{a0}', '\u{200b}', '\u{2028}', '\u{e000}']
        {
            assert!(!is_print(letter), "{letter:?}");
        }
    }
}
