//! The bound: what three servers could do at best on this box.
//!
//! A bare replicated append: HTTP PUT, group commit, a log full of zeros on each of three servers, an answer once two of
//! them have it durably. No consensus, no terms, no recovery, nothing checked: it is no system to use, but what a system
//! that does all that can be measured against. The first server leads; it remembers values so that puts can be checked.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    path::Path,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{buffer::spare_capacity, event::epoll};

const LOG_BYTES: u64 = 64 << 20;
const BUFFER: usize = 1 << 20;

/// One server.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Where clients come in; only the leader takes any.
    pub client: SocketAddr,
    /// Every server, the leader first.
    pub servers: Vec<SocketAddr>,
    /// Which of them this is.
    pub number: usize,
}

impl Bound {
    /// Serves for as long as the process lives.
    pub fn serve(&self, data: &Path) -> Result<()> {
        let log = Log::create(data)?;
        if self.number == 0 { self.lead(log) } else { self.follow(log) }
    }

    /// Appends what comes, as much as there is at once, and says how much that was.
    fn follow(&self, mut log: Log) -> Result<()> {
        let (mut leader, _) = TcpListener::bind(self.servers[self.number])?.accept()?;
        leader.set_nodelay(true)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = leader.read(&mut buffer)?;
            ensure!(length > 0, "the leader is gone");
            log.append(&buffer[..length])?;
            leader.write_all(&(length as u64).to_le_bytes())?;
        }
    }

    fn lead(&self, log: Log) -> Result<()> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let listener = TcpListener::bind(self.client)?;
        let (durable, writer) = UnixStream::pair()?;
        let (batches, queued) = channel();
        thread::spawn(move || append_all(log, &queued, writer));
        let mut leader = Leader {
            own: self.servers[0].to_string(),
            epoll,
            batches,
            replicas: vec![],
            clients: vec![],
            values: HashMap::new(),
            batch: vec![],
            appended: 0,
            waiting: VecDeque::new(),
        };
        leader.watch(&durable, LOG)?;
        for (number, address) in self.servers.iter().enumerate().skip(1) {
            let stream = connect(*address)?;
            leader.watch(&stream, number as u64)?;
            stream.set_nodelay(true)?;
            leader.replicas.push(Replica { stream, durable: 0 });
        }
        leader.watch(&listener, LISTENER)?;
        leader.turns(&listener, &durable)
    }
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    for _ in 0..5000 {
        if let Ok(stream) = TcpStream::connect(address) {
            return Ok(stream);
        }
        thread::sleep(Duration::from_millis(2));
    }
    bail!("{address} doesn't come up")
}

/// A file that is full of zeros, written from the start again when it is full.
struct Log {
    file: File,
    at: u64,
}

impl Log {
    fn create(data: &Path) -> Result<Self> {
        let file = File::create(data.join("log"))?;
        let zeros = vec![0; BUFFER];
        for at in (0..LOG_BYTES).step_by(BUFFER) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.at + bytes.len() as u64 > LOG_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.file.sync_data()?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// The leader's log writer: one write and one sync for all that came during the last one.
fn append_all(mut log: Log, queued: &Receiver<Vec<u8>>, mut durable: UnixStream) -> Result<()> {
    while let Ok(mut bytes) = queued.recv() {
        while let Ok(more) = queued.try_recv() {
            bytes.extend_from_slice(&more);
        }
        log.append(&bytes)?;
        durable.write_all(&(bytes.len() as u64).to_le_bytes())?;
    }
    Ok(())
}

const LOG: u64 = 0;
const LISTENER: u64 = 1 << 32;
const CLIENTS: u64 = LISTENER + 1;

struct Replica {
    stream: TcpStream,
    durable: u64,
}

struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
    filled: usize,
}

struct Leader {
    own: String,
    epoll: OwnedFd,
    batches: Sender<Vec<u8>>,
    replicas: Vec<Replica>,
    clients: Vec<Option<Peer>>,
    values: HashMap<Vec<u8>, Vec<u8>>,
    /// What this turn's puts append.
    batch: Vec<u8>,
    /// Bytes ever appended.
    appended: u64,
    /// Who waits for how many bytes to be durable.
    waiting: VecDeque<(u64, usize)>,
}

/// Adds up the lengths that a log says are durable.
fn lengths(mut stream: impl Read) -> Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

impl Leader {
    fn watch(&self, source: &impl AsFd, data: u64) -> Result<()> {
        Ok(epoll::add(&self.epoll, source, epoll::EventData::new_u64(data), epoll::EventFlags::IN)?)
    }

    fn turns(&mut self, listener: &TcpListener, durable: &UnixStream) -> Result<()> {
        let mut own_durable = 0;
        let mut events = Vec::with_capacity(1024);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LOG => own_durable += lengths(durable)?,
                    LISTENER => self.accept(listener.accept()?.0)?,
                    number if number < LISTENER => {
                        let replica = &mut self.replicas[number as usize - 1];
                        replica.durable += lengths(&replica.stream)?;
                    }
                    number => self.serve((number - CLIENTS) as usize)?,
                }
            }
            self.replicate()?;
            let mut durable: Vec<_> = self.replicas.iter().map(|replica| replica.durable).collect();
            durable.push(own_durable);
            durable.sort_unstable();
            // The middle of three: two have it.
            self.answer(durable[(durable.len() - 1) / 2])?;
        }
    }

    fn accept(&mut self, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        self.watch(&stream, CLIENTS + self.clients.len() as u64)?;
        self.clients.push(Some(Peer { stream, input: vec![0; 32 << 10], filled: 0 }));
        Ok(())
    }

    fn serve(&mut self, number: usize) -> Result<()> {
        let Some(client) = &mut self.clients[number] else { return Ok(()) };
        if client.filled == client.input.len() {
            client.input.resize(2 * client.filled, 0);
        }
        match (&client.stream).read(&mut client.input[client.filled..]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => self.clients[number] = None,
            Ok(length) => {
                client.filled += length;
                self.take(number)?;
            }
        }
        Ok(())
    }

    /// Takes one request, if it is whole.
    fn take(&mut self, number: usize) -> Result<()> {
        let Some(client) = &mut self.clients[number] else { return Ok(()) };
        let input = &client.input[..client.filled];
        let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Ok(());
        };
        let head = std::str::from_utf8(&input[..end])?;
        let path = head.split(' ').nth(1).context("a request without a path")?;
        let length = head.split("Content-Length: ").nth(1).unwrap_or("0");
        let length: usize = length.lines().next().unwrap_or("0").parse()?;
        let Some(value) = input.get(end + 4..end + 4 + length) else { return Ok(()) };
        let key = path.split('?').next().unwrap_or(path).as_bytes();
        if head.starts_with("PUT") {
            self.values.insert(key.to_vec(), value.to_vec());
            let start = self.batch.len();
            self.batch.extend_from_slice(&[0; 16]);
            self.batch.extend_from_slice(key);
            self.batch.extend_from_slice(value);
            self.appended += (self.batch.len() - start) as u64;
            self.waiting.push_back((self.appended, number));
        } else {
            let body = match key {
                b"/v1/status/leader" => Some(format!("\"{}\"", self.own).into_bytes()),
                key => self.values.get(key).cloned(),
            };
            let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
            let body = body.unwrap_or_default();
            let mut answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
            answer.push_str(&String::from_utf8_lossy(&body));
            (&client.stream).write_all(answer.as_bytes())?;
        }
        client.filled = 0;
        Ok(())
    }

    fn replicate(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        for replica in &mut self.replicas {
            replica.stream.write_all(&self.batch)?;
        }
        let batch = std::mem::take(&mut self.batch);
        Ok(self.batches.send(batch)?)
    }

    fn answer(&mut self, durable: u64) -> Result<()> {
        while let Some((_, number)) = self.waiting.pop_front_if(|(end, _)| *end <= durable) {
            if let Some(client) = &mut self.clients[number] {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue";
                (&client.stream).write_all(answer)?;
            }
        }
        Ok(())
    }
}
