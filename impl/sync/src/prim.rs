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

/// Stands for arc-swap under loom, which can't see into it.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct Swap<T>(Mutex<std::sync::Arc<T>>);

#[cfg(loom)]
impl<T> Swap<T> {
    pub(crate) fn new(value: std::sync::Arc<T>) -> Self {
        Self(Mutex::new(value))
    }

    pub(crate) fn load(&self) -> std::sync::Arc<T> {
        lock(&self.0).clone()
    }

    pub(crate) fn peek<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&lock(&self.0))
    }

    pub(crate) fn store(&self, value: std::sync::Arc<T>) {
        *lock(&self.0) = value;
    }
}
