//! The inbox of a thread that handles what arrived as one group: while it works on one, the next one forms by itself.

use std::{fmt, mem, sync::PoisonError, time::Instant};

use crate::prim::{Condvar, Mutex, lock};

/// A bounded queue of many producers and one consumer, which takes all of it at once.
///
/// A producer makes a system call only where the consumer sleeps, and then only the first one does.
#[derive(Debug)]
pub struct GroupCommit<T> {
    queue: Mutex<Queue<T>>,
    arrived: Condvar,
    max_items: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Queue<T> {
    items: Vec<T>,
    bytes: usize,
    /// The consumer sleeps and nobody has woken it.
    parked: bool,
    closed: bool,
}

/// Why an item was not taken; it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// As many items or bytes as allowed are queued.
    Full(T),
    /// The queue was closed.
    Closed(T),
}

impl<T> Refused<T> {
    /// The item.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(item) | Self::Closed(item) => item,
        }
    }
}

impl<T> fmt::Display for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "queue full",
            Self::Closed(_) => "queue closed",
        })
    }
}

impl<T: fmt::Debug> std::error::Error for Refused<T> {}

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// There were items.
    Items,
    /// The deadline came first.
    Deadline,
    /// The queue is closed, and everything that was sent has been taken.
    Closed,
}

impl<T> GroupCommit<T> {
    /// An empty queue that holds at most `max_items` items and `max_bytes` bytes.
    pub fn new(max_items: usize, max_bytes: usize) -> Self {
        let queue = Queue { items: Vec::new(), bytes: 0, parked: false, closed: false };
        Self { queue: Mutex::new(queue), arrived: Condvar::new(), max_items, max_bytes }
    }

    /// Queues an item that counts for no bytes.
    pub fn send(&self, item: T) -> Result<(), Refused<T>> {
        self.put(item, 0, true)
    }

    /// Queues an item of so many bytes. An item larger than the whole bound passes through an empty queue.
    pub fn send_sized(&self, item: T, bytes: usize) -> Result<(), Refused<T>> {
        self.put(item, bytes, true)
    }

    /// Queues an item that must not be dropped, beyond the bounds too: its number is bounded by whoever sends it.
    /// Only a closed queue gives it back.
    pub fn push(&self, item: T) -> Result<(), T> {
        self.put(item, 0, false).map_err(Refused::into_inner)
    }

    fn put(&self, item: T, bytes: usize, bounded: bool) -> Result<(), Refused<T>> {
        let wake = {
            let mut queue = lock(&self.queue);
            if queue.closed {
                return Err(Refused::Closed(item));
            }
            let full = queue.items.len() >= self.max_items
                || queue.bytes.saturating_add(bytes) > self.max_bytes;
            if bounded && full && !queue.items.is_empty() {
                return Err(Refused::Full(item));
            }
            queue.items.push(item);
            queue.bytes = queue.bytes.saturating_add(bytes);
            // Whoever comes next finds the consumer already woken, even before it runs.
            mem::take(&mut queue.parked)
        };
        // Outside the lock, or the consumer would wake only to wait for it.
        if wake {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits until something is queued, the deadline or the end, and appends all that is queued to `out`. Only one
    /// thread may call it.
    ///
    /// An empty `out` is exchanged for the queue's own buffer, so two buffers serve for ever and nothing is copied.
    pub fn take(&self, out: &mut Vec<T>, deadline: Option<Instant>) -> Taken {
        let mut queue = lock(&self.queue);
        loop {
            if !queue.items.is_empty() {
                if out.is_empty() {
                    mem::swap(out, &mut queue.items);
                } else {
                    out.append(&mut queue.items);
                }
                queue.bytes = 0;
                return Taken::Items;
            }
            if queue.closed {
                return Taken::Closed;
            }
            let wait =
                match deadline.map(|deadline| deadline.checked_duration_since(Instant::now())) {
                    None => None,
                    Some(Some(wait)) if !wait.is_zero() => Some(wait),
                    Some(_) => return Taken::Deadline,
                };
            queue.parked = true;
            queue = match wait {
                None => self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(wait) => {
                    self.arrived.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
            queue.parked = false;
        }
    }

    /// Takes what is queued without waiting.
    pub fn try_take(&self, out: &mut Vec<T>) -> Taken {
        self.take(out, Some(Instant::now()))
    }

    /// Refuses items from here on. What was accepted before is still taken.
    pub fn close(&self) {
        let wake = {
            let mut queue = lock(&self.queue);
            queue.closed = true;
            mem::take(&mut queue.parked)
        };
        if wake {
            self.arrived.notify_one();
        }
    }

    /// How many items are queued.
    pub fn len(&self) -> usize {
        lock(&self.queue).items.len()
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{sync::Arc, thread, time::Duration};

    use super::*;

    #[test]
    fn a_full_queue_is_answered_and_never_grown() {
        let queue = GroupCommit::new(2, 10);
        assert_eq!(queue.send_sized(1, 6), Ok(()));
        assert_eq!(queue.send_sized(2, 5), Err(Refused::Full(2)));
        assert_eq!(queue.send_sized(3, 4), Ok(()));
        assert_eq!(queue.send(4), Err(Refused::Full(4)));
        assert_eq!(queue.push(5), Ok(()));
        let mut out = vec![];
        assert_eq!(queue.take(&mut out, None), Taken::Items);
        assert_eq!(out, [1, 3, 5]);
        assert_eq!(queue.send_sized(6, 11), Ok(()), "alone, an item of any size passes");
        assert_eq!(queue.send_sized(7, 1), Err(Refused::Full(7)));
        assert_eq!(queue.take(&mut out, None), Taken::Items);
        assert_eq!(out, [1, 3, 5, 6]);
    }

    #[test]
    fn a_deadline_ends_the_wait_and_a_close_loses_nothing() {
        let queue = GroupCommit::new(9, 9);
        let mut out = vec![];
        let deadline = Instant::now() + Duration::from_millis(5);
        assert_eq!(queue.take(&mut out, Some(deadline)), Taken::Deadline);
        assert!(Instant::now() >= deadline);
        assert_eq!(queue.send('a'), Ok(()));
        queue.close();
        assert_eq!(queue.send('b'), Err(Refused::Closed('b')));
        assert_eq!(queue.push('c'), Err('c'));
        assert_eq!(queue.try_take(&mut out), Taken::Items);
        assert_eq!(
            (out.as_slice(), queue.take(&mut out.clone(), None)),
            (&['a'][..], Taken::Closed)
        );
    }

    #[test]
    fn every_item_of_every_producer_arrives_once_and_in_its_order() {
        const EACH: u32 = 20_000;
        let queue = Arc::new(GroupCommit::new(64, usize::MAX));
        let producers: Vec<_> = (0..4)
            .map(|producer| {
                let queue = queue.clone();
                thread::spawn(move || {
                    for n in 0..EACH {
                        let mut item = (producer, n);
                        while let Err(refused) = queue.send(item) {
                            item = refused.into_inner();
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let (mut next, mut out) = ([0; 4], vec![]);
        while next.iter().sum::<u32>() < 4 * EACH {
            assert_eq!(queue.take(&mut out, None), Taken::Items);
            assert!(out.len() <= 64);
            for (producer, n) in out.drain(..) {
                assert_eq!(next[producer], n);
                next[producer] += 1;
            }
        }
        for producer in producers {
            producer.join().unwrap();
        }
        assert!(queue.is_empty());
    }
}
