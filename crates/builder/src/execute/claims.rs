//! Work that two steps would do twice: the first to claim it does it, the other waits and finds it done.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rbuild_image::Digest;

/// What is being made in this build, by key.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    busy: Mutex<HashSet<Digest>>,
    freed: Condvar,
}

/// The right to make what some keys name. It ends when it is dropped, whether or not that was made.
#[derive(Debug)]
#[must_use = "a claim ends when it is dropped"]
pub(crate) struct Claim<'a> {
    claims: &'a Claims,
    keys: Vec<Digest>,
}

impl Claims {
    /// Waits until nobody makes any of these, and claims all of them at once.
    pub(crate) fn take(&self, keys: Vec<Digest>) -> Claim<'_> {
        let mut busy = self.lock();
        while keys.iter().any(|key| busy.contains(key)) {
            busy = self.freed.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        busy.extend(keys.iter().copied());
        drop(busy);
        Claim { claims: self, keys }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut busy = self.claims.lock();
        for key in &self.keys {
            busy.remove(key);
        }
        drop(busy);
        self.claims.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn nobody_holds_what_another_holds() {
        let claims = Claims::default();
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let [one, two, three] = [b"1", b"2", b"3"].map(|text| Digest::of(text));
        std::thread::scope(|scope| {
            for keys in [vec![one, two], vec![two, three], vec![two], vec![three, two, one]] {
                let (claims, inside, most) = (&claims, &inside, &most);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let claim = claims.take(keys.clone());
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(claim);
                    }
                });
            }
        });
        assert_eq!(most.into_inner(), 1);
        assert!(claims.lock().is_empty());
    }

    #[test]
    fn claims_of_different_things_stand_side_by_side() {
        let claims = Claims::default();
        let one = claims.take(vec![Digest::of(b"1")]);
        let other = claims.take(vec![Digest::of(b"2")]);
        assert_ne!(one.keys, other.keys);
    }
}
