//! Compares what is in the store with what its names say.

use std::fs;
use std::path::{Path, PathBuf};

use rbuild_image::{Descriptor, Digest, Digester, ManifestOrIndex};

use super::gc::{Tally, entries};
use super::usage::disk_usage;
use super::{Store, StoreDirError, failed, scratch};
use crate::owner::OwnerTable;
use crate::root::{Root, RootError};
use crate::view::{Descend, View};

/// What [`Store::verify`] found.
#[derive(Debug, Default)]
pub struct Verified {
    /// The blobs that were read, and the bytes they have.
    pub blobs: Tally,
    /// The snapshots that were walked, and the disk space they take.
    pub snapshots: Tally,
    /// What is not as it should be.
    pub damages: Vec<Damage>,
}

/// Something in the store that is not what its name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl Store {
    /// Reads every blob and compares it with its digest; checks that every image of the index has its blobs, that every
    /// snapshot stands under the name of its key, and that everything in it can be looked at.
    ///
    /// The contents of a snapshot's files have no digest to be compared with: a layer has whole seconds where its tree has
    /// nanoseconds, so that the one does not follow from the other.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn verify(&self) -> Result<Verified, StoreDirError> {
        let mut found = Verified::default();
        for (path, file) in entries(&self.path().join("blobs/sha256"))? {
            if path.file_name().unwrap_or_default().as_encoded_bytes().starts_with(b".new-") {
                continue;
            }
            found.blobs.count += 1;
            found.blobs.bytes += file.len();
            if let Err(problem) = check_blob(&path) {
                found.damages.push(Damage { path, problem });
            }
        }
        for descriptor in self.layout().descriptors().map_err(Box::new)? {
            if let Err(problem) = self.check_image(&descriptor) {
                found.damages.push(Damage { path: self.path().join("index.json"), problem });
            }
        }
        for (path, _) in entries(&self.snapshots_path())? {
            found.snapshots.count += 1;
            found.snapshots.bytes += disk_usage(&path);
            if let Err(problem) = check_snapshot(&path) {
                found.damages.push(Damage { path, problem });
            }
        }
        found.damages.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(found)
    }

    /// Removes what is damaged, so that it is fetched or built again. Entries of the index stay.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn discard(&self, damages: &[Damage]) -> Result<(), StoreDirError> {
        let places = [self.path().join("blobs/sha256"), self.snapshots_path()];
        for Damage { path, .. } in damages {
            if path.parent().is_some_and(|parent| places.iter().any(|place| place == parent)) {
                scratch::remove(path).map_err(failed("remove", path))?;
            }
        }
        Ok(())
    }

    /// Follows an entry of the index to the blobs it needs.
    fn check_image(&self, root: &Descriptor) -> Result<(), String> {
        let name = root.annotations.get(rbuild_image::layout::IMAGE_NAME);
        let name = name.cloned().unwrap_or_else(|| root.digest.to_string());
        let mut pending = vec![root.clone()];
        let is_there = |digest: &Digest| match self.blob_path(digest).is_file() {
            true => Ok(()),
            false => Err(format!("the image {name} lacks the blob {digest}")),
        };
        while let Some(descriptor) = pending.pop() {
            is_there(&descriptor.digest)?;
            // not through the store, which would mark it as used
            let Ok(bytes) = self.layout().read(&descriptor) else { continue };
            match ManifestOrIndex::parse(&descriptor.media_type, bytes) {
                Err(error) => return Err(format!("the image {name} has a malformed manifest: {error}")),
                // a store may hold the image of one platform of an index
                Ok(ManifestOrIndex::Index(index)) => {
                    let there = |child: &Descriptor| self.blob_path(&child.digest).is_file();
                    pending.extend(index.into_value().manifests.into_iter().filter(there));
                }
                Ok(ManifestOrIndex::Manifest(manifest)) => {
                    let manifest = manifest.into_value();
                    manifest
                        .layers
                        .iter()
                        .chain([&manifest.config])
                        .try_for_each(|blob| is_there(&blob.digest))?;
                }
            }
        }
        Ok(())
    }
}

fn check_blob(path: &Path) -> Result<(), String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let named: Digest = format!("sha256:{name}").parse().map_err(|_| "it is no blob".to_owned())?;
    let hash = || {
        let mut digester = HashInto(Digester::new());
        std::io::copy(&mut fs::File::open(path)?, &mut digester)?;
        Ok(digester.0.finish())
    };
    let actual = hash().map_err(|error: std::io::Error| format!("it cannot be read: {error}"))?;
    if actual == named { Ok(()) } else { Err(format!("its digest is {actual}")) }
}

/// A digester as a writer.
struct HashInto(Digester);

impl std::io::Write for HashInto {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn check_snapshot(path: &Path) -> Result<(), String> {
    let key = fs::read_to_string(path.join("chain")).map_err(|error| format!("it has no key: {error}"))?;
    let end = key.find('\n').map_or(key.len(), |end| end + 1);
    let expect = Digest::of(key.get(..end).unwrap_or_default().as_bytes()).hex();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if !expect.starts_with(&*name) {
        return Err("its key belongs to another name".to_owned());
    }
    match fs::read(path.join("owners")) {
        Ok(owners) if OwnerTable::parse(&owners).is_none() => {
            return Err("its table of owners is damaged".to_owned());
        }
        _ => {}
    }
    let root = Root::open(&path.join("fs")).map_err(|error| chain(&error))?;
    let walked = View::directory(root).walk(Path::new(""), &mut |_| Ok::<_, RootError>(Descend::Into));
    walked.map_err(|error| chain(&error))
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
