//! One directory tree of the host, reached through descriptors only: [`Root`].

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use thiserror::Error;

use crate::directory::{Directory, Keeping, Status, Whiteouts};
use crate::meta::Meta;
use crate::owner::OwnerTable;

/// Why a path of a tree could not be reached or changed.
#[derive(Debug, Error)]
pub enum RootError {
    /// A system call failed.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was tried: `open`, `create`, `set the owner of` …
        operation: &'static str,
        /// The path inside the tree, or of the tree itself.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path leads over more than 40 symbolic links.
    #[error("too many symbolic links in `{}`", path.display())]
    TooManyLinks {
        /// The path that was resolved.
        path: PathBuf,
    },
    /// The path is a symbolic link to where layers keep what is gone, or to below that.
    #[error("`{}` leads to `{}`, which is the name of a whiteout", path.display(), target.display())]
    Reserved {
        /// The symbolic link.
        path: PathBuf,
        /// What it leads to.
        target: PathBuf,
    },
    /// The path cannot name an entry of a tree.
    #[error("`{}` is not a path below the root", path.display())]
    NotBelow {
        /// The path as given.
        path: PathBuf,
    },
}

impl RootError {
    /// Returns the conversion of what the kernel said of `path`, for `map_err`.
    pub(crate) fn at<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source: source.into() }
    }

    /// Returns what the kernel said, if it was asked.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::TooManyLinks { .. } | Self::Reserved { .. } | Self::NotBelow { .. } => None,
        }
    }
}

/// What tells one file from another, and how many names it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// The layer of a view, counted from the lowest; 0 for a [`Root`].
    pub layer: usize,
    /// The device.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
    /// The number of names.
    pub nlink: u64,
}

/// A directory of the host whose contents are named by paths that cannot lead out of it.
///
/// Paths are relative to it (a leading `/` means the root itself, `..` is clamped there). Symbolic links in the
/// parents of a path are followed below the root; the last component is never followed. Cloning is cheap and
/// gives the same directory.
#[derive(Clone, Debug)]
pub struct Root(Arc<Opened>);

/// One pointer for all clones: every file of a large tree names its root.
#[derive(Clone, Debug)]
struct Opened {
    directory: Directory,
    path: PathBuf,
    lookup: Lookup,
}

/// How paths are resolved below a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lookup {
    /// By openat2(2), in the kernel.
    Kernel,
    /// Component by component, where openat2(2) is missing (before Linux 5.6) or a seccomp filter refuses it.
    Walk,
}

/// What a lookup does with symbolic links in the parents of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Links {
    /// Follows them below the root.
    Follow,
    /// Refuses them with `ELOOP`.
    Refuse,
}

/// Symbolic links one path may lead over, as in the kernel (`MAXSYMLINKS`).
pub(crate) const MAX_LINKS: usize = 40;

/// Brings a path into normal form: relative, without `.` and empty components, `..` clamped at the root.
pub(crate) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => drop(normal.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    normal
}

impl Root {
    /// Opens the directory at a path of the host. `path` itself may be a symbolic link.
    ///
    /// # Errors
    /// The path is missing or not a directory.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        Self::keeping(path, Keeping::default())
    }

    /// Opens the directory of a layer that overlayfs will mount without `userxattr`, as container runtimes of root do. Directories
    /// that hide what is below them are marked, and recognised, by `trusted.overlay.opaque`.
    ///
    /// # Errors
    /// The path is missing or not a directory.
    pub fn trusted(path: &Path) -> Result<Self, RootError> {
        Self::keeping(path, Keeping { owners: None, whiteouts: Whiteouts::Trusted })
    }

    /// Opens a directory whose files all belong to this process, and their owners are in records beside them: what
    /// cannot be set is recorded, and what is recorded is reported. See [`crate::owner`].
    ///
    /// # Errors
    /// The path is missing or not a directory.
    pub fn recorded(path: &Path, table: OwnerTable) -> Result<Self, RootError> {
        Self::keeping(path, Keeping { owners: Some(table), ..Keeping::default() })
    }

    pub(crate) fn keeping(path: &Path, keeping: Keeping) -> Result<Self, RootError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(RootError::at("open", path))?;
        let lookup = match openat2(&fd, Path::new("."), Links::Refuse) {
            Err(Errno::NOSYS | Errno::PERM) => Lookup::Walk,
            _ => Lookup::Kernel,
        };
        Ok(Self(Arc::new(Opened { directory: Directory::new(fd, keeping), path: path.to_owned(), lookup })))
    }

    /// Returns the path of the host it was opened with; for messages and mount options, never to be joined.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Reads the attributes of a path; none if it does not exist.
    ///
    /// # Errors
    /// The path cannot be looked at.
    pub fn metadata(&self, path: &Path) -> Result<Option<Meta>, RootError> {
        let error = RootError::at("look at", path);
        match self.locate(path) {
            Ok(Some((parent, name))) => match parent.status(&name) {
                Ok(Some(status)) => parent.meta(&name, &status).map(Some).map_err(error),
                Ok(None) => Ok(None),
                Err(errno) => Err(error(errno)),
            },
            Ok(None) => self.0.directory.own_meta().map(Some).map_err(error),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(error(errno)),
        }
    }

    /// Returns the identity of a path; none if it does not exist.
    ///
    /// # Errors
    /// The path cannot be looked at.
    pub fn identity(&self, path: &Path) -> Result<Option<FileId>, RootError> {
        let status = match self.locate(path) {
            Ok(Some((parent, name))) => parent.status(&name),
            Ok(None) => self.0.directory.own_status().map(Some),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno),
        };
        let status = status.map_err(RootError::at("look at", path))?;
        Ok(status.map(|status| FileId::new(0, &status)))
    }

    /// Returns the names in a directory, sorted by bytes.
    ///
    /// # Errors
    /// The path is not a directory or cannot be read.
    pub fn read_dir(&self, path: &Path) -> Result<Vec<OsString>, RootError> {
        let names = match self.locate(path) {
            Ok(Some((parent, name))) => parent.open_dir(&name).and_then(|directory| directory.names()),
            Ok(None) => self.0.directory.names(),
            Err(errno) => Err(errno),
        };
        names.map_err(RootError::at("read the directory", path))
    }

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// The path is not a symbolic link.
    pub fn read_link(&self, path: &Path) -> Result<OsString, RootError> {
        self.on("read the link", path, |parent, name| parent.read_link(name))
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// The path is missing, is not a regular file, or may not be read.
    pub fn open_file(&self, path: &Path) -> Result<File, RootError> {
        self.on("open", path, |parent, name| parent.open_file(name))
    }

    /// Makes a directory with mode `0700`; the parent must exist.
    ///
    /// # Errors
    /// The path exists or the file system refuses.
    pub fn create_dir(&self, path: &Path) -> Result<(), RootError> {
        self.on("create the directory", path, |parent, name| parent.create_dir(name))
    }

    /// Makes an empty regular file with mode `0600`, open for writing.
    ///
    /// # Errors
    /// The path exists or the file system refuses.
    pub fn create_file(&self, path: &Path) -> Result<File, RootError> {
        self.on("create", path, |parent, name| parent.create_file(name))
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// The path exists or the file system refuses.
    pub fn symlink(&self, path: &Path, target: &Path) -> Result<(), RootError> {
        self.on("create the link", path, |parent, name| parent.symlink(name, target.as_os_str()))
    }

    /// Gives the existing file `target` (no directory) the further name `path`.
    ///
    /// # Errors
    /// `path` exists, `target` does not, or the file system refuses.
    pub fn hard_link(&self, path: &Path, target: &Path) -> Result<(), RootError> {
        let (from, source) = self
            .locate(target)
            .and_then(|found| found.ok_or(Errno::ISDIR))
            .map_err(RootError::at("link to", target))?;
        self.on("create the link", path, |parent, name| parent.link(name, &from, &source))
    }

    /// Makes the device, pipe or socket that `meta.kind` names, and sets its attributes.
    ///
    /// # Errors
    /// The path exists, the kind is another one, or the kernel refuses (`EPERM`).
    pub fn mknod(&self, path: &Path, meta: &Meta) -> Result<(), RootError> {
        self.on("create the node", path, |parent, name| {
            parent.mknod(name, &meta.kind)?;
            parent.set_meta(name, meta)
        })
    }

    /// Removes a path and everything below it; one that does not exist is no error.
    ///
    /// # Errors
    /// The file system refuses; the root itself cannot be removed.
    pub fn remove(&self, path: &Path) -> Result<(), RootError> {
        match self.locate(path) {
            Ok(Some((parent, name))) => parent.remove(&name),
            Ok(None) => Err(Errno::BUSY),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(errno) => Err(errno),
        }
        .map_err(RootError::at("remove", path))
    }

    /// Sets owner, mode, extended attributes and time of an existing path, in this order. The kind and the size
    /// are not looked at, extended attributes that `meta` does not name stay.
    ///
    /// # Errors
    /// The path is missing or the kernel refuses.
    pub fn set_meta(&self, path: &Path, meta: &Meta) -> Result<(), RootError> {
        match self.locate(path) {
            Ok(Some((parent, name))) => parent.set_meta(&name, meta),
            Ok(None) => crate::directory::set_meta(&self.0.directory, meta, self.0.directory.keeping()),
            Err(errno) => Err(errno),
        }
        .map_err(RootError::at("set the attributes of", path))
    }

    /// Returns where the owners of links, pipes and sockets are recorded; none where files have their owners.
    pub fn owners(&self) -> Option<&OwnerTable> {
        self.0.directory.keeping().owners.as_ref()
    }

    /// Lists the owners that the table records of the files below, by path.
    pub(crate) fn link_owners(&self) -> Result<Vec<u8>, RootError> {
        let list = |table: &OwnerTable| table.by_path(&self.0.directory);
        self.owners().map_or(Ok(Vec::new()), list).map_err(RootError::at("list the owners in", &self.0.path))
    }

    /// Records the owner of the symbolic link, pipe or socket at a path, if it is one.
    pub(crate) fn put_link_owner(&self, path: &Path, owner: (u32, u32)) -> Result<(), RootError> {
        let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        let put = || {
            let parent = self.exact(parent)?;
            let is_special = parent.status(name)?.is_some_and(|status| !status.carries_xattrs());
            if is_special { parent.adopt(name, owner) } else { Ok(()) }
        };
        put().map_err(RootError::at("record the owner of", path))
    }

    /// Returns the directory itself, open.
    pub(crate) fn own_directory(&self) -> &Directory {
        &self.0.directory
    }

    /// Tells whether both are clones of one root.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Opens the directory at a path in which no component is a symbolic link.
    pub(crate) fn exact(&self, path: &Path) -> rustix::io::Result<Directory> {
        self.open_dir(path, Links::Refuse)
    }

    fn on<T>(
        &self,
        operation: &'static str,
        path: &Path,
        act: impl FnOnce(&Directory, &OsStr) -> rustix::io::Result<T>,
    ) -> Result<T, RootError> {
        let found = self.locate(path).and_then(|found| found.ok_or(Errno::ISDIR));
        found.and_then(|(parent, name)| act(&parent, &name)).map_err(RootError::at(operation, path))
    }

    /// Opens the parent directory of a path and returns it with the last component; none for the root itself.
    fn locate(&self, path: &Path) -> rustix::io::Result<Option<(Directory, OsString)>> {
        let mut parent = path.components();
        loop {
            match parent.next_back() {
                Some(Component::Normal(name)) => {
                    let directory = self.open_dir(parent.as_path(), Links::Follow)?;
                    return Ok(Some((directory, name.to_owned())));
                }
                Some(Component::CurDir) => {}
                Some(Component::RootDir | Component::Prefix(_)) | None => return Ok(None),
                // the last component of a path that ends so is only known once its parents are
                Some(Component::ParentDir) => return self.locate_lexically(path),
            }
        }
    }

    fn locate_lexically(&self, path: &Path) -> rustix::io::Result<Option<(Directory, OsString)>> {
        let path = normal(path);
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok(Some((self.open_dir(parent, Links::Follow)?, name.to_owned()))),
            _ => Ok(None),
        }
    }

    fn open_dir(&self, path: &Path, links: Links) -> rustix::io::Result<Directory> {
        if path.as_os_str().is_empty() {
            return Ok(self.0.directory.clone());
        }
        match self.0.lookup {
            Lookup::Kernel => match openat2(&self.0.directory, path, links) {
                Ok(fd) => Directory::enter(fd, self.0.directory.keeping().clone()),
                // a directory on the way may be closed to us by its mode
                Err(Errno::ACCESS) if self.0.directory.keeping().owners.is_some() => self.walk(path, links),
                Err(errno) => Err(errno),
            },
            Lookup::Walk => self.walk(path, links),
        }
    }

    /// Does what [`openat2`] does, one component at a time, holding the directory of every component so that
    /// `..` needs no lookup.
    fn walk(&self, path: &Path, links: Links) -> rustix::io::Result<Directory> {
        let mut open = Vec::new();
        let mut pending = components(path);
        let mut followed = 0;
        while let Some(name) = pending.pop() {
            let current = open.last().unwrap_or(&self.0.directory);
            match name.as_bytes() {
                b"/" => open.clear(),
                b".." if links == Links::Refuse => return Err(Errno::XDEV),
                b".." => drop(open.pop()),
                _ => match current.open_dir(&name) {
                    Ok(child) => open.push(child),
                    Err(Errno::NOTDIR | Errno::LOOP) if links == Links::Follow => {
                        let link = current.status(&name)?.ok_or(Errno::NOENT)?;
                        if !link.is_symlink() {
                            return Err(Errno::NOTDIR);
                        }
                        followed += 1;
                        if followed > MAX_LINKS {
                            return Err(Errno::LOOP);
                        }
                        pending.extend(components(Path::new(&current.read_link(&name)?)));
                    }
                    Err(errno) => return Err(errno),
                },
            }
        }
        Ok(open.pop().unwrap_or_else(|| self.0.directory.clone()))
    }
}

/// Returns the components of a path, last first, `.` left out.
pub(crate) fn components(path: &Path) -> Vec<OsString> {
    let components = path.components().rev().filter(|component| *component != Component::CurDir);
    components.map(|component| component.as_os_str().to_owned()).collect()
}

/// Opens a directory below another.
///
/// # References
/// openat2(2): `EAGAIN` means that something was renamed meanwhile and that the call is to be repeated.
fn openat2(
    root: impl std::os::fd::AsFd,
    path: &Path,
    links: Links,
) -> rustix::io::Result<rustix::fd::OwnedFd> {
    let resolve = match links {
        Links::Follow => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        Links::Refuse => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let flags = if links == Links::Follow { flags.difference(OFlags::NOFOLLOW) } else { flags };
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < 128 => tries += 1,
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

impl FileId {
    pub(crate) fn new(layer: usize, status: &Status) -> Self {
        Self { layer, dev: status.dev, ino: status.ino, nlink: status.nlink }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{Kind, Time};
    use std::os::unix::fs::symlink;

    fn roots(path: &Path) -> [Root; 2] {
        let root = Root::open(path).unwrap();
        let walking = Root(Arc::new(Opened { lookup: Lookup::Walk, ..Opened::clone(&root.0) }));
        [root, walking]
    }

    #[test]
    fn paths_do_not_lead_out() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "out").unwrap();
        let tree = outside.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::write(tree.join("secret"), "in").unwrap();
        std::fs::write(tree.join("a/f"), "f").unwrap();
        symlink("/", tree.join("a/abs")).unwrap();
        symlink("../../../..", tree.join("a/up")).unwrap();
        symlink("loop", tree.join("loop")).unwrap();
        symlink("/a/b/..", tree.join("ab")).unwrap();
        symlink(outside.path(), tree.join("host")).unwrap();
        symlink("/proc/self/root", tree.join("magic")).unwrap();

        for root in roots(&tree) {
            let check = |path: &str, expect: Option<&str>| {
                let read =
                    root.open_file(Path::new(path)).ok().map(|file| std::io::read_to_string(file).unwrap());
                assert_eq!(read.as_deref(), expect, "{path} by {:?}", root.0.lookup);
            };
            check("secret", Some("in"));
            check("/secret", Some("in"));
            check("../secret", Some("in"));
            check("a/../../secret", Some("in"));
            check("a/abs/secret", Some("in"));
            check("a/up/secret", Some("in"));
            check("ab/f", Some("f"));
            check("a/./b/../f", Some("f"));
            check("host/secret", None);
            check("magic/secret", None);
            check("loop/secret", None);
            check("loop", None);
            check("secret/x", None);
            check("a", None);
            check("", None);
            check("/", None);
        }
    }

    #[test]
    fn exact_paths_refuse_links() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tree.path().join("a/b")).unwrap();
        symlink("a", tree.path().join("l")).unwrap();
        for root in roots(tree.path()) {
            assert!(root.exact(Path::new("a/b")).is_ok());
            assert!(root.exact(Path::new("l/b")).is_err());
            assert!(root.exact(Path::new("l")).is_err());
            assert!(root.exact(Path::new("a/../..")).is_err());
        }
    }

    #[test]
    fn what_is_set_is_read_back() {
        let tree = tempfile::tempdir().unwrap();
        let root = Root::open(tree.path()).unwrap();
        let (dir, file, link) = (Path::new("d"), Path::new("d/f"), Path::new("d/l"));
        root.create_dir(dir).unwrap();
        drop(root.create_file(file).unwrap());
        root.symlink(link, Path::new("a//b")).unwrap();
        root.hard_link(Path::new("d/h"), link).unwrap();
        root.mknod(Path::new("d/p"), &Meta::new(Kind::Fifo, 0o622)).unwrap();
        let own = root.metadata(Path::new("")).unwrap().unwrap();
        let attributes = |kind, mode| Meta {
            uid: own.uid,
            gid: own.gid,
            mtime: Time { seconds: -2, nanos: 500 },
            ..Meta::new(kind, mode)
        };
        for (path, meta) in [
            (file, attributes(Kind::File, 0o4711)),
            (link, attributes(Kind::Symlink("a//b".into()), 0o777)),
            (Path::new("d/p"), attributes(Kind::Fifo, 0o602)),
            (dir, attributes(Kind::Directory, 0o1500)),
        ] {
            root.set_meta(path, &meta).unwrap();
            assert_eq!(root.metadata(path).unwrap(), Some(meta), "{}", path.display());
        }
        assert_eq!(root.identity(link).unwrap().unwrap().nlink, 2);
        assert_eq!(root.read_dir(dir).unwrap(), ["f", "h", "l", "p"]);
        root.remove(dir).unwrap();
        root.remove(dir).unwrap();
        assert_eq!(root.metadata(dir).unwrap(), None);
        assert!(root.remove(Path::new("/")).is_err());
    }

    #[test]
    fn pipes_do_not_block() {
        let tree = tempfile::tempdir().unwrap();
        let root = Root::open(tree.path()).unwrap();
        root.mknod(Path::new("p"), &Meta::new(Kind::Fifo, 0o600)).unwrap();
        assert!(root.open_file(Path::new("p")).is_err());
    }
}
