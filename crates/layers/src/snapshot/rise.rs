//! Things of a chain made at the same time, of which each may ask for those below it.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use crate::root::RootError;

/// More at once would wait for one disk.
const MOST: usize = 8;

/// What of a chain is made already.
struct Chain<T, E> {
    made: Mutex<Vec<Option<Result<T, E>>>>,
    changed: Condvar,
    panicked: AtomicBool,
}

/// What lies below one place of a chain.
pub(super) struct Rising<'a, T> {
    wait: &'a dyn Fn() -> Option<Vec<T>>,
}

impl<T> Rising<'_, T> {
    /// Waits for everything below, lowest first.
    ///
    /// # Errors
    /// Something of it could not be made.
    pub(super) fn wait(&self) -> Result<Vec<T>, RootError> {
        let failed = || io::Error::other("a layer below it could not be unpacked");
        (self.wait)().ok_or_else(|| RootError::Io {
            operation: "read",
            path: PathBuf::new(),
            source: failed(),
        })
    }
}

/// Makes all places of a chain, several at once and the lowest first, and returns what was made, lowest first.
///
/// # Errors
/// The error of the lowest place that could not be made: those above may have failed because of it.
pub(super) fn rise<T: Clone + Send, E: Send>(
    length: usize,
    make: &(impl Fn(usize, &Rising<'_, T>) -> Result<T, E> + Sync),
) -> Result<Vec<T>, E> {
    let chain = Chain {
        made: Mutex::new((0..length).map(|_| None).collect()),
        changed: Condvar::new(),
        panicked: AtomicBool::new(false),
    };
    let next = AtomicUsize::new(0);
    let work = || {
        // whoever waits does so for places that were begun before its own
        while let Some(index) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < length) {
            let wake = WakeOnPanic(&chain);
            let made = make(index, &Rising { wait: &|| chain.below(index) });
            std::mem::forget(wake);
            chain.put(index, made);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST).min(length);
    if threads < 2 {
        work();
    } else {
        thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    }
    let made = chain.made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.into_iter().flatten().collect()
}

impl<T: Clone, E> Chain<T, E> {
    fn put(&self, index: usize, result: Result<T, E>) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = made.get_mut(index) {
            *place = Some(result);
        }
        drop(made);
        self.changed.notify_all();
    }

    /// Waits for all places below one; none when one of them failed.
    fn below(&self, index: usize) -> Option<Vec<T>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let below = made.get(..index).unwrap_or_default();
            let failed = below.iter().any(|place| matches!(place, Some(Err(_))));
            if failed || self.panicked.load(Ordering::Relaxed) {
                return None;
            }
            let done: Option<Vec<T>> =
                below.iter().map(|place| place.as_ref()?.as_ref().ok().cloned()).collect();
            if done.is_some() {
                return done;
            }
            made = self.changed.wait(made).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Lets nobody wait for what a panicking thread was to make; the panic itself goes on.
struct WakeOnPanic<'a, T, E>(&'a Chain<T, E>);

impl<T, E> Drop for WakeOnPanic<'_, T, E> {
    fn drop(&mut self) {
        let made = self.0.made.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.panicked.store(true, Ordering::Relaxed);
        drop(made);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sees_all_below_whatever_the_order() {
        let made = rise(50, &|index, below: &Rising<'_, usize>| {
            // every third waits for nobody
            if index % 3 > 0 {
                assert_eq!(below.wait().unwrap(), (0..index).collect::<Vec<_>>());
            }
            Ok::<_, ()>(index)
        });
        assert_eq!(made.unwrap(), (0..50).collect::<Vec<_>>());
        assert_eq!(rise(0, &|_, _: &Rising<'_, ()>| Err(())), Ok(Vec::new()));
    }

    #[test]
    fn the_lowest_failure_is_told() {
        let failed = rise(20, &|index, below: &Rising<'_, usize>| match index {
            7 | 3 => Err(format!("{index}")),
            _ => below.wait().map(|_| index).map_err(|error| error.to_string()),
        });
        assert_eq!(failed.unwrap_err(), "3");
    }

    #[test]
    fn a_panic_keeps_nobody_waiting() {
        let made = std::panic::catch_unwind(|| {
            rise(9, &|index, below: &Rising<'_, usize>| match index {
                0 => panic!("on purpose"),
                _ => below.wait().map(|_| index).map_err(drop),
            })
        });
        assert!(made.is_err());
    }
}
