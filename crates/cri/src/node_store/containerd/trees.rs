//! The layers of an image that are unpacked at the same time, for those who need to know what lies below theirs.

use std::sync::{Condvar, Mutex, PoisonError};

use rbuild_layers::Root;

/// What has come of each layer, the lowest first.
#[derive(Debug)]
pub(super) struct Trees {
    layers: Mutex<Vec<Tree>>,
    changed: Condvar,
}

/// What has come of a layer.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    /// Nothing yet.
    Awaited,
    /// It is unpacked here; the directory may be renamed.
    Unpacked(Root),
    /// containerd has its snapshot, and those of all below it.
    Known,
    /// It will not be unpacked.
    Failed,
}

/// What lies below a layer.
#[derive(Debug)]
pub(super) struct Below {
    /// How many of the lowest layers containerd has snapshots of.
    pub(super) known: usize,
    /// The layers above them, the lowest first.
    pub(super) unpacked: Vec<Root>,
}

impl Trees {
    pub(super) fn new(count: usize) -> Self {
        Self { layers: Mutex::new(vec![Tree::Awaited; count]), changed: Condvar::new() }
    }

    /// Tells what came of a layer.
    pub(super) fn put(&self, index: usize, tree: Tree) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = layers.get_mut(index) {
            *layer = tree;
        }
        drop(layers);
        self.changed.notify_all();
    }

    /// Nobody brings what is awaited.
    pub(super) fn abandon(&self) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        for layer in layers.iter_mut().filter(|layer| matches!(layer, Tree::Awaited)) {
            *layer = Tree::Failed;
        }
        drop(layers);
        self.changed.notify_all();
    }

    /// Waits for all layers below one; `None` when one of them failed.
    pub(super) fn below(&self, index: usize) -> Option<Below> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let below = layers.get(..index).unwrap_or_default();
            if below.iter().any(|tree| matches!(tree, Tree::Failed)) {
                return None;
            }
            let known = below.iter().rposition(|tree| matches!(tree, Tree::Known)).map_or(0, |last| last + 1);
            let unpacked = below.iter().skip(known).map(|tree| match tree {
                Tree::Unpacked(root) => Some(root.clone()),
                _ => None,
            });
            if let Some(unpacked) = unpacked.collect() {
                return Some(Below { known, unpacked });
            }
            layers = self.changed.wait(layers).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_above_wait_for_those_below() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let trees = Trees::new(4);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| trees.below(3).unwrap());
            trees.put(2, Tree::Unpacked(root.clone()));
            trees.put(1, Tree::Known);
            // What lies below a snapshot of containerd's need not be told.
            let below = waiting.join().unwrap();
            assert_eq!((below.known, below.unpacked.len()), (2, 1));
            assert_eq!(trees.below(0).map(|below| below.known), Some(0));
        });
    }

    #[test]
    fn nobody_waits_for_what_is_abandoned() {
        let trees = Trees::new(3);
        trees.put(0, Tree::Known);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| trees.below(2).is_none());
            trees.abandon();
            assert!(waiting.join().unwrap());
        });
        assert_eq!(trees.below(1).map(|below| below.known), Some(1));
    }
}
