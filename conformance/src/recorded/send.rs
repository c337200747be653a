//! Sends a step: a `curl` command by our own client, so that the raw answer can be seen; anything else by a shell.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Answer, flatten, parse, python};
use crate::http::{Body, Client, Request, Response};

/// Where steps are sent.
#[derive(Clone, Debug)]
pub struct Target {
    /// The program that stands for `consul` in commands.
    pub program: PathBuf,
    /// Recorded ports and those that stand for them.
    pub ports: Vec<(u16, u16)>,
    /// A folder for what commands read and write.
    pub folder: PathBuf,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The answer, with the recorded ports put back in.
    pub answer: Answer,
    /// How long it took, in seconds.
    pub elapsed: f64,
}

/// Runs a step's command line.
pub fn send(command: &str, target: &Target) -> Result<Observed> {
    let start = Instant::now();
    let answer = if let Some(answer) = python::answer(command, target)? {
        answer
    } else if python::is_of_the_agent(command) {
        let url = command.split_whitespace().find(|word| word.starts_with("http://"));
        let response = get(url.context("no address")?, target)?;
        let text = target.recorded_ports(&response.text());
        let of_a_client = command.contains("d['Stats']['consul']");
        let flatten = if of_a_client { flatten::config_and_stats } else { flatten::agent_self };
        Answer::Tree(flatten(&text).with_context(|| text.clone())?)
    } else if let Some(words) = plain_curl(command) {
        let head = words.iter().any(|word| word == "-I" || word == "-D");
        http_answer(&curl(&words, target)?, head, target)?
    } else {
        shell(command, target)?
    };
    Ok(Observed { answer, elapsed: start.elapsed().as_secs_f64() })
}

/// The words of a command that is nothing but one `curl -i`, perhaps with its output made printable.
fn plain_curl(command: &str) -> Option<Vec<String>> {
    let command = command.strip_suffix("| head -c 400 | cat -v").unwrap_or(command);
    let zeros = command.replace("@<", "@zeros:").replace(" zero bytes>", "").replace(" bytes>", "");
    // Some say in brackets what they are about.
    let zeros = zeros.split("   (").next().unwrap_or_default();
    let words = split(zeros.trim());
    let plain = command.starts_with("curl -i ") && !words.iter().any(|word| word == "|");
    plain.then_some(words)
}

/// Splits a command line into words, with the quotes of a shell.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Gets what is at a recorded address.
pub(super) fn get(url: &str, target: &Target) -> Result<Response> {
    curl(&["curl".to_owned(), url.to_owned()], target)
}

/// Does what `curl` would do with these words.
fn curl(words: &[String], target: &Target) -> Result<Response> {
    let mut method = None;
    let mut headers: Vec<(&str, &str)> = vec![("User-Agent", "curl"), ("Accept", "*/*")];
    let mut data: Option<Vec<u8>> = None;
    let (mut chunked, mut url) = (false, None);
    let mut rest = words[1..].iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "-i" | "-s" | "--path-as-is" => {}
            "-m" => drop(value()?),
            "-I" => method = Some("HEAD"),
            "-X" => method = Some(value()?.as_str()),
            "-o" | "-D" => ensure!(["/dev/null", "-"].contains(&value()?.as_str()), "to a file"),
            "--output" => ensure!(value()? == "-", "--output to a file"),
            "-H" => {
                let (name, value) =
                    value()?.split_once(": ").context("a header without a value")?;
                if name == "Transfer-Encoding" {
                    chunked = true;
                } else {
                    headers.push((name, value));
                }
            }
            "-d" | "--data-binary" => {
                let text = value()?;
                data = Some(match text.strip_prefix("@zeros:") {
                    Some(n) => vec![0; n.parse()?],
                    None => text.clone().into_bytes(),
                });
                headers.push(("Content-Type", "application/x-www-form-urlencoded"));
            }
            word if word.starts_with('-') => bail!("curl {word} isn't known here"),
            word => url = Some(word),
        }
    }
    let url = url.context("no address")?;
    let (port, path) = target.address(url)?;
    let body = match &data {
        None => Body::None,
        Some(data) if chunked => Body::Chunked(data),
        Some(data) => Body::Sized(data),
    };
    let method = method.unwrap_or(if data.is_some() { "POST" } else { "GET" });
    Ok(Client::local(port).send(&Request { method, target: path, headers: &headers, body })?)
}

fn http_answer(response: &Response, head: bool, target: &Target) -> Result<Answer> {
    let gzip = response.header("content-encoding") == Some("gzip");
    let body = if gzip { parse::gunzip(&response.body)? } else { response.text() };
    let headers = &response.headers;
    Ok(Answer::Http {
        status_line: response.status_line.clone(),
        headers: headers.iter().map(|(n, v)| (n.clone(), target.recorded_ports(v))).collect(),
        body: target.recorded_ports(&body),
        has_body: !head,
    })
}

fn shell(command: &str, target: &Target) -> Result<Answer> {
    let data = target.folder.join("data");
    let bin = target.folder.join("bin");
    fs::create_dir_all(&data)?;
    fs::create_dir_all(&bin)?;
    let link = bin.join("consul");
    if !link.exists() {
        std::os::unix::fs::symlink(&target.program, &link)?;
    }
    let prefix = format!("{}/", data.display());
    let script = target.actual_ports(command).replace("DATA/", &prefix);
    let path = std::env::var("PATH").unwrap_or_default();
    let out = target.folder.join("output");
    let file = File::create(&out)?;
    let status = Command::new("bash")
        .args(["-c", &script])
        .env("PATH", format!("{}:{path}", bin.display()))
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .context("can't run bash")?;
    let raw = String::from_utf8_lossy(&fs::read(&out)?).replace('\r', "").replace(&prefix, "DATA/");
    parse::parse_answer(command, &target.recorded_ports(&raw), status.code().unwrap_or(-1))
}

impl Target {
    /// The port and path that stand for a recorded address.
    fn address<'a>(&self, url: &'a str) -> Result<(u16, &'a str)> {
        let first = self.ports.first().context("no ports")?.1;
        if let Some(path) = url.strip_prefix("{H}") {
            return Ok((first, path));
        }
        if url.starts_with('/') {
            return Ok((first, url));
        }
        let rest =
            url.strip_prefix("http://127.0.0.1:").with_context(|| format!("address {url}"))?;
        let (port, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let port: u16 = port.parse()?;
        let actual = self.ports.iter().find(|(recorded, _)| *recorded == port);
        Ok((actual.with_context(|| format!("port {port}"))?.1, path))
    }

    fn actual_ports(&self, text: &str) -> String {
        let pairs: Vec<(u16, u16)> = self.ports.clone();
        replace_numbers(text, &pairs)
    }

    fn recorded_ports(&self, text: &str) -> String {
        let pairs: Vec<(u16, u16)> = self.ports.iter().map(|(a, b)| (*b, *a)).collect();
        replace_numbers(text, &pairs)
    }
}

/// Replaces numbers that stand alone.
fn replace_numbers(text: &str, pairs: &[(u16, u16)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let length =
            rest[start..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - start);
        let number = &rest[start..start + length];
        out += &rest[..start];
        match pairs.iter().find(|(from, _)| number.parse() == Ok(*from)) {
            Some((_, to)) => out += &to.to_string(),
            None => out += number,
        }
        rest = &rest[start + length..];
    }
    out + rest
}

/// The bytes that `cat -v` made printable.
pub fn uncat(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let (byte, tail) = match (first, tail) {
            (b'M', [b'-', b'^', c, tail @ ..]) => (128 + (c ^ 64), tail),
            (b'M', [b'-', c, tail @ ..]) => (128 + c, tail),
            (b'^', [c, tail @ ..]) => (c ^ 64, tail),
            (c, tail) => (*c, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
    bytes
}

/// Removes what an earlier run left in a target's folder.
pub fn clean(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_words_together_and_a_pipe_needs_a_shell() {
        assert_eq!(split("a 'b c' \"d e\" ''"), ["a", "b c", "d e", ""]);
        assert!(plain_curl("curl -i 'http://127.0.0.1:1/a?x|y'").is_some());
        assert!(plain_curl("curl -i http://127.0.0.1:1/a | wc -c").is_none());
    }

    #[test]
    fn only_whole_numbers_are_replaced() {
        let pairs = [(18500, 20001), (18300, 20002)];
        assert_eq!(replace_numbers("x:18500/185001 \"18300\"", &pairs), "x:20001/185001 \"20002\"");
    }

    #[test]
    fn printable_bytes_become_what_they_were() {
        assert_eq!(uncat("^_M-^Ka7M-W^@^?"), [0x1f, 0x8b, b'a', b'7', 0xd7, 0, 0x7f]);
    }
}
