//! Reads the case files: a header, then steps of a command line, the raw answer, and how long it took.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use super::{Answer, flatten, python, send::uncat};

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its file's name, without the ending.
    pub name: String,
    /// Which agent it was recorded from: the word before the colon of its agent line.
    pub agent: String,
    /// Its steps.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Case and number: `017-kv-cas/5`.
    pub name: String,
    /// The command line.
    pub command: String,
    /// What it answered.
    pub answer: Answer,
    /// How long it took, in seconds.
    pub elapsed: f64,
}

/// Reads all cases of a folder, in the order of their names.
pub fn read_folder(folder: &Path) -> Result<Vec<Case>> {
    let mut paths: Vec<_> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    let cases: Vec<Case> = paths
        .iter()
        .map(|path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
            parse_case(&name, &text).with_context(|| path.display().to_string())
        })
        .collect::<Result<_>>()?;
    ensure!(!cases.is_empty(), "no cases in {}", folder.display());
    Ok(cases)
}

/// Reads one case.
pub fn parse_case(name: &str, text: &str) -> Result<Case> {
    let agent = text.lines().find_map(|line| line.strip_prefix("# agent: ")).context("no agent")?;
    let agent = agent.split(':').next().unwrap_or_default().to_owned();
    let mut steps = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(number) = line.strip_prefix("## step ") else { continue };
        let name = format!("{name}/{number}");
        let command = lines.next().and_then(|line| line.strip_prefix("$ "));
        let command = command.with_context(|| format!("{name}: no command"))?.to_owned();
        let mut raw = String::new();
        let last = loop {
            let line = lines.next().with_context(|| format!("{name}: no end"))?;
            if line.starts_with("[elapsed ") {
                break line;
            }
            raw += line;
            raw.push('\n');
        };
        let (elapsed, exit) = parse_end(last).with_context(|| format!("{name}: {last}"))?;
        let answer = parse_answer(&command, &raw, exit).with_context(|| name.clone())?;
        steps.push(Step { name, command, answer, elapsed });
    }
    ensure!(!steps.is_empty(), "no steps");
    Ok(Case { name: name.to_owned(), agent, steps })
}

/// Reads `[elapsed 0.01s, exit code 1]`.
fn parse_end(line: &str) -> Option<(f64, i32)> {
    let inner = line.strip_prefix("[elapsed ")?.strip_suffix(']')?;
    let (elapsed, exit) = inner.split_once(", exit code ").unwrap_or((inner, "0"));
    Some((elapsed.strip_suffix('s')?.parse().ok()?, exit.parse().ok()?))
}

/// Reads an answer as `command` prints it.
pub fn parse_answer(command: &str, raw: &str, exit: i32) -> Result<Answer> {
    if command.contains("d['Stats']['consul']") {
        return flatten::config_and_stats_as_printed(raw).map(Answer::Tree);
    }
    if python::is_of_the_agent(command) {
        return flatten::agent_self_as_printed(raw).map(Answer::Tree);
    }
    if command.ends_with("consul info") && exit == 0 {
        return Ok(Answer::Tree(flatten::sections(raw)));
    }
    if !raw.starts_with("HTTP/1.1 ") {
        // What was recorded lost the line ends at the very end.
        let output = raw.trim_end_matches('\n');
        let output =
            if python::polls(command) { python::changes(output) } else { output.to_owned() };
        return Ok(Answer::Text { output, exit });
    }
    let plain =
        if command.ends_with("cat -v") { raw.replace("^M\n", "\n") } else { raw.to_owned() };
    let (head, body) = plain.split_once("\n\n").unwrap_or((plain.trim_end_matches('\n'), ""));
    let mut lines = head.lines();
    let status_line = lines.next().unwrap_or_default().to_owned();
    let headers: Vec<(String, String)> = lines
        .map(|line| {
            let (name, value) = line.split_once(':').with_context(|| format!("header {line:?}"))?;
            Ok((name.to_owned(), value.trim().to_owned()))
        })
        .collect::<Result<_>>()?;
    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.map(|(_, value)| value.parse::<usize>()).transpose()?;
    let head_only = command.contains(" -I ") || command.contains(" -D -");
    let body = if command.ends_with("cat -v") {
        gunzip(&uncat(body.trim_end_matches('\n')))?
    } else {
        let mut body = body.trim_end_matches('\n').to_owned();
        // Line ends at the very end were not kept, but the length was: it says how many there were.
        while length.is_some_and(|length| body.len() < length) && !head_only {
            body.push('\n');
        }
        body
    };
    Ok(Answer::Http { status_line, headers, body, has_body: !head_only })
}

/// Unpacks what `Content-Encoding: gzip` packed.
pub fn gunzip(bytes: &[u8]) -> Result<String> {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(bytes), &mut text)
        .context("not gzip")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_recorded_cases_can_be_read() {
        let cases = read_folder(&crate::recorded::folder().join("cases")).unwrap();
        let steps: usize = cases.iter().map(|case| case.steps.len()).sum();
        assert_eq!((cases.len(), steps), (71, 326));
    }

    #[test]
    fn lost_line_ends_are_put_back_by_the_length() {
        let raw = "HTTP/1.1 301 Moved Permanently\nContent-Length: 6\n\nmoved\n";
        let Answer::Http { body, .. } = parse_answer("curl -i x", raw, 0).unwrap() else {
            panic!()
        };
        assert_eq!(body, "moved\n");
    }

    #[test]
    fn an_end_without_an_exit_code_means_success() {
        assert_eq!(parse_end("[elapsed 2.09s]"), Some((2.09, 0)));
        assert_eq!(parse_end("[elapsed 0.04s, exit code 1]"), Some((0.04, 1)));
    }
}
