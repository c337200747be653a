//! The command line against a running agent: texts to the byte, and exit codes, as Consul 1.8.7 was recorded to have
//! them.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_proconsul");
const LIMIT: Duration = Duration::from_secs(20);

/// What a command said and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

fn said(code: i32, out: &str, err: &str) -> Said {
    Said { code, out: out.to_owned(), err: err.to_owned() }
}

/// Runs one command, with nothing in its environment that could lead it elsewhere.
fn run_with(address: &str, input: &[u8], arguments: &[&str]) -> Said {
    let mut child = Command::new(PROGRAM)
        .args(arguments)
        .env_clear()
        .env("CONSUL_HTTP_ADDR", address)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that doesn't read its input may be gone by now.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn run(address: &str, arguments: &[&str]) -> Said {
    run_with(address, b"", arguments)
}

/// A `-dev` agent; dropping it ends it.
struct Agent {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    http_port: u16,
    folder: TempDir,
}

fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

impl Agent {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [http_port, server_port, serf_port] = free_ports();
        let mut child = Command::new(PROGRAM)
            .args(["agent", "-dev", "-node=s1"])
            .arg(format!("-http-port={http_port}"))
            .arg(format!("-server-port={server_port}"))
            .arg(format!("-serf-lan-port={serf_port}"))
            .arg("-serf-wan-port=-1")
            .args(arguments)
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut agent = Self { child, lines, http_port, folder };
        agent.wait_for_line("==> Proconsul agent running!");
        agent
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.http_port)
    }

    fn run(&self, arguments: &[&str]) -> Said {
        run(&self.address(), arguments)
    }

    /// Reads the log up to the line that holds `text`, and gives that line.
    fn wait_for_line(&mut self, text: &str) -> String {
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if line.contains(text) {
                return line;
            }
        }
        panic!("the agent's output ended before {text:?}");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the agent doesn't end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Recorded case 221, step by step.
#[test]
fn the_kv_commands_answer_as_recorded() {
    let agent = Agent::start(&[]);
    let done = |out: &str| said(0, &format!("{out}\n"), "");
    let failed = |err: &str| said(1, "", &format!("{err}\n"));
    assert_eq!(agent.run(&["kv", "put", "cli/a", "1"]), done("Success! Data written to: cli/a"));
    assert_eq!(agent.run(&["kv", "get", "cli/a"]), done("1"));
    let detailed = agent.run(&["kv", "get", "-detailed", "cli/a"]);
    let index = detailed.out.split_whitespace().nth(1).unwrap().to_owned();
    assert_eq!(
        detailed,
        done(&format!(
            "CreateIndex      {index}\nFlags            0\nKey              cli/a\n\
             LockIndex        0\nModifyIndex      {index}\nSession          -\nValue            1"
        ))
    );
    assert_eq!(
        agent.run(&["kv", "get", "cli/missing"]),
        failed("Error! No key exists at: cli/missing")
    );
    assert_eq!(agent.run(&["kv", "get", "-recurse", "cli/"]), done("cli/a:1"));
    assert_eq!(agent.run(&["kv", "get", "-keys", "cli/"]), done("cli/a"));
    assert_eq!(
        agent.run(&["kv", "put", "-cas", "-modify-index=1", "cli/a", "2"]),
        failed("Error! Did not write to cli/a: CAS failed")
    );
    assert_eq!(
        agent.run(&["kv", "put", "-cas", "cli/a"]),
        failed("Must specify -modify-index with -cas!")
    );
    assert_eq!(
        agent.run(&["kv", "delete", "-cas", "-modify-index=1", "cli/a"]),
        failed("Error! Did not delete key cli/a: CAS failed")
    );
    assert_eq!(
        agent.run(&["kv", "export", "cli/"]),
        done("[\n\t{\n\t\t\"key\": \"cli/a\",\n\t\t\"flags\": 0,\n\t\t\"value\": \"MQ==\"\n\t}\n]")
    );
    assert_eq!(
        run_with(
            &agent.address(),
            b"[{\"key\":\"cli/b\",\"flags\":0,\"value\":\"Mg==\"}]\n",
            &["kv", "import", "-"]
        ),
        done("Imported: cli/b")
    );
    assert_eq!(
        agent.run(&["kv", "delete", "-recurse", "cli/"]),
        done("Success! Deleted keys with prefix: cli/")
    );
    assert_eq!(agent.run(&["kv", "get"]), failed("Error! Missing KEY argument"));
    assert_eq!(agent.run(&["kv", "get", "/lead"]), failed("Error! No key exists at: lead"));
}

#[test]
fn what_is_put_comes_back_byte_for_byte() {
    let agent = Agent::start(&[]);
    let address = agent.address();
    let bytes = b"a\0b\r\n \t\xff";
    assert_eq!(run_with(&address, bytes, &["kv", "put", "bin/α β%?&", "-"]).code, 0);
    let output = Command::new(PROGRAM)
        .args(["kv", "get", "-http-addr", &address, "bin/α β%?&"])
        .output()
        .unwrap();
    assert_eq!(output.stdout, [bytes, &b"\n"[..]].concat());
    let exported = agent.run(&["kv", "export", "bin/"]).out;
    assert_eq!(agent.run(&["kv", "delete", "-recurse", "bin/"]).code, 0);
    assert_eq!(agent.run(&["kv", "import", &exported]).out, "Imported: bin/α β%?&\n");
    assert_eq!(agent.run(&["kv", "export", "bin/"]).out, exported);
    fs::write(agent.path("value"), "from a file").unwrap();
    let at = format!("@{}", agent.path("value").display());
    assert_eq!(agent.run(&["kv", "put", "-flags=42", "f", &at]).code, 0);
    assert_eq!(agent.run(&["kv", "get", "-base64", "f"]).out, "ZnJvbSBhIGZpbGU=\n");
    assert!(agent.run(&["kv", "get", "-detailed", "f"]).out.contains("Flags            42\n"));
}

/// Recorded case 223, as far as there is what it is about.
#[test]
fn peers_are_listed_and_an_unknown_one_is_not_removed() {
    let [server_port] = free_ports();
    let agent = Agent::start(&[
        "-node-id=0a4e64c1-872e-a0ec-b2dc-fdf268e35d46",
        &format!("-server-port={server_port}"),
    ]);
    let listed = agent.run(&["operator", "raft", "list-peers"]);
    let address = format!("127.0.0.1:{server_port}");
    let width = address.len();
    assert_eq!(
        listed,
        said(
            0,
            &format!(
                "Node  ID                                    {:width$}  State   Voter  RaftProtocol\n\
                 s1    0a4e64c1-872e-a0ec-b2dc-fdf268e35d46  {address}  leader  true   3\n",
                "Address"
            ),
            ""
        )
    );
    assert_eq!(
        agent.run(&["operator", "raft", "remove-peer", "-address=1.2.3.4:8300"]),
        said(
            1,
            "",
            "Error removing peer: Unexpected response code: 500 (address \"1.2.3.4:8300\" was not found in the Raft configuration)\n"
        )
    );
    assert_eq!(
        agent.run(&["operator", "raft", "remove-peer"]),
        said(1, "", "Error removing peer: an address or id is required for the peer to remove\n")
    );
}

/// Recorded case 224: the blocks and their order; the figures are of the run.
#[test]
fn info_prints_sorted_blocks() {
    let agent = Agent::start(&[]);
    // A read is held until the agent leads; `info` is not.
    assert_eq!(agent.run(&["kv", "get", "-keys", "none"]).code, 0);
    let info = agent.run(&["info"]);
    assert_eq!((info.code, info.err.as_str()), (0, ""));
    let blocks: Vec<_> = info.out.lines().filter(|line| !line.starts_with('\t')).collect();
    let mut sorted = blocks.clone();
    sorted.sort_unstable();
    assert_eq!(blocks, sorted);
    for part in ["build:\n", "consul:\n", "raft:\n", "\tstate = Leader\n", "\tleader = true\n"] {
        assert!(info.out.contains(part), "{part:?} is missing in {}", info.out);
    }
}

/// Recorded case 228, with our own ids and sizes.
#[test]
fn the_snapshot_commands_answer_as_recorded() {
    let agent = Agent::start(&[]);
    assert_eq!(agent.run(&["kv", "put", "kept", "1"]).code, 0);
    let file = agent.path("cli.snap");
    let file = file.to_str().unwrap();
    let saved = agent.run(&["snapshot", "save", file]);
    let index = saved.out.trim_start_matches("Saved and verified snapshot to index ").trim();
    assert!(index.parse::<u64>().is_ok_and(|index| index > 0), "{saved:?}");
    let inspected = agent.run(&["snapshot", "inspect", file]).out;
    let rows: Vec<_> = inspected.lines().map(|line| line.split_at(line.len().min(13))).collect();
    let names: Vec<_> = rows.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        ["ID           ", "Size         ", "Index        ", "Term         ", "Version      ", ""]
    );
    assert_eq!(rows[2].1, index);
    assert_eq!(agent.run(&["kv", "put", "lost", "1"]).code, 0);
    assert_eq!(agent.run(&["snapshot", "restore", file]), said(0, "Restored snapshot\n", ""));
    assert_eq!(agent.run(&["kv", "get", "-keys", ""]).out, "kept\n");
    assert_eq!(
        agent.run(&["snapshot", "restore", "/etc/hostname"]),
        said(
            1,
            "",
            "Error restoring snapshot: Unexpected response code: 500 (failed to decompress snapshot: unexpected EOF)\n"
        )
    );
    let left: Vec<_> =
        fs::read_dir(agent.folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(left, ["cli.snap"], "no unverified file stays behind");
}

/// Recorded case 230.
#[test]
fn an_agent_that_is_not_there_is_told_in_go_s_words() {
    assert_eq!(
        run("127.0.0.1:1", &["kv", "get", "a"]),
        said(
            1,
            "",
            "Error querying Consul agent: Get \"http://127.0.0.1:1/v1/kv/a\": dial tcp 127.0.0.1:1: connect: connection refused\n"
        )
    );
    for (arguments, error) in [
        (&["info"][..], "Error querying agent: Get \"http://127.0.0.1:1/v1/agent/self\""),
        (
            &["kv", "put", "a", "b"],
            "Error! Failed writing data: Put \"http://127.0.0.1:1/v1/kv/a\"",
        ),
        (&["kv", "delete", "a"], "Error deleting key a: Delete \"http://127.0.0.1:1/v1/kv/a\""),
        (
            &["kv", "export"],
            "Error querying Consul agent: Get \"http://127.0.0.1:1/v1/kv/?recurse=\"",
        ),
        (
            &["operator", "raft", "list-peers", "-stale"],
            "Error getting peers: Failed to retrieve raft configuration: Get \"http://127.0.0.1:1/v1/operator/raft/configuration?stale=\"",
        ),
        (
            &["snapshot", "save", "/tmp/x"],
            "Error saving snapshot: Get \"http://127.0.0.1:1/v1/snapshot\"",
        ),
    ] {
        assert_eq!(
            run("127.0.0.1:1", arguments),
            said(1, "", &format!("{error}: dial tcp 127.0.0.1:1: connect: connection refused\n"))
        );
    }
}

/// Recorded case 229, as far as there is what it is about.
#[test]
fn configurations_are_judged_as_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let none = "127.0.0.1:1";
    let bad = file("bad.json", r#"{"nosuch_key":1,"data_dir":"/tmp"}"#);
    assert_eq!(
        run(none, &["validate", &bad]),
        said(
            1,
            "",
            &format!(
                "Config validation failed: failed to parse {bad}: 1 error occurred:\n\t* invalid config key nosuch_key\n\n\n"
            )
        )
    );
    let upper = file("upper.json", r#"{"datacenter":"UPPER Case"}"#);
    assert_eq!(
        run(none, &["validate", &upper]),
        said(
            1,
            "",
            "Config validation failed: datacenter cannot be \"upper case\". Please use only [a-z0-9-_]\n"
        )
    );
    let good = file("good.json", r#"{"data_dir":"/tmp","bind_addr":"127.0.0.1"}"#);
    assert_eq!(run(none, &["validate", &good]), said(0, "Configuration is valid!\n", ""));
    assert_eq!(run(none, &["validate", "-quiet", &good]), said(0, "", ""));
    let bind = "-bind=127.0.0.1";
    assert_eq!(run(none, &["agent", bind]), said(1, "", "==> data_dir cannot be empty\n"));
    let data_dir = format!("-data-dir={}", folder.path().join("zz").display());
    assert_eq!(
        run(none, &["agent", bind, &data_dir, "-server", "-bootstrap", "-bootstrap-expect=3"]),
        said(1, "", "==> 'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive\n")
    );
    assert_eq!(
        run(none, &["agent", "-dev", "extra"]),
        said(1, "", "==> Unexpected extra arguments: [extra]\n")
    );
}

#[test]
fn a_client_agent_keeps_its_node_id_and_says_when_no_server_answers() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let [http, nobody, serf] = free_ports();
    let mut ids = Vec::new();
    for servers in [vec![], vec![format!("-server-address=127.0.0.1:{nobody}")]] {
        let limits = folder.path().join("limits.json");
        fs::write(&limits, r#"{"performance":{"rpc_hold_timeout":"200ms"}}"#).unwrap();
        let mut child = Command::new(PROGRAM)
            .args(["agent", "-bind=127.0.0.1", "-node=c1"])
            .arg(format!("-config-file={}", limits.display()))
            .arg(format!("-data-dir={}", data.display()))
            .arg(format!("-http-port={http}"))
            .arg(format!("-serf-lan-port={serf}"))
            .arg("-serf-wan-port=-1")
            .args(&servers)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut lines = out.lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains("Server: false")));
        assert!(lines.any(|line| line.contains("agent running!")));
        let address = format!("127.0.0.1:{http}");
        let error = match servers.as_slice() {
            [] => "No known Consul servers".to_owned(),
            _ => format!(
                "rpc error getting client: failed to get conn: dial tcp 127.0.0.1:{nobody}: connect: connection refused"
            ),
        };
        assert_eq!(
            run(&address, &["kv", "get", "a"]),
            said(
                1,
                "",
                &format!("Error querying Consul agent: Unexpected response code: 500 ({error})\n")
            )
        );
        let info = run(&address, &["info"]).out;
        let known = format!("\tknown_servers = {}\n\tserver = false\n", servers.len());
        assert!(info.contains(&known), "{info}");
        ids.push(fs::read_to_string(data.join("node-id")).unwrap());
        // A second agent on the directory would be the same node.
        let second =
            run("", &["agent", "-bind=127.0.0.1", &format!("-data-dir={}", data.display())]);
        assert_eq!(second.code, 1, "{second:?}");
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    assert_eq!(ids[0], ids[1]);
    assert!(!data.join("raft").exists());
}

#[test]
fn what_asks_for_tls_or_a_namespace_is_refused_not_passed_over() {
    let run = |variable: Option<&str>, arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["kv", "get"]).args(arguments).arg("a").env_clear();
        command.env("CONSUL_HTTP_ADDR", "127.0.0.1:1").envs(variable.map(|name| (name, "x")));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let tls = "TLS is not supported yet, and without it nothing is encrypted or verified";
    let refused = |what: &str, why: &str| {
        format!("Error connecting to Consul agent: {what} cannot be set: {why}\n")
    };
    for (flag, variable) in [
        ("-ca-file", "CONSUL_CACERT"),
        ("-ca-path", "CONSUL_CAPATH"),
        ("-client-cert", "CONSUL_CLIENT_CERT"),
        ("-client-key", "CONSUL_CLIENT_KEY"),
        ("-tls-server-name", "CONSUL_TLS_SERVER_NAME"),
    ] {
        assert_eq!(run(None, &[flag, "x"]), refused(flag, tls));
        assert_eq!(run(Some(variable), &[]), refused(variable, tls));
    }
    for variable in ["CONSUL_NAMESPACE", "CONSUL_PARTITION"] {
        let why = "namespaces and partitions are not part of this agent";
        assert_eq!(run(Some(variable), &[]), refused(variable, why));
    }
    // It gets as far as to the agent that isn't there.
    for (variable, arguments) in [(Some("CONSUL_HTTP_SSL_VERIFY"), &[][..]), (None, &["-ca-file="])]
    {
        assert!(run(variable, arguments).contains("connection refused"), "{variable:?}");
    }
}

#[test]
fn an_unknown_command_lists_the_commands_and_ends_with_127() {
    for arguments in [&[][..], &["nosuch"]] {
        let unknown = run("127.0.0.1:1", arguments);
        assert_eq!((unknown.code, unknown.out.as_str()), (127, ""));
        assert!(unknown.err.starts_with(
            "Usage: proconsul [--version] [--help] <command> [<args>]\n\nAvailable commands are:\n    agent          Runs an agent\n"
        ), "{}", unknown.err);
    }
    let help = run("127.0.0.1:1", &["--help"]);
    assert_eq!((help.code, help.err.as_str()), (0, ""));
    for arguments in [&["kv"][..], &["kv", "nosuch"], &["operator", "raft"]] {
        let group = run("127.0.0.1:1", arguments);
        assert_eq!(group.code, 1);
        assert!(group.err.contains("\nSubcommands:\n"), "{}", group.err);
    }
    assert_eq!(run("127.0.0.1:1", &["kv", "get", "x", "-h"]).code, 0);
    let flag = run("127.0.0.1:1", &["kv", "get", "-nosuch", "a"]);
    assert_eq!(flag.code, 1);
    assert!(
        flag.err
            .starts_with("flag provided but not defined: -nosuch\nUsage:\n  -base64\n    \tBase64")
    );
}

#[test]
fn the_version_names_both_programs() {
    let version = concat!(
        "Proconsul v",
        env!("CARGO_PKG_VERSION"),
        "\nConsul v1.8.7 (the level whose API, commands and configuration it follows)\n"
    );
    for arguments in [["version"], ["--version"], ["-v"]] {
        assert_eq!(run("127.0.0.1:1", &arguments), said(0, version, ""));
    }
    let json = run("127.0.0.1:1", &["version", "-format=json"]).out;
    assert!(json.contains("\n   \"Version\": \"1.8.7\""), "{json}");
}

#[test]
fn the_agent_ends_cleanly_when_it_is_told_to() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut agent = Agent::start(&["-pid-file=agent.pid"]);
        let pid = fs::read_to_string(agent.path("agent.pid")).unwrap();
        assert_eq!(pid, agent.child.id().to_string());
        agent.signal(signal);
        agent.wait_for_line("agent: shutdown complete");
        assert_eq!(agent.wait().code(), Some(0));
        assert!(!agent.path("agent.pid").exists());
    }
}

#[test]
fn a_hangup_reloads_the_log_level() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.json");
    let write = |level: &str| fs::write(&file, format!(r#"{{"log_level":"{level}"}}"#)).unwrap();
    write("info");
    let mut agent = Agent::start(&[&format!("-config-file={}", file.display())]);
    write("nonsense");
    agent.signal(Signal::HUP);
    let line = agent.wait_for_line("Failed to reload configs");
    assert!(line.contains("[ERROR] agent: "), "{line}");
    write("debug");
    agent.signal(Signal::HUP);
    agent.wait_for_line("Reloaded configuration: log_level=DEBUG");
}

#[test]
fn the_api_is_reached_through_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let file = folder.path().join("agent.json");
    let http = format!(r#""addresses":{{"http":"unix://{}"}}"#, socket.display());
    fs::write(&file, format!(r#"{{{http},"unix_sockets":{{"mode":"0604"}}}}"#)).unwrap();
    let agent = Agent::start(&[&format!("-config-file={}", file.display())]);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o604);
    let address = format!("unix://{}", socket.display());
    assert_eq!(run(&address, &["kv", "put", "a", "1"]).code, 0);
    assert_eq!(run(&address, &["kv", "get", "a"]).out, "1\n");
    drop(agent);
    let error = run("unix:///nope.sock", &["kv", "get", "a"]).err;
    assert!(
        error.ends_with("dial unix /nope.sock: connect: no such file or directory\n"),
        "{error}"
    );
}

#[test]
fn an_address_in_use_is_told_and_the_agent_ends() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let [server_port, serf_port] = free_ports();
    let output = Command::new(PROGRAM)
        .args([
            "agent",
            "-dev",
            &format!("-http-port={port}"),
            &format!("-server-port={server_port}"),
            &format!("-serf-lan-port={serf_port}"),
            "-serf-wan-port=-1",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = format!("listen tcp 127.0.0.1:{port}: bind: address already in use");
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn a_server_keeps_what_it_acknowledged_when_it_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let [http, server, serf] = free_ports();
    let start = |folder: &Path| {
        let file = folder.join("agent.json");
        let data = folder.join("data");
        fs::write(
            &file,
            format!(
                r#"{{"server":true,"bootstrap":true,"data_dir":"{}","bind_addr":"127.0.0.1","ports":{{"http":{http},"server":{server},"serf_lan":{serf},"serf_wan":-1}}}}"#,
                data.display()
            ),
        )
        .unwrap();
        let mut child = Command::new(PROGRAM)
            .arg("agent")
            .arg(format!("-config-file={}", file.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let running = out.lines().any(|line| line.unwrap().contains("agent running!"));
        assert!(running);
        child
    };
    let address = format!("127.0.0.1:{http}");
    let mut first = start(folder.path());
    assert_eq!(
        run(&address, &["kv", "put", "kept", "safe"]),
        said(0, "Success! Data written to: kept\n", "")
    );
    first.kill().unwrap();
    first.wait().unwrap();
    let mut second = start(folder.path());
    assert_eq!(run(&address, &["kv", "get", "kept"]), said(0, "safe\n", ""));
    second.kill().unwrap();
    second.wait().unwrap();
}
