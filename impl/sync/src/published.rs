//! A state and the index it belongs to, published together; and the wait for an index.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::prim::{AtomicUsize, Mutex, Ordering, Swap, lock};

/// One published state.
#[derive(Debug)]
pub struct Version<T> {
    /// Everything up to this index is in `value`.
    pub index: u64,
    /// The state.
    pub value: Arc<T>,
}

/// The newest state of one publisher, for any number of readers.
///
/// Reading takes no lock. A reader that sees an index sees its state: they are one value.
#[derive(Debug)]
pub struct Published<T> {
    current: Swap<Version<T>>,
    /// How many wait; lets a publisher pass by where nobody does.
    waiting: AtomicUsize,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    /// Ordered by the index that they wait for, so that a publisher touches only those whose time has come.
    wakers: BTreeMap<(u64, u64), Waker>,
    last_id: u64,
}

impl<T> Published<T> {
    /// Starts with this state.
    pub fn new(index: u64, value: Arc<T>) -> Self {
        Self {
            current: Swap::new(Arc::new(Version { index, value })),
            waiting: AtomicUsize::new(0),
            waiters: Mutex::new(Waiters::default()),
        }
    }

    /// Replaces the state and wakes those who waited for an index up to this one. There is one publisher.
    pub fn publish(&self, index: u64, value: Arc<T>) {
        self.current.store(Arc::new(Version { index, value }));
        // A waiter raises `waiting` before it looks at the index again. This goes through the same atomic: either it
        // finds the waiter, or the waiter finds the new index. A load could miss both ways.
        if self.waiting.fetch_add(0, Ordering::AcqRel) == 0 {
            return;
        }
        let due = {
            let mut waiters = lock(&self.waiters);
            let later = match index.checked_add(1) {
                Some(next) => waiters.wakers.split_off(&(next, 0)),
                None => BTreeMap::new(),
            };
            let due = std::mem::replace(&mut waiters.wakers, later);
            self.waiting.fetch_sub(due.len(), Ordering::AcqRel);
            due
        };
        for waker in due.into_values() {
            waker.wake();
        }
    }

    /// The newest state.
    pub fn load(&self) -> Arc<Version<T>> {
        self.current.load()
    }

    /// The newest state's index.
    pub fn index(&self) -> u64 {
        self.current.peek(|version| version.index)
    }

    /// Waits until a state of `index` or later is published, and gives it.
    pub fn wait_for(&self, index: u64) -> WaitFor<'_, T> {
        WaitFor { published: self, index, id: None }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// The wait for an index; dropping it ends it.
#[derive(Debug)]
#[must_use = "a future waits only when polled"]
pub struct WaitFor<'a, T> {
    published: &'a Published<T>,
    index: u64,
    /// Names the waiter within its index, once it is among the waiters.
    id: Option<u64>,
}

impl<T> WaitFor<'_, T> {
    fn leave(&mut self) {
        if let Some(id) = self.id.take() {
            let mut waiters = lock(&self.published.waiters);
            // A publisher that took the waker has counted it off already.
            let waker = waiters.wakers.remove(&(self.index, id));
            if waker.is_some() {
                self.published.waiting.fetch_sub(1, Ordering::AcqRel);
            }
            drop(waiters);
            drop(waker);
        }
    }

    fn enter(&mut self, waker: Waker) {
        let mut waiters = lock(&self.published.waiters);
        let id = *self.id.get_or_insert_with(|| {
            waiters.last_id += 1;
            waiters.last_id
        });
        let before = waiters.wakers.insert((self.index, id), waker);
        if before.is_none() {
            self.published.waiting.fetch_add(1, Ordering::AcqRel);
        }
        drop(waiters);
        drop(before);
    }
}

impl<T> Future for WaitFor<'_, T> {
    type Output = Arc<Version<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.published.index() < self.index {
            self.enter(cx.waker().clone());
            // Look again: what was published before the waiter stood in the list woke nobody.
            if self.published.index() < self.index {
                return Poll::Pending;
            }
        }
        self.leave();
        Poll::Ready(self.published.load())
    }
}

impl<T> Drop for WaitFor<'_, T> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::watches::tests::Flag;

    #[test]
    fn a_wait_ends_when_its_index_is_published_and_not_before() {
        let published = Published::new(3, Arc::new("three"));
        let flag = Flag::new();
        let (waker, mut wait) = (flag.waker(), pin!(published.wait_for(5)));
        let mut cx = Context::from_waker(&waker);
        assert!(wait.as_mut().poll(&mut cx).is_pending());
        published.publish(4, Arc::new("four"));
        assert_eq!((flag.take(), published.waiting()), (0, 1));
        published.publish(6, Arc::new("six"));
        assert_eq!((flag.take(), published.waiting()), (1, 0));
        let Poll::Ready(version) = wait.as_mut().poll(&mut cx) else { panic!("not woken") };
        assert_eq!((version.index, *version.value), (6, "six"));
    }

    #[test]
    fn a_dropped_wait_leaves_nothing_behind() {
        let published = Published::new(0, Arc::new(()));
        let waker = Waker::noop();
        {
            let mut wait = pin!(published.wait_for(u64::MAX));
            assert!(wait.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
            assert!(wait.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
            assert_eq!(published.waiting(), 1);
        }
        assert_eq!(published.waiting(), 0);
    }
}
