//! Snapshots as private trees, for where nothing can be mounted or no file system can be an overlay's upper one.
//!
//! A stage has one tree. A step changes it in place; what changed is found by comparing a listing of before with one of
//! after. The layers themselves are kept as [`Overlay`] keeps them, so that any build can read them.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rbuild_image::{DiffId, Layer};

use super::active::{Active, ActiveTree};
use super::listing::Listing;
use super::{Overlay, SnapshotError, Snapshotter};
use crate::apply::{apply, apply_to_tree, fill_tree};
use crate::change::Changes;
use crate::changes::from_upper;
use crate::meta::Meta;
use crate::root::Root;
use crate::store::Scratch;
use crate::view::View;

/// The snapshotter that gives every stage a tree of its own.
///
/// Trees are kept, for the next step above them, until the snapshotter is dropped: removing many files makes creating
/// others slow for minutes on ext4.
#[derive(Debug)]
pub struct Plain {
    layers: Overlay,
    pool: Mutex<Vec<Pooled>>,
}

/// A tree that no step is using.
#[derive(Debug)]
struct Pooled {
    chain: Vec<DiffId>,
    tree: Tree,
}

/// A private tree on disk.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: Root,
    pub(super) scratch: Scratch,
    /// What it looked like when nothing had changed it yet.
    pub(super) listing: Listing,
}

impl Plain {
    /// Makes the snapshotter of a store; `layers` keeps the layers.
    #[must_use]
    pub const fn new(layers: Overlay) -> Self {
        Self { layers, pool: Mutex::new(Vec::new()) }
    }

    /// Takes the free tree that has most of a chain's layers.
    fn take(&self, chain: &[DiffId]) -> Option<Pooled> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = pool.iter().enumerate().filter(|(_, pooled)| chain.starts_with(&pooled.chain));
        let (at, _) = usable.max_by_key(|(_, pooled)| pooled.chain.len())?;
        Some(pool.swap_remove(at))
    }

    /// Makes a tree of a whole chain.
    fn materialise(&self, view: &View) -> Result<Tree, SnapshotError> {
        let scratch = self.layers.store().scratch()?;
        let path = scratch.path().join("fs");
        super::overlay::make_directory(&path, 0o755)?;
        let root = self.layers.store().root(&path).map_err(SnapshotError::from)?;
        fill_tree(view, &root)?;
        let listing = Listing::take(&root)?;
        Ok(Tree { root, scratch, listing })
    }

    /// Puts the layers on a tree that it lacks.
    fn advance(&self, pooled: Pooled, layers: &[Root]) -> Result<Tree, SnapshotError> {
        let mut tree = pooled.tree;
        if pooled.chain.len() == layers.len() {
            return Ok(tree);
        }
        for (index, layer) in layers.iter().enumerate().skip(pooled.chain.len()) {
            let lower = View::overlay(layers.get(..index).unwrap_or_default().to_vec());
            apply_to_tree(&from_upper(layer, &lower)?, &tree.root)?;
        }
        let view = View::overlay(layers.to_vec());
        let meta = view.metadata(Path::new(""))?.unwrap_or_else(Meta::default_directory);
        tree.root.set_meta(Path::new(""), &meta)?;
        tree.listing = Listing::take(&tree.root)?;
        Ok(tree)
    }
}

impl Snapshotter for Plain {
    fn missing(&self, chain: &[Layer]) -> Result<Vec<Layer>, SnapshotError> {
        self.layers.missing(chain)
    }

    fn view(&self, chain: &[Layer]) -> Result<View, SnapshotError> {
        self.layers.view(chain)
    }

    fn prepare(&self, chain: &[Layer]) -> Result<Active, SnapshotError> {
        let layers = self.layers.layers(chain)?;
        let tree = match self.take(&diff_ids(chain)) {
            Some(pooled) => self.advance(pooled, &layers)?,
            None => self.materialise(&View::overlay(layers.clone()))?,
        };
        tree.listing.settle();
        Ok(Active::directory(tree, layers))
    }

    fn commit(&self, active: Active, changes: &Changes, chain: &[Layer]) -> Result<(), SnapshotError> {
        let lower = active.lower_view();
        self.layers.keep(chain, &lower, |upper| Ok(apply(changes, upper, &lower)?))?;
        if let ActiveTree::Directory(tree) = active.into_tree() {
            let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
            pool.push(Pooled { chain: diff_ids(chain), tree });
        }
        Ok(())
    }
}

fn diff_ids(chain: &[Layer]) -> Vec<DiffId> {
    chain.iter().map(|layer| layer.diff_id).collect()
}

#[cfg(test)]
mod tests;
