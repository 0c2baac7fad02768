//! Snapshots as the lower directories of an overlay mount.
//!
//! ```text
//! snapshots/<20 hex digits>/fs      one layer in overlay form (`userxattr`)
//! snapshots/<20 hex digits>/owners  recorded owners of symbolic links, pipes and sockets by path, if there are any
//! snapshots/<20 hex digits>/chain   the chain ID and how owners are kept; the boot of the machine until it is synced
//! ```
//!
//! The name is short because overlayfs takes its directories in one page of options; the file beside the tree
//! holds the full key and is compared.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rbuild_image::{ChainId, DiffId, Digest, Layer};

use super::layer::unpack_layer;
use super::rise::{Rising, rise};
use super::{Active, SnapshotError, Snapshotter, failed};
use crate::change::Changes;
use crate::meta::Meta;
use crate::owner::OwnerTable;
use crate::root::Root;
use crate::store::{Scratch, Store, Trust};
use crate::unpack::Limits;
use crate::upper::Lower;
use crate::view::View;

/// The snapshotter that keeps every layer in a directory of its own.
#[derive(Clone, Debug)]
pub struct Overlay {
    store: Store,
    limits: Limits,
}

/// A place a snapshot has or would have.
struct Place {
    name: String,
    path: PathBuf,
    key: String,
}

impl Overlay {
    /// Makes the snapshotter of a store.
    #[must_use]
    pub const fn new(store: Store, limits: Limits) -> Self {
        Self { store, limits }
    }

    pub(super) const fn store(&self) -> &Store {
        &self.store
    }

    fn place(&self, chain: &[Layer]) -> Result<Place, SnapshotError> {
        let diff_ids: Vec<DiffId> = chain.iter().map(|layer| layer.diff_id).collect();
        let chain_id = ChainId::of(&diff_ids).ok_or(SnapshotError::NoLayer)?;
        let key = format!("{} {}\n", chain_id.0, self.store.abilities()?.name);
        let name: String = Digest::of(key.as_bytes()).hex().chars().take(20).collect();
        let path = self.store.snapshots_path().join(&name);
        Ok(Place { name, path, key })
    }

    /// Opens every snapshot of the chain, lowest first, unpacking what is missing.
    pub(super) fn layers(&self, chain: &[Layer]) -> Result<Vec<Root>, SnapshotError> {
        let place = |(index, _)| self.place(chain.get(..=index).unwrap_or(chain));
        let places = chain.iter().enumerate().map(place).collect::<Result<Vec<_>, _>>()?;
        let is_taken = |place: &Place| place.is_taken(&self.store);
        let build = |index: usize, below: &Rising<'_, Root>| {
            let (layer, place) = chain.get(index).zip(places.get(index)).ok_or(SnapshotError::NoLayer)?;
            if !is_taken(place)? {
                self.unpack(layer, &|| below.wait().map(View::overlay), place)?;
            }
            self.open(place)
        };
        if places.iter().map(is_taken).collect::<Result<Vec<_>, _>>()?.contains(&false) {
            return rise(chain.len(), &build);
        }
        places.iter().map(|place| self.open(place)).collect()
    }

    fn open(&self, place: &Place) -> Result<Root, SnapshotError> {
        let table = OwnerTable::default();
        let root = Root::keeping(&place.tree(), self.store.abilities()?.keeping(table.clone()))?;
        let path = place.path.join(OWNERS);
        let owners = match fs::read(&path) {
            Ok(owners) => owners,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(root),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let broken = || failed("use", &path)(io::Error::other("it is damaged"));
        for (path, owner) in OwnerTable::parse(&owners).ok_or_else(broken)? {
            root.put_link_owner(path, owner)?;
        }
        Ok(root)
    }

    fn unpack(&self, layer: &Layer, lower: Lower<'_>, place: &Place) -> Result<(), SnapshotError> {
        self.fill(place, None, |upper| {
            self.unpack_verified(layer, upper, lower).or_else(|error| {
                // A damaged blob fails in many ways before its end is reached; the digest is the one to name.
                self.store.verify_blob(&layer.descriptor)?;
                Err(error)
            })
        })
    }

    /// Keeps what `write` puts above `lower` as the snapshot of a chain, unless there is one.
    pub(super) fn keep(
        &self,
        chain: &[Layer],
        lower: &View,
        write: impl FnOnce(&Root) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        self.fill(&self.place(chain)?, Some(lower), write)
    }

    /// Has `write` fill a snapshot. Its root begins with the attributes it has in `lower`, if that is given.
    fn fill(
        &self,
        place: &Place,
        lower: Option<&View>,
        write: impl FnOnce(&Root) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        // Whoever asks for the same layer meanwhile waits instead of writing it again.
        let _lock = self.store.lock(&place.name)?;
        if place.is_taken(&self.store)? {
            return Ok(());
        }
        let scratch = self.store.scratch()?;
        let upper = self.make_upper(scratch.path(), lower, OwnerTable::default())?;
        write(&upper)?;
        place.take(&self.store, &scratch, &upper)
    }

    /// Makes the upper directory with the attributes the root has below: overlayfs shows those of the uppermost.
    fn make_upper(
        &self,
        scratch: &Path,
        lower: Option<&View>,
        table: OwnerTable,
    ) -> Result<Root, SnapshotError> {
        let new = scratch.join(NEW);
        make_directory(&new, 0o700)?;
        let tree = new.join(TREE);
        make_directory(&tree, 0o755)?;
        let upper = Root::keeping(&tree, self.store.abilities()?.keeping(table))?;
        if let Some(lower) = lower {
            let meta = lower.metadata(Path::new(""))?.unwrap_or_else(Meta::default_directory);
            upper.set_meta(Path::new(""), &meta)?;
        }
        Ok(upper)
    }

    fn unpack_verified(&self, layer: &Layer, upper: &Root, lower: Lower<'_>) -> Result<(), SnapshotError> {
        let blob = self.store.open_blob(&layer.descriptor)?;
        unpack_layer(blob, layer, (upper, lower), &self.limits)
    }
}

impl Snapshotter for Overlay {
    fn missing(&self, chain: &[Layer]) -> Result<Vec<Layer>, SnapshotError> {
        let mut missing = Vec::new();
        for (index, layer) in chain.iter().enumerate() {
            if !self.place(chain.get(..=index).unwrap_or(chain))?.is_taken(&self.store)? {
                missing.push(layer.clone());
            }
        }
        Ok(missing)
    }

    fn view(&self, chain: &[Layer]) -> Result<View, SnapshotError> {
        Ok(View::overlay(self.layers(chain)?))
    }

    fn prepare(&self, chain: &[Layer]) -> Result<Active, SnapshotError> {
        let roots = self.layers(chain)?;
        let scratch = self.store.scratch()?;
        let mut lower: Vec<PathBuf> = roots.iter().map(|root| root.path().to_owned()).collect();
        if lower.is_empty() {
            lower.push(scratch.path().join("empty"));
        }
        for directory in lower.iter().filter(|_| roots.is_empty()).chain([&scratch.path().join("work")]) {
            make_directory(directory, 0o755)?;
        }
        let table = OwnerTable::default();
        for known in roots.iter().filter_map(Root::owners) {
            table.extend(known);
        }
        let upper = self.make_upper(scratch.path(), Some(&View::overlay(roots.clone())), table)?;
        Ok(Active::overlay(lower, upper, roots, scratch))
    }

    fn commit(&self, active: Active, _changes: &Changes, chain: &[Layer]) -> Result<(), SnapshotError> {
        let place = self.place(chain)?;
        let _lock = self.store.lock(&place.name)?;
        if place.is_taken(&self.store)? {
            return Ok(());
        }
        place.take(&self.store, active.scratch(), active.root())
    }
}

/// The directory in a scratch directory that is going to be a snapshot. It is wrapped because renaming a
/// directory to another parent needs write permission on itself, which a root of mode 0555 does not give.
const NEW: &str = "new";
const TREE: &str = "fs";
const OWNERS: &str = "owners";
const KEY: &str = "chain";

impl Place {
    fn tree(&self) -> PathBuf {
        self.path.join(TREE)
    }

    /// Tells whether the snapshot is there, whole, and keeps it for as long as the store is open.
    fn is_taken(&self, store: &Store) -> Result<bool, SnapshotError> {
        let path = self.path.join(KEY);
        if store.keep(&path)?.is_none() {
            return Ok(false);
        }
        let key = fs::read(&path).map_err(failed("read", &path))?;
        Ok(store.trust(&String::from_utf8_lossy(&key), &self.key) == Trust::Complete)
    }

    /// Gives the finished directory in `scratch` its name; `upper` is the tree in it.
    fn take(&self, store: &Store, scratch: &Scratch, upper: &Root) -> Result<(), SnapshotError> {
        let new = scratch.path().join(NEW);
        let owners = upper.link_owners()?;
        if !owners.is_empty() {
            let path = new.join(OWNERS);
            fs::write(&path, owners).map_err(failed("write", &path))?;
        }
        store.count_tree(&new)?;
        store.write_key(&new.join(KEY), &self.key)?;
        let rename = || fs::rename(&new, &self.path);
        let renamed = match rename() {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                // Without working locks somebody else was first: the same layer, so theirs is as good.
                if self.is_taken(store)? {
                    return Ok(());
                }
                let lost = scratch.path().join("lost");
                fs::rename(&self.path, &lost).map_err(failed("replace", &self.path))?;
                rename()
            }
            other => other,
        };
        renamed.map_err(failed("rename to", &self.path))?;
        store.sync_later(self.path.join(KEY), &self.key);
        Ok(())
    }
}

pub(super) fn make_directory(path: &Path, mode: u32) -> Result<(), SnapshotError> {
    DirBuilder::new().mode(mode).create(path).map_err(failed("make directory", path))
}

#[cfg(test)]
mod tests;
