//! Which stage goes on next: those that wait for no other, the one with the longest way to the end first.

use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What workers take their work from: items of stages, at most one of each stage.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    ready: BinaryHeap<Ready<T>>,
    /// Items that wait, by the stage they wait for.
    waiting: BTreeMap<usize, Vec<Ready<T>>>,
    done: Vec<bool>,
    left: usize,
    stopped: bool,
}

#[derive(Debug)]
struct Ready<T> {
    rank: u64,
    stage: usize,
    item: T,
}

impl<T> Queue<T> {
    /// All stages are ready; `ranks` says, for each, how much comes after its beginning.
    pub(super) fn new(ranks: &[u64], item: impl Fn(usize) -> T) -> Self {
        let ready = |(stage, rank): (usize, &u64)| Ready { rank: *rank, stage, item: item(stage) };
        let state = State {
            ready: ranks.iter().enumerate().map(ready).collect(),
            waiting: BTreeMap::new(),
            done: vec![false; ranks.len()],
            left: ranks.len(),
            stopped: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Works until every stage is done or somebody stops.
    ///
    /// `next` advances an item a little and says what comes then. Any number of threads may work.
    pub(super) fn work(&self, next: impl Fn(usize, T) -> Next<T>) {
        let _stop = StopOnUnwind(self);
        while let Some(Ready { rank, stage, item }) = self.take() {
            let next = next(stage, item);
            let mut state = self.lock();
            match next {
                Next::Ready(item) => state.ready.push(Ready { rank, stage, item }),
                Next::Wait(item, other) if state.is_done(other) => {
                    state.ready.push(Ready { rank, stage, item });
                }
                Next::Wait(item, other) => {
                    state.waiting.entry(other).or_default().push(Ready { rank, stage, item });
                }
                Next::Done => {
                    state.finish(stage);
                }
                Next::Stop => state.stopped = true,
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The next item; none when nothing is left to do.
    fn take(&self) -> Option<Ready<T>> {
        let mut state = self.lock();
        loop {
            if state.stopped || state.left == 0 {
                return None;
            }
            if let Some(ready) = state.ready.pop() {
                return Some(ready);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What comes after a piece of work.
pub(super) enum Next<T> {
    /// More of the same stage.
    Ready(T),
    /// More of the same stage, once another is done.
    Wait(T, usize),
    /// The stage is done.
    Done,
    /// Nothing more shall begin.
    Stop,
}

impl<T> State<T> {
    fn is_done(&self, stage: usize) -> bool {
        self.done.get(stage).copied().unwrap_or_default()
    }

    fn finish(&mut self, stage: usize) {
        if let Some(done) = self.done.get_mut(stage) {
            *done = true;
        }
        self.left = self.left.saturating_sub(1);
        self.ready.extend(self.waiting.remove(&stage).into_iter().flatten());
    }
}

/// Lets the other workers end when one of them panics.
struct StopOnUnwind<'a, T>(&'a Queue<T>);

impl<T> Drop for StopOnUnwind<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().stopped = true;
            self.0.changed.notify_all();
        }
    }
}

impl<T> Ord for Ready<T> {
    /// The higher rank first, then the earlier stage.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank).then_with(|| other.stage.cmp(&self.stage))
    }
}

impl<T> PartialOrd for Ready<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Ready<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Ready<T> {}

/// How much comes after the beginning of each stage: its own work and the longest way through the stages that read it.
///
/// `work` says how much a stage is and which stages it reads; those come before it.
pub(super) fn ranks(work: &[(u64, Vec<usize>)]) -> Vec<u64> {
    let mut after = vec![0; work.len()];
    let mut ranks = vec![0; work.len()];
    for (stage, (own, reads)) in work.iter().enumerate().rev() {
        let rank = own + after.get(stage).copied().unwrap_or_default();
        ranks.get_mut(stage).into_iter().for_each(|place| *place = rank);
        for read in reads {
            after.get_mut(*read).into_iter().for_each(|after| *after = rank.max(*after));
        }
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs stages of one item each, on one thread or more, and returns them in the order they ended.
    fn order(work: &[(u64, Vec<usize>)], threads: usize) -> Vec<usize> {
        let queue = Queue::new(&ranks(work), |_| 0usize);
        let ended = Mutex::new(Vec::new());
        let next = |stage: usize, at: usize| {
            let reads = &work[stage].1;
            let Some(read) = reads.get(at) else {
                ended.lock().unwrap().push(stage);
                return Next::Done;
            };
            match ended.lock().unwrap().contains(read) {
                true => Next::Ready(at + 1),
                false => Next::Wait(at, *read),
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| queue.work(next));
            }
        });
        ended.into_inner().unwrap()
    }

    #[test]
    fn the_longest_way_goes_first() {
        assert_eq!(ranks(&[(1, vec![]), (5, vec![]), (2, vec![0]), (1, vec![1, 2])]), [4, 6, 3, 1]);
        assert_eq!(order(&[(1, vec![]), (5, vec![]), (2, vec![0]), (1, vec![1, 2])], 1), [1, 0, 2, 3]);
        assert_eq!(order(&[], 3), [] as [usize; 0]);
    }

    #[test]
    fn every_stage_comes_after_those_it_reads() {
        let work: Vec<(u64, Vec<usize>)> =
            (0..60).map(|stage| (stage as u64 % 7, (stage / 2..stage).step_by(3).collect())).collect();
        for threads in [1, 2, 8] {
            let order = order(&work, threads);
            assert_eq!(order.len(), work.len());
            for (at, stage) in order.iter().enumerate() {
                assert!(work[*stage].1.iter().all(|read| order[..at].contains(read)), "{order:?}");
            }
        }
    }

    #[test]
    fn nothing_begins_after_a_stop() {
        let queue = Queue::new(&[3, 2, 1], |stage| stage);
        let begun = Mutex::new(Vec::new());
        queue.work(|stage, _| {
            begun.lock().unwrap().push(stage);
            if stage == 1 { Next::Stop } else { Next::Done }
        });
        assert_eq!(begun.into_inner().unwrap(), [0, 1]);
    }

    #[test]
    fn a_panic_ends_all_workers() {
        let queue = Queue::new(&[2, 1], |stage| stage);
        let run = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        queue.work(|stage, item| match stage {
                            0 => panic!("on purpose"),
                            _ => Next::Wait(item, 0),
                        });
                    })
                })
                .collect();
            workers.into_iter().filter_map(|worker| worker.join().err()).count()
        });
        assert_eq!(run, 1);
    }
}
