//! What the primitives are made of: std's, or loom's under `cfg(loom)`.

#[cfg(not(loom))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering},
};

#[cfg(loom)]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering},
};

use std::sync::PoisonError;

/// Locks a mutex. A holder that panicked left nothing half done: no critical section here calls foreign code.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An `Arc` that readers load without waiting.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct Swap<T>(arc_swap::ArcSwap<T>);

#[cfg(not(loom))]
impl<T> Swap<T> {
    pub(crate) fn new(value: std::sync::Arc<T>) -> Self {
        Self(arc_swap::ArcSwap::new(value))
    }

    pub(crate) fn load(&self) -> std::sync::Arc<T> {
        self.0.load_full()
    }

    pub(crate) fn peek<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.0.load())
    }

    pub(crate) fn store(&self, value: std::sync::Arc<T>) {
        self.0.store(value);
    }
}

/// Stands for arc-swap under loom, which can't see into it: readers learn by an acquire load, which may be late, which
/// of the values stored so far is the current one. (A mutex around the value would order more than arc-swap does.)
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct Swap<T> {
    stored: Mutex<Vec<std::sync::Arc<T>>>,
    current: AtomicUsize,
}

#[cfg(loom)]
impl<T> Swap<T> {
    pub(crate) fn new(value: std::sync::Arc<T>) -> Self {
        Self { stored: Mutex::new(vec![value]), current: AtomicUsize::new(0) }
    }

    pub(crate) fn load(&self) -> std::sync::Arc<T> {
        let current = self.current.load(Ordering::Acquire);
        lock(&self.stored)[current].clone()
    }

    pub(crate) fn peek<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.load())
    }

    pub(crate) fn store(&self, value: std::sync::Arc<T>) {
        let current = {
            let mut stored = lock(&self.stored);
            stored.push(value);
            stored.len() - 1
        };
        self.current.store(current, Ordering::Release);
    }
}
