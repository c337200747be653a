//! Loom explores the interleavings of the primitives: `RUSTFLAGS="--cfg loom" cargo test -p agent-sync --release`.
//!
//! A lost wake-up shows as a deadlock: the sleeper below sleeps on loom's own condition variable.
//!
//! Loom has no time: its `Condvar::wait_timeout` never times out. So a wait with a deadline is explored up to what wakes it,
//! and a deadline that has passed before anything is waited for; one that passes during the wait is tested in
//! `group_commit` with a real clock.
#![cfg(loom)]

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake},
    time::{Duration, Instant},
};

use agent_sync::{GroupCommit, Latch, Published, Taken, Topic, Watches};
use loom::{
    sync::{
        Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

struct Sleeper {
    woken: Mutex<bool>,
    condvar: Condvar,
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap() = true;
        self.condvar.notify_one();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let sleeper = Arc::new(Sleeper { woken: Mutex::new(false), condvar: Condvar::new() });
    let waker = sleeper.clone().into();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let mut woken = sleeper.woken.lock().unwrap();
        while !*woken {
            woken = sleeper.condvar.wait(woken).unwrap();
        }
        *woken = false;
    }
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// Each sends its number.
fn two_producers(queue: &Arc<GroupCommit<i32>>) -> Vec<thread::JoinHandle<()>> {
    let produce = |n| {
        let queue = queue.clone();
        thread::spawn(move || queue.send(n).unwrap())
    };
    (0..2).map(produce).collect()
}

#[test]
fn no_item_is_lost_and_no_sleeper_forgotten() {
    explore(|| {
        let queue = Arc::new(GroupCommit::new(8, 8));
        let producers = two_producers(&queue);
        let mut out = Vec::new();
        while out.len() < 2 {
            assert_eq!(queue.take(&mut out, None), Taken::Items);
        }
        out.sort_unstable();
        assert_eq!(out, [0, 1]);
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

/// What the consensus thread does: it looks what is there, then sleeps until something is or its next timer is due.
#[test]
fn with_a_deadline_no_item_is_lost_and_no_sleeper_forgotten() {
    explore(|| {
        let queue = Arc::new(GroupCommit::new(8, 8));
        let producers = two_producers(&queue);
        let mut out = Vec::new();
        let taken = queue.try_take(&mut out);
        assert_eq!(taken, if out.is_empty() { Taken::Deadline } else { Taken::Items });
        let deadline = Instant::now() + Duration::from_secs(3600);
        while out.len() < 2 {
            assert_eq!(queue.take(&mut out, Some(deadline)), Taken::Items);
        }
        out.sort_unstable();
        assert_eq!(out, [0, 1]);
        for producer in producers {
            producer.join().unwrap();
        }
        assert_eq!(queue.try_take(&mut out), Taken::Deadline);
    });
}

#[test]
fn a_close_ends_a_wait_with_a_deadline() {
    explore(|| {
        let queue = Arc::new(GroupCommit::<()>::new(8, 8));
        let closer = {
            let queue = queue.clone();
            thread::spawn(move || queue.close())
        };
        let deadline = Instant::now() + Duration::from_secs(3600);
        assert_eq!(queue.take(&mut Vec::new(), Some(deadline)), Taken::Closed);
        closer.join().unwrap();
    });
}

#[test]
fn what_was_accepted_before_a_close_is_taken_before_the_end() {
    explore(|| {
        let queue = Arc::new(GroupCommit::new(8, 8));
        let accepted = {
            let queue = queue.clone();
            thread::spawn(move || {
                usize::from(queue.send(()).is_ok()) + usize::from(queue.push(()).is_ok())
            })
        };
        let closer = {
            let queue = queue.clone();
            thread::spawn(move || queue.close())
        };
        let mut out = Vec::new();
        while queue.take(&mut out, None) != Taken::Closed {}
        assert_eq!(accepted.join().unwrap(), out.len());
        closer.join().unwrap();
    });
}

#[test]
fn an_index_is_never_seen_before_its_state() {
    explore(|| {
        let published = Arc::new(Published::new(0, Arc::new(0_u64)));
        let publisher = {
            let published = published.clone();
            thread::spawn(move || {
                published.publish(1, Arc::new(1));
                published.publish(2, Arc::new(2));
            })
        };
        let index = published.index();
        let version = published.load();
        assert_eq!(version.index, *version.value);
        assert!(version.index >= index);
        publisher.join().unwrap();
    });
}

#[test]
fn a_wait_for_an_index_ends() {
    explore(|| {
        let published = Arc::new(Published::new(0, Arc::new(0_u64)));
        let publisher = {
            let published = published.clone();
            thread::spawn(move || {
                published.publish(1, Arc::new(1));
                published.publish(2, Arc::new(2));
            })
        };
        let version = block_on(published.wait_for(2));
        assert_eq!((version.index, *version.value), (2, 2));
        publisher.join().unwrap();
        assert_eq!(published.waiting(), 0);
    });
}

#[test]
fn a_cancelled_wait_leaves_the_count_right() {
    explore(|| {
        let published = Arc::new(Published::new(0, Arc::new(())));
        let publisher = {
            let published = published.clone();
            thread::spawn(move || published.publish(1, Arc::new(())))
        };
        {
            let mut wait = pin!(published.wait_for(1));
            let _ = wait.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
        }
        publisher.join().unwrap();
        assert_eq!(published.waiting(), 0);
    });
}

/// What a blocking query does: register, read, sleep. The state is a number that a writer raises without a lock.
fn a_query_sees_the_write(topic: Topic<'static>, wake: fn(&Watches)) {
    explore(move || {
        let (watches, state) = (Watches::new(), Arc::new(AtomicUsize::new(0)));
        let writer = {
            let (watches, state) = (watches.clone(), state.clone());
            thread::spawn(move || {
                state.store(1, Ordering::Release);
                wake(&watches);
            })
        };
        let watch = watches.register(topic);
        if state.load(Ordering::Acquire) == 0 {
            block_on(watch);
            assert_eq!(state.load(Ordering::Acquire), 1, "woken by nothing");
        } else {
            drop(watch);
        }
        writer.join().unwrap();
        assert_eq!(watches.len(), 0);
    });
}

#[test]
fn register_then_read_loses_no_wake_of_a_key() {
    a_query_sees_the_write(Topic::Key(0, b"k"), |watches| watches.wake_key(0, b"k"));
}

#[test]
fn register_then_read_loses_no_wake_of_a_prefix() {
    a_query_sees_the_write(Topic::Prefix(0, b"k"), |watches| watches.wake_key(0, b"key"));
    a_query_sees_the_write(Topic::Prefix(0, b"key"), |watches| watches.wake_prefix(0, b"k"));
    a_query_sees_the_write(Topic::Key(0, b"key"), Watches::wake_all);
}

/// A query that was woken by a change that is not enough for it watches again, from before it reads.
#[test]
fn who_watches_again_after_a_wake_misses_no_later_one() {
    explore(|| {
        let (watches, state) = (Watches::new(), Arc::new(AtomicUsize::new(0)));
        let writer = {
            let (watches, state) = (watches.clone(), state.clone());
            thread::spawn(move || {
                for index in 1..=2 {
                    state.store(index, Ordering::Release);
                    watches.wake_key(0, b"k");
                }
            })
        };
        loop {
            let watch = watches.register(Topic::Key(0, b"k"));
            if state.load(Ordering::Acquire) == 2 {
                break;
            }
            block_on(watch);
        }
        writer.join().unwrap();
        assert_eq!(watches.len(), 0);
    });
}

#[test]
fn a_cancelled_watch_takes_no_other_along() {
    explore(|| {
        let watches = Watches::new();
        let cancelled = watches.register(Topic::Key(0, b"k"));
        let waker = {
            let watches = watches.clone();
            thread::spawn(move || watches.wake_key(0, b"k"))
        };
        let other = {
            let watches = watches.clone();
            // Beside the first one, or after the wake in the very slot that the first one had.
            thread::spawn(move || watches.register(Topic::Key(0, b"k")))
        };
        drop(cancelled);
        waker.join().unwrap();
        let other = other.join().unwrap();
        assert_eq!(watches.len(), usize::from(!other.is_touched()));
        watches.wake_key(0, b"k");
        assert!(other.is_touched());
        assert_eq!(watches.len(), 0);
    });
}

#[test]
fn a_shutdown_drains_once_and_after_everybody_left() {
    explore(|| {
        let (latch, done) = (Latch::new(), Arc::new(AtomicUsize::new(0)));
        let worker = {
            let (latch, done) = (latch.clone(), done.clone());
            thread::spawn(move || {
                if let Some(inside) = latch.enter() {
                    done.fetch_add(1, Ordering::Relaxed);
                    drop(inside);
                    return 1;
                }
                0
            })
        };
        let other = {
            let latch = latch.clone();
            thread::spawn(move || latch.trip())
        };
        let first = latch.trip();
        block_on(latch.tripped());
        block_on(latch.drained());
        assert!(latch.enter().is_none());
        let done = done.load(Ordering::Relaxed);
        assert!(first ^ other.join().unwrap());
        assert_eq!(done, worker.join().unwrap(), "drained with somebody inside");
    });
}
