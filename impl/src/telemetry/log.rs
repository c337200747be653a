//! Log lines as Consul writes them: `    2026-11-23T03:11:15.241Z [INFO]  agent: Started HTTP server: address=...`.
//!
//! A thread of its own writes them, from a bounded queue: a terminal or pipe that nobody reads must not stop Raft.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::Level;

/// How many lines may wait for the writer; further ones are dropped and counted.
const QUEUE_LINES: usize = 4096;

enum Work {
    Line(String),
    Flush(SyncSender<()>),
}

/// The way to the log: changes its level, flushes it.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    level: AtomicU8,
    json: bool,
    dropped: AtomicU64,
    queue: SyncSender<Work>,
}

impl Log {
    /// Starts the writer and makes this log the process's `tracing` subscriber.
    ///
    /// A process has one; where there is one already (tests), this log still takes lines of its own.
    pub fn install(level: Level, json: bool) -> io::Result<Self> {
        let (queue, work) = sync_channel(QUEUE_LINES);
        let shared = Arc::new(Shared {
            level: AtomicU8::new(level as u8),
            json,
            dropped: AtomicU64::new(0),
            queue,
        });
        let writer = Arc::clone(&shared);
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            // The writer holds the queue's other end through `writer`; it ends with the process.
            write_lines(&work, &writer.dropped);
        })?;
        let log = Self { shared };
        let _ = tracing::subscriber::set_global_default(log.clone());
        Ok(log)
    }

    /// Changes which lines are shown.
    pub fn set_level(&self, level: Level) {
        self.shared.level.store(level as u8, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }

    /// Prints a line of the banner as it stands, in its place among the log's lines.
    pub fn banner(&self, line: &str) {
        // The banner comes from the main thread: it may wait.
        let _ = self.shared.queue.send(Work::Line(format!("{line}\n")));
    }

    /// Waits until everything said so far is written, for a second at most: a stuck pipe must not keep us alive.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.shared.queue.try_send(Work::Flush(done)).is_ok() {
            let _ = written.recv_timeout(Duration::from_secs(1));
        }
    }
}

fn write_lines(work: &Receiver<Work>, dropped: &AtomicU64) {
    let mut out = io::stdout();
    while let Ok(next) = work.recv() {
        match next {
            Work::Line(line) => {
                let lost = dropped.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _ = writeln!(out, "    [WARN]  agent: {lost} log lines were dropped");
                }
                // Whether anybody reads the log doesn't decide whether the agent runs.
                let _ = out.write_all(line.as_bytes());
            }
            Work::Flush(done) => {
                let _ = out.flush();
                let _ = done.send(());
            }
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let wanted =
            Level::from(*metadata.level()) as u8 >= self.shared.level.load(Ordering::Relaxed);
        // Libraries say at DEBUG what concerns their authors.
        wanted
            && (metadata.target().starts_with("agent")
                || metadata.target().starts_with("proconsul"))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.shared.level.load(Ordering::Relaxed) {
            0 => LevelFilter::TRACE,
            1 => LevelFilter::DEBUG,
            2 => LevelFilter::INFO,
            3 => LevelFilter::WARN,
            _ => LevelFilter::ERROR,
        })
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let level = Level::from(*metadata.level());
        let mut fields = Fields::default();
        event.record(&mut fields);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = logger_name(metadata.target());
        let line = if self.shared.json {
            json_line(now, level, &name, &fields)
        } else {
            text_line(now, level, &name, &fields)
        };
        if let Err(TrySendError::Full(_)) = self.shared.queue.try_send(Work::Line(line)) {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A module's name in Consul's manner: `proconsul::http::kv` is `agent.http`, `agent.server.raft` stays.
fn logger_name(target: &str) -> String {
    match target.strip_prefix("proconsul") {
        None => target.to_owned(),
        Some(rest) => match rest.trim_start_matches("::").split("::").next() {
            None | Some("" | "cli") => "agent".to_owned(),
            // To an operator, Raft's threads and the disk are parts of the server.
            Some("driver" | "storage") => "agent.server".to_owned(),
            Some(module) => format!("agent.{module}"),
        },
    }
}

/// An event's message and its other fields, in order.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    fn push(&mut self, field: &Field, text: String) {
        if field.name() == "message" {
            self.message = text;
        } else {
            self.others.push((field.name(), text));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, value.to_string());
    }
}

fn text_line(now: Duration, level: Level, name: &str, fields: &Fields) -> String {
    let bracketed = format!("[{level}]");
    let mut line = format!("    {} {bracketed:7} {name}: ", timestamp(now));
    push_one_line(&mut line, &fields.message);
    if !fields.others.is_empty() {
        line.push(':');
    }
    for (key, value) in &fields.others {
        let _ = write!(line, " {key}=");
        if value.contains([' ', '\t', '\n', '=', '"']) {
            line.push('"');
            push_one_line(&mut line, value);
            line.push('"');
        } else {
            line.push_str(value);
        }
    }
    line.push('\n');
    line
}

/// A client's text must not be able to forge a log line of its own.
fn push_one_line(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}

fn json_line(now: Duration, level: Level, name: &str, fields: &Fields) -> String {
    let mut object = serde_json::Map::new();
    object.insert("@level".to_owned(), level.name().to_lowercase().into());
    object.insert("@message".to_owned(), fields.message.clone().into());
    object.insert("@module".to_owned(), name.into());
    object.insert("@timestamp".to_owned(), timestamp(now).into());
    for (key, value) in &fields.others {
        object.insert((*key).to_owned(), value.clone().into());
    }
    format!("{}\n", serde_json::Value::Object(object))
}

/// The moment as RFC 3339 with milliseconds, in UTC.
fn timestamp(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil_date(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        since_epoch.subsec_millis()
    )
}

/// The proleptic Gregorian date of a day since 1970-01-01; years are counted from March, so that the leap day is last.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_rfc_3339_with_milliseconds() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_403_479_609, "2026-11-23T03:11:19.609Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn a_line_reads_as_consul_s() {
        let fields = Fields {
            message: "Started HTTP server".to_owned(),
            others: vec![("address", "127.0.0.1:8500".to_owned()), ("why", "a b".to_owned())],
        };
        assert_eq!(
            text_line(Duration::ZERO, Level::Info, "agent", &fields),
            "    1970-01-01T00:00:00.000Z [INFO]  agent: Started HTTP server: address=127.0.0.1:8500 why=\"a b\"\n"
        );
        let line = text_line(Duration::ZERO, Level::Error, "agent.http", &Fields::default());
        assert!(line.contains(" [ERROR] agent.http: "), "{line}");
    }

    #[test]
    fn a_client_can_not_forge_a_line() {
        let fields = Fields {
            message: "Request error\n[INFO] all is well".to_owned(),
            others: vec![("url", "/v1/kv/\u{1b}[2J\n".to_owned())],
        };
        let line = text_line(Duration::ZERO, Level::Warn, "agent", &fields);
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(!line.contains('\u{1b}'));
    }

    #[test]
    fn modules_are_named_as_consul_names_its_loggers() {
        for (target, name) in [
            ("proconsul", "agent"),
            ("proconsul::cli::agent", "agent"),
            ("proconsul::http::kv", "agent.http"),
            ("proconsul::driver::writer", "agent.server"),
            ("agent.server.raft", "agent.server.raft"),
        ] {
            assert_eq!(logger_name(target), name);
        }
    }
}
