//! Snapshots as the lower directories of an overlay mount.
//!
//! ```text
//! snapshots/<20 hex digits>/fs      one layer in overlay form (`userxattr`)
//! snapshots/<20 hex digits>/chain   the chain ID and how owners are kept
//! ```
//!
//! The name is short because overlayfs takes its directories in one page of options; the file beside the tree
//! holds the full key and is compared.

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rbuild_image::{ChainId, DiffId, Digest, Digester, Layer};

use super::{Active, SnapshotError, Snapshotter, failed};
use crate::compress::{decompress, read_ahead};
use crate::meta::Meta;
use crate::root::{Root, RootError};
use crate::store::Store;
use crate::unpack::{Limits, unpack};
use crate::view::View;

/// Archives end in zero blocks; tools pad to a record of 10 KiB, some to a megabyte.
const MAX_TRAILING: u64 = 64 << 20;

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

    fn place(&self, chain: &[Layer]) -> Result<Place, SnapshotError> {
        let diff_ids: Vec<DiffId> = chain.iter().map(|layer| layer.diff_id).collect();
        let chain_id = ChainId::of(&diff_ids).ok_or(SnapshotError::NoLayer)?;
        let key = format!("{} native\n", chain_id.0);
        let name: String = Digest::of(key.as_bytes()).hex().chars().take(20).collect();
        let path = self.store.snapshots_path().join(&name);
        Ok(Place { name, path, key })
    }

    /// Opens every snapshot of the chain, lowest first, unpacking what is missing.
    fn layers(&self, chain: &[Layer]) -> Result<Vec<Root>, SnapshotError> {
        let mut roots = Vec::with_capacity(chain.len());
        for (index, layer) in chain.iter().enumerate() {
            let place = self.place(chain.get(..=index).unwrap_or(chain))?;
            if !place.is_taken()? {
                self.unpack(layer, &View::overlay(roots.clone()), &place)?;
            }
            roots.push(Root::open(&place.tree())?);
        }
        Ok(roots)
    }

    fn unpack(&self, layer: &Layer, lower: &View, place: &Place) -> Result<(), SnapshotError> {
        // Whoever asks for the same layer meanwhile waits instead of unpacking it again.
        let _lock = self.store.lock(&place.name)?;
        if place.is_taken()? {
            return Ok(());
        }
        let scratch = self.store.scratch()?;
        let upper = make_upper(scratch.path(), lower)?;
        if let Err(error) = self.unpack_verified(layer, &upper, lower) {
            // A damaged blob fails in many ways before its end is reached; the digest is the one to name.
            self.store.verify_blob(&layer.descriptor)?;
            return Err(error);
        }
        place.take(&scratch.path().join(NEW))
    }

    fn unpack_verified(&self, layer: &Layer, upper: &Root, lower: &View) -> Result<(), SnapshotError> {
        let digest = layer.descriptor.digest;
        let blob = self.store.open_blob(&layer.descriptor)?;
        let broken = |source| SnapshotError::Decompress { digest, source };
        let plain = Hashed { reader: decompress(blob).map_err(broken)?, digester: Digester::new() };
        let (unpacked, plain) = read_ahead(plain, |plain| {
            unpack(&mut *plain, upper, lower, &self.limits)
                .map_err(|source| SnapshotError::Unpack { digest, source })?;
            io::copy(&mut plain.take(MAX_TRAILING + 1), &mut io::sink()).map_err(broken)
        });
        if unpacked? > MAX_TRAILING {
            return Err(SnapshotError::Trailing { digest, limit: MAX_TRAILING });
        }
        let actual = DiffId(plain.digester.finish());
        if actual != layer.diff_id {
            return Err(SnapshotError::DiffId { digest, expected: layer.diff_id, actual });
        }
        Ok(())
    }
}

impl Snapshotter for Overlay {
    fn missing(&self, chain: &[Layer]) -> Result<Vec<Layer>, SnapshotError> {
        let mut missing = Vec::new();
        for (index, layer) in chain.iter().enumerate() {
            if !self.place(chain.get(..=index).unwrap_or(chain))?.is_taken()? {
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
        let upper = make_upper(scratch.path(), &View::overlay(roots.clone()))?;
        Ok(Active::new(lower, upper.path().to_owned(), roots, scratch))
    }

    fn commit(&self, active: Active, chain: &[Layer]) -> Result<(), SnapshotError> {
        let place = self.place(chain)?;
        let _lock = self.store.lock(&place.name)?;
        if place.is_taken()? {
            return Ok(());
        }
        place.take(&active.scratch().path().join(NEW))
    }
}

/// The directory in a scratch directory that is going to be a snapshot. It is wrapped because renaming a
/// directory to another parent needs write permission on itself, which a root of mode 0555 does not give.
const NEW: &str = "new";
const TREE: &str = "fs";
const KEY: &str = "chain";

impl Place {
    fn tree(&self) -> PathBuf {
        self.path.join(TREE)
    }

    fn is_taken(&self) -> Result<bool, SnapshotError> {
        let path = self.path.join(KEY);
        match fs::read_to_string(&path) {
            Ok(key) if key == self.key => Ok(true),
            Ok(_) => Err(failed("use", &path)(io::Error::other("it belongs to another chain"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Gives the finished directory `new` its name.
    fn take(&self, new: &Path) -> Result<(), SnapshotError> {
        let key = new.join(KEY);
        fs::write(&key, &self.key).map_err(failed("write", &key))?;
        match fs::rename(new, &self.path) {
            // Without working locks somebody else was first: the same layer, so theirs is as good.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && self.is_taken()? => Ok(()),
            other => other.map_err(failed("rename to", &self.path)),
        }
    }
}

/// Makes the upper directory with the attributes the root has below: overlayfs shows those of the uppermost.
fn make_upper(scratch: &Path, lower: &View) -> Result<Root, SnapshotError> {
    let new = scratch.join(NEW);
    make_directory(&new, 0o700)?;
    let tree = new.join(TREE);
    make_directory(&tree, 0o755)?;
    let upper = Root::open(&tree)?;
    let meta = lower.metadata(Path::new(""))?.unwrap_or_else(Meta::default_directory);
    let denied =
        |error: &RootError| error.io().is_some_and(|io| io.kind() == io::ErrorKind::PermissionDenied);
    upper.set_meta(Path::new(""), &meta).map_err(|error| match denied(&error) {
        true => SnapshotError::Ownership(error),
        false => error.into(),
    })?;
    Ok(upper)
}

fn make_directory(path: &Path, mode: u32) -> Result<(), SnapshotError> {
    DirBuilder::new().mode(mode).create(path).map_err(failed("make directory", path))
}

/// Hashes what is read.
struct Hashed<R> {
    reader: R,
    digester: Digester,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.digester.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
