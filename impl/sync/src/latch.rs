//! The end of an agent: nobody enters any more, those inside finish, and one of those who asked drains.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::prim::{AtomicUsize, Mutex, Ordering, lock};

const TRIPPED: usize = 1 << (usize::BITS - 1);

/// Counts who is inside, and closes once. Cloning it is cheap and gives the same one.
#[derive(Clone, Debug, Default)]
pub struct Latch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// How many are inside, and whether the latch has tripped.
    state: AtomicUsize,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    wakers: BTreeMap<u64, Waker>,
    last_id: u64,
}

impl Default for Inner {
    fn default() -> Self {
        Self { state: AtomicUsize::new(0), waiters: Mutex::new(Waiters::default()) }
    }
}

impl Inner {
    /// Wakes all who wait; each looks again at what it waits for.
    fn wake(&self) {
        let wakers = std::mem::take(&mut lock(&self.waiters).wakers);
        for waker in wakers.into_values() {
            waker.wake();
        }
    }
}

impl Latch {
    /// An open latch with nobody inside.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters; refused once the latch has tripped.
    pub fn enter(&self) -> Option<Inside> {
        let entered = self.0.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            (state & TRIPPED == 0).then_some(state + 1)
        });
        entered.ok().map(|_| Inside(self.0.clone()))
    }

    /// Closes the latch. True for one caller only: the one who drains.
    pub fn trip(&self) -> bool {
        let first = self.0.state.fetch_or(TRIPPED, Ordering::AcqRel) & TRIPPED == 0;
        if first {
            self.0.wake();
        }
        first
    }

    /// Whether it has tripped.
    pub fn is_tripped(&self) -> bool {
        self.0.state.load(Ordering::Acquire) & TRIPPED != 0
    }

    /// How many are inside.
    pub fn inside(&self) -> usize {
        self.0.state.load(Ordering::Acquire) & !TRIPPED
    }

    /// Waits until it trips.
    pub fn tripped(&self) -> Tripped {
        Tripped(Wait { latch: self.0.clone(), id: None })
    }

    /// Waits until it has tripped and nobody is inside.
    pub fn drained(&self) -> Drained {
        Drained(Wait { latch: self.0.clone(), id: None })
    }
}

/// Somebody inside; dropping it leaves.
#[derive(Debug)]
#[must_use = "dropping it leaves"]
pub struct Inside(Arc<Inner>);

impl Drop for Inside {
    fn drop(&mut self) {
        // The release makes what was done inside visible to whoever drains.
        if self.0.state.fetch_sub(1, Ordering::AcqRel) == TRIPPED | 1 {
            self.0.wake();
        }
    }
}

#[derive(Debug)]
struct Wait {
    latch: Arc<Inner>,
    /// Names the waiter, once it is among the waiters.
    id: Option<u64>,
}

impl Wait {
    /// Waits until `ready` holds of the state.
    fn poll(&mut self, cx: &mut Context<'_>, ready: impl Fn(usize) -> bool) -> Poll<()> {
        let waker = cx.waker().clone();
        // Whoever changes the state takes this lock afterwards: it finds the waker here, or this finds the change.
        let mut waiters = lock(&self.latch.waiters);
        if ready(self.latch.state.load(Ordering::Acquire)) {
            return Poll::Ready(());
        }
        let id = *self.id.get_or_insert_with(|| {
            waiters.last_id += 1;
            waiters.last_id
        });
        let before = waiters.wakers.insert(id, waker);
        drop(waiters);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let waker = lock(&self.latch.waiters).wakers.remove(&id);
            drop(waker);
        }
    }
}

/// The wait until a latch trips.
#[derive(Debug)]
#[must_use = "a future waits only when polled"]
pub struct Tripped(Wait);

impl Future for Tripped {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll(cx, |state| state & TRIPPED != 0)
    }
}

/// The wait until a latch has tripped and nobody is inside.
#[derive(Debug)]
#[must_use = "a future waits only when polled"]
pub struct Drained(Wait);

impl Future for Drained {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll(cx, |state| state == TRIPPED)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::watches::tests::Flag;

    #[test]
    fn a_tripped_latch_lets_nobody_in_and_drains_when_the_last_one_left() {
        let latch = Latch::new();
        let flag = Flag::new();
        let waker = flag.waker();
        let mut cx = Context::from_waker(&waker);
        let (mut tripped, mut drained) = (pin!(latch.tripped()), pin!(latch.drained()));
        let (first, second) = (latch.enter().unwrap(), latch.enter().unwrap());
        assert!(tripped.as_mut().poll(&mut cx).is_pending());
        assert!(drained.as_mut().poll(&mut cx).is_pending());
        drop(first);
        assert_eq!(flag.take(), 0);
        assert_eq!((latch.trip(), latch.trip(), latch.is_tripped()), (true, false, true));
        assert_eq!(flag.take(), 2);
        assert!(latch.enter().is_none());
        assert!(tripped.as_mut().poll(&mut cx).is_ready());
        assert!(drained.as_mut().poll(&mut cx).is_pending());
        assert_eq!(latch.inside(), 1);
        drop(second);
        assert_eq!(flag.take(), 1);
        assert!(drained.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn a_dropped_wait_leaves_nothing_behind() {
        let latch = Latch::new();
        for _ in 0..3 {
            let mut wait = pin!(latch.tripped());
            assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        assert!(lock(&latch.0.waiters).wakers.is_empty());
    }
}
