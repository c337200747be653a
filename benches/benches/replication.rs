//! Three servers in one process: their consensus, log writer and apply threads with logs on disk, and a network that
//! only hands messages over. From a proposal at the leader to its outcome; one at a time, and 64 at once.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use agent_sync::{GroupCommit, Published, Watches};
use bytes::Bytes;
use criterion::{Criterion, Throughput};
use proconsul::{
    driver::{
        Clock, Core, Observer, Wire,
        apply::{Applier, Witness},
        consensus::{Consensus, Input, Leadership, Outbox, SnapshotPolicy},
        writer::Writer,
    },
    storage::{LogOptions, open},
};
use spec::{
    raft::{
        ClusterId, Config, Configuration, Member, Message, Payload, ServerId, SnapshotMeta,
        Suffrage,
    },
    state::{Command, KvCommand, State, agreement::INTERVAL},
    time::Instant,
};
use tokio::sync::oneshot;

type Inbox = Arc<GroupCommit<Input>>;

/// Hands messages to the other servers' inboxes when it is flushed.
struct Network {
    from: ServerId,
    inboxes: Arc<BTreeMap<ServerId, Inbox>>,
    queued: Mutex<Vec<(ServerId, Message)>>,
}

impl Wire for Network {
    fn queue(&self, to: ServerId, message: Message, _bytes: Option<Bytes>) {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner).push((to, message));
    }

    fn flush(&self) {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        for (to, message) in queued.drain(..) {
            let input = Input::Message { from: self.from, message, bytes: None };
            let _ = self.inboxes[&to].push(input);
        }
    }
}

/// Keeps who leads.
struct Watcher(Arc<Mutex<Option<ServerId>>>);

impl Observer for Watcher {
    fn changed(&self, leadership: &Leadership) {
        if leadership.leads {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = leadership.leader;
        }
    }

    fn turned(&self, _consensus: &Consensus, _now: Instant, _heard: bool) {}

    fn fatal(&self, reason: String) {
        eprintln!("{reason}");
        std::process::abort();
    }
}

/// Three servers, and which of them said last that it leads.
struct Cluster {
    inboxes: Arc<BTreeMap<ServerId, Inbox>>,
    leader: Arc<Mutex<Option<ServerId>>>,
}

impl Cluster {
    fn leader(&self) -> Option<&Inbox> {
        let leader = *self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        self.inboxes.get(&leader?)
    }

    /// Proposes these, all at once, until each is committed: a machine that stands still for a moment elects another leader.
    fn commit(&self, mut numbers: Vec<u64>) {
        for _ in 0..1000 {
            let leader = self.leader().expect("a leader");
            let propose = |number: &u64| {
                let (reply, answer) = oneshot::channel();
                let input = Input::Propose { payload: payload(*number), reply };
                assert!(leader.push(input).is_ok(), "the leader stopped");
                answer
            };
            let answers: Vec<_> = numbers.iter().map(propose).collect();
            let open = numbers.into_iter().zip(answers).filter_map(|(number, answer)| {
                let committed = answer.blocking_recv().expect("an answer").is_ok();
                (!committed).then_some(number)
            });
            numbers = open.collect();
            if numbers.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no leader commits");
    }
}

/// Starts three servers, and waits until one of them leads.
fn cluster(scratch: &Path) -> Cluster {
    let ids: Vec<_> = (1..=3).map(|node| ServerId::new(node, 1)).collect();
    let inbox = || Arc::new(GroupCommit::new(1 << 16, 1 << 30));
    let inboxes: Arc<BTreeMap<_, _>> = Arc::new(ids.iter().map(|id| (*id, inbox())).collect());
    let leader = Arc::new(Mutex::new(None));
    for id in &ids {
        server(*id, &inboxes, &leader, &scratch.join(id.node.to_string()));
    }
    let member = Member { suffrage: Suffrage::Voter, address: "".into() };
    let servers = ids.iter().map(|id| (*id, member.clone())).collect();
    let configuration = Arc::new(Configuration { cluster: ClusterId(1), servers });
    for inbox in inboxes.values() {
        assert!(inbox.push(Input::Form(Arc::clone(&configuration))).is_ok());
    }
    let cluster = Cluster { inboxes, leader };
    for _ in 0..6000 {
        if cluster.leader().is_some() {
            return cluster;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("no server leads");
}

fn server(
    id: ServerId,
    inboxes: &Arc<BTreeMap<ServerId, Inbox>>,
    leader: &Arc<Mutex<Option<ServerId>>>,
    data: &Path,
) {
    let opened = open(data, None, LogOptions::default()).expect("a blank data directory");
    // The directory is locked for as long as the process lives.
    std::mem::forget(opened.lock);
    let (clock, mut outbox) = (Clock::default(), Outbox::default());
    let config = Arc::new(Config::new(id, 1));
    // Nobody keeps snapshots here, so none is asked for.
    let policy =
        SnapshotPolicy { threshold: u64::MAX, log_bytes: usize::MAX, ..Default::default() };
    let seed = u64::try_from(id.node.0).unwrap_or(1);
    let consensus =
        Consensus::recover(&config, opened.durable, policy, seed, clock.now(), &mut outbox);
    let snapshots = Arc::new(GroupCommit::new(usize::MAX, usize::MAX));
    let applier = Applier::new(
        Arc::new(Published::new(0, Arc::new(State::default()))),
        Watches::new(),
        Box::new(|_: &SnapshotMeta| Err("there are no snapshots".to_owned())),
        Arc::clone(&snapshots),
        Witness { interval: INTERVAL, tell: Box::new(|_| ()) },
    );
    let core = Core {
        consensus,
        outbox,
        inbox: Arc::clone(&inboxes[&id]),
        wire: Arc::new(Network {
            from: id,
            inboxes: Arc::clone(inboxes),
            queued: Mutex::default(),
        }),
        snapshots,
        observer: Arc::new(Watcher(Arc::clone(leader))),
        clock,
    };
    core.spawn(Writer::new(opened.log), applier).expect("a thread");
}

fn payload(number: u64) -> Payload {
    Command::Kv(KvCommand::Set {
        key: format!("bench/{:04}", number % 1024).into_bytes().into(),
        value: format!("{number:064}").into_bytes().into(),
        flags: 0,
    })
    .to_payload()
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let scratch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-replication");
    std::fs::create_dir_all(&scratch).expect("a scratch directory");
    let data = tempfile::tempdir_in(scratch).expect("data directories");
    let cluster = cluster(data.path());
    let mut number = 0;
    let mut group = criterion.benchmark_group("replication/three-servers");
    for count in [1, 64] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{count}"), |bench| {
            bench.iter(|| {
                let numbers = (number + 1..=number + count).collect();
                number += count;
                cluster.commit(numbers);
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
