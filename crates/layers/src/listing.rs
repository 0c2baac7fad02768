//! The names of one directory, looked at without resolving its path again: [`Listing`].

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::directory::{Directory, Status};
use crate::meta::{Meta, Time};
use crate::root::{FileId, Root, RootError};

/// An open directory and the names that were in it when it was opened.
#[derive(Debug)]
pub struct Listing {
    directory: Directory,
    path: PathBuf,
    names: Vec<(OsString, NameKind)>,
}

/// What moves when the bytes of a file are written, or another file takes its place.
///
/// Everybody can set the time of modification, nobody but the kernel that of the last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The device.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
    /// The length in bytes.
    pub size: u64,
    /// The time of modification.
    pub mtime: Time,
    /// The time of the last change, of bytes or attributes.
    pub ctime: Time,
}

impl Stamp {
    fn new(status: &Status) -> Self {
        let Status { dev, ino, size, mtime, ctime, .. } = *status;
        Self { dev, ino, size, mtime, ctime }
    }
}

/// What a listing tells of a name without a look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

impl Root {
    /// Lists a directory whose path has no symbolic link in it.
    ///
    /// # Errors
    /// The path is not a directory, leads over a symbolic link, or cannot be read.
    pub fn list(&self, path: &Path) -> Result<Listing, RootError> {
        let listed = self.exact(path).and_then(|directory| {
            let names = directory.list()?.into_iter();
            let names = names.map(|(name, file_type)| {
                let kind = kind(&directory, &name, file_type)?;
                Ok((name, kind))
            });
            let names = names.collect::<rustix::io::Result<_>>()?;
            Ok(Listing { directory, path: path.to_owned(), names })
        });
        listed.map_err(RootError::at("read the directory", path))
    }
}

/// Some file systems do not say in a listing what a name is.
fn kind(directory: &Directory, name: &OsStr, listed: FileType) -> rustix::io::Result<NameKind> {
    let is_dir = match listed {
        FileType::Unknown => directory.status(name)?.is_some_and(|status| status.is_dir()),
        listed => listed == FileType::Directory,
    };
    Ok(if is_dir { NameKind::Directory } else { NameKind::Other })
}

impl Listing {
    /// Returns the names, sorted by bytes.
    pub fn names(&self) -> impl Iterator<Item = (&OsStr, NameKind)> {
        self.names.iter().map(|(name, kind)| (name.as_os_str(), *kind))
    }

    /// Reads the attributes and the identity of a name; none if it is gone.
    ///
    /// # Errors
    /// The name cannot be looked at.
    pub fn metadata(&self, name: &OsStr) -> Result<Option<(Meta, FileId)>, RootError> {
        Ok(self.stamped(name)?.map(|(meta, id, _)| (meta, id)))
    }

    /// Does what [`Listing::metadata`] does, and returns the stamp of the same look.
    ///
    /// # Errors
    /// The same.
    pub fn stamped(&self, name: &OsStr) -> Result<Option<(Meta, FileId, Stamp)>, RootError> {
        let found = match self.directory.status(name) {
            Ok(Some(status)) => match self.directory.meta(name, &status) {
                Ok(meta) => Ok(Some((meta, FileId::new(0, &status), Stamp::new(&status)))),
                // it went between the two looks
                Err(Errno::NOENT) => Ok(None),
                Err(errno) => Err(errno),
            },
            Ok(None) => Ok(None),
            Err(errno) => Err(errno),
        };
        found.map_err(|errno| RootError::at("look at", &self.path.join(name))(errno))
    }

    /// Looks at a name for its stamp alone; none if it is gone.
    ///
    /// # Errors
    /// The name cannot be looked at.
    pub fn stamp(&self, name: &OsStr) -> Result<Option<Stamp>, RootError> {
        let status = self.directory.status(name).map_err(RootError::at("look at", &self.path.join(name)))?;
        Ok(status.map(|status| Stamp::new(&status)))
    }

    /// Looks at the directory itself.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn own_stamp(&self) -> Result<Stamp, RootError> {
        let status = self.directory.own_status().map_err(RootError::at("look at", &self.path))?;
        Ok(Stamp::new(&status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_sorted_and_with_what_they_are() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tree.path().join("d/b")).unwrap();
        std::fs::write(tree.path().join("d/a"), "a").unwrap();
        std::fs::hard_link(tree.path().join("d/a"), tree.path().join("d/c")).unwrap();
        std::os::unix::fs::symlink("d", tree.path().join("l")).unwrap();
        let root = Root::open(tree.path()).unwrap();
        let listing = root.list(Path::new("d")).unwrap();
        let names: Vec<_> = listing.names().collect();
        let kinds = [("a", NameKind::Other), ("b", NameKind::Directory), ("c", NameKind::Other)];
        assert_eq!(names, kinds.map(|(name, kind)| (OsStr::new(name), kind)));
        let (meta, id) = listing.metadata(OsStr::new("a")).unwrap().unwrap();
        assert_eq!((meta.size, id.nlink), (1, 2));
        assert_eq!(Some(&meta), root.metadata(Path::new("d/a")).unwrap().as_ref());
        let stamp = listing.stamp(OsStr::new("a")).unwrap().unwrap();
        assert_eq!((stamp.ino, stamp.size, stamp.mtime), (id.ino, 1, meta.mtime));
        assert!(stamp.ctime >= stamp.mtime && listing.own_stamp().unwrap().ctime >= stamp.ctime);
        assert_eq!(listing.stamped(OsStr::new("a")).unwrap(), Some((meta.clone(), id, stamp)));
        assert_eq!(listing.metadata(OsStr::new("gone")).unwrap(), None);
        assert!(root.list(Path::new("l")).is_err() && root.list(Path::new("d/a")).is_err());
    }
}
