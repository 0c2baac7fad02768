//! Stopping a running step from another thread.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;

/// A switch that kills every step it was given to; clones share it, and it stays on.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    cancelled: bool,
    wakers: Vec<Weak<OwnedFd>>,
}

impl Cancel {
    /// Makes a switch that is off.
    pub fn new() -> Self {
        Self::default()
    }

    /// Kills the steps running under this switch, and those started later at once. Idempotent, does not wait.
    pub fn cancel(&self) {
        let mut state = self.lock();
        state.cancelled = true;
        for waker in state.wakers.drain(..).filter_map(|w| w.upgrade()) {
            // An eventfd write of 1 fails only when the counter is full, and then the reader is woken already.
            let _ = rustix::io::write(&waker, &1u64.to_ne_bytes());
        }
    }

    /// Tells whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Returns a descriptor that becomes readable when the switch is turned on.
    pub(crate) fn waker(&self) -> rustix::io::Result<Arc<OwnedFd>> {
        let mut state = self.lock();
        let initial = u32::from(state.cancelled);
        let fd = Arc::new(eventfd(initial, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        state.wakers.retain(|w| w.strong_count() > 0);
        state.wakers.push(Arc::downgrade(&fd));
        Ok(fd)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
