//! Writes into an overlay upper directory: what [`crate::apply`] and [`crate::unpack`] share.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::directory::{self, Directory, Status};
use crate::meta::{Kind, Meta};
use crate::root::{Root, RootError};
use crate::view::{Follow, View};
use crate::whiteout;

/// Directories kept open. Archives name files directory by directory, so few serve.
const OPEN_DIRECTORIES: usize = 64;

/// An upper directory, or a tree without layers, that is being written.
///
/// Symbolic links in parents are followed inside the upper alone, as containerd and docker do: a file below what
/// is a symbolic link in a lower layer makes a directory in its place.
pub(crate) struct Upper<'a> {
    root: &'a Root,
    /// None for a tree, in which what is gone is removed instead of hidden.
    lower: Option<Lower<'a>>,
    /// The upper seen by itself.
    own: View,
    /// By path as asked for, before symbolic links.
    open: HashMap<Vec<u8>, Slot>,
    /// Directories by path; they get their attributes at the end, when nothing changes their times any more, and
    /// no mode keeps us out.
    directories: BTreeMap<PathBuf, Meta>,
    root_is_opaque: bool,
}

/// Gives what lies below an upper directory. It is asked only for what the upper does not say itself, so that layers can be
/// written at the same time: then it waits until those below are done.
pub type Lower<'a> = &'a dyn Fn() -> Result<View, RootError>;

/// An open directory of the upper and its path, which has no symbolic links.
#[derive(Clone)]
struct Slot {
    directory: Directory,
    path: PathBuf,
}

/// Whether a device node could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// It stands.
    Yes,
    /// The kernel lets nobody here make devices.
    Refused,
}

impl<'a> Upper<'a> {
    pub(crate) fn new(root: &'a Root, lower: Lower<'a>) -> Self {
        Self::over(root, Some(lower), View::overlay(vec![root.clone()]))
    }

    /// Writes into a tree in which nothing has a special meaning.
    pub(crate) fn tree(root: &'a Root) -> Self {
        Self::over(root, None, View::directory(root.clone()))
    }

    fn over(root: &'a Root, lower: Option<Lower<'a>>, own: View) -> Self {
        Self { root, lower, own, open: HashMap::new(), directories: BTreeMap::new(), root_is_opaque: false }
    }

    /// Makes a directory, or gives the one that stands there other attributes.
    pub(crate) fn directory(&mut self, path: &Path, meta: &Meta) -> Result<(), RootError> {
        let Some((parent, name, real)) = self.place(path)? else {
            self.directories.insert(PathBuf::new(), meta.clone());
            return Ok(());
        };
        let error = |errno: Errno| RootError::at("create the directory", &real)(errno);
        match parent.create_dir(name) {
            Err(Errno::EXIST) => {
                let there = parent.status(name).map_err(error)?;
                if !there.is_some_and(|there| there.is_dir()) {
                    parent.remove(name).map_err(error)?;
                    parent.create_dir(name).map_err(error)?;
                    self.forget(&real);
                    // what this layer replaced hid the lower layers' directory too
                    let made = parent.open_dir(name).map_err(error)?;
                    self.hide_below(&made).map_err(error)?;
                }
            }
            made => made.map_err(error)?,
        }
        self.directories.insert(real, meta.clone());
        Ok(())
    }

    /// Makes a directory that shows nothing of what is below it.
    pub(crate) fn opaque(&mut self, path: &Path) -> Result<(), RootError> {
        let slot = self.slot(path)?;
        // overlayfs merges the roots of layers always
        self.root_is_opaque |= slot.path.as_os_str().is_empty();
        self.hide_below(&slot.directory).map_err(RootError::at("make opaque", path))
    }

    /// Has a directory show nothing of what is below it.
    fn hide_below(&self, directory: &Directory) -> rustix::io::Result<()> {
        if self.lower.is_some() {
            return directory.set_opaque();
        }
        directory.names()?.iter().try_for_each(|name| directory.remove(name))
    }

    /// Makes a regular file, in place of anything there, whose bytes `fill` writes.
    pub(crate) fn file<E: From<RootError>>(
        &mut self,
        path: &Path,
        meta: &Meta,
        fill: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<(), E> {
        let (parent, name, real) = self.place_below(path)?;
        let mut file = match parent.create_file(name) {
            Err(Errno::EXIST) => {
                self.vacate(&parent, name, &real)?;
                parent.create_file(name)
            }
            made => made,
        }
        .map_err(RootError::at("create", &real))?;
        fill(&mut file)?;
        directory::set_meta(&file, meta, parent.keeping())
            .map_err(RootError::at("set the attributes of", &real))?;
        Ok(())
    }

    /// Makes a symbolic link, pipe or device, in place of anything there.
    pub(crate) fn node(&mut self, path: &Path, meta: &Meta) -> Result<Made, RootError> {
        let (parent, name, real) = self.place_below(path)?;
        let make = || match &meta.kind {
            Kind::Symlink(target) => parent.symlink(name, target),
            kind => parent.mknod(name, kind),
        };
        let made = match make() {
            Err(Errno::EXIST) => {
                self.vacate(&parent, name, &real)?;
                make()
            }
            made => made,
        };
        match made {
            Err(Errno::PERM) if matches!(meta.kind, Kind::CharDevice { .. } | Kind::BlockDevice { .. }) => {
                return Ok(Made::Refused);
            }
            made => made.map_err(RootError::at("create", &real))?,
        }
        parent.set_meta(name, meta).map_err(RootError::at("set the attributes of", &real))?;
        Ok(Made::Yes)
    }

    /// Gives a file of this layer or of one below another name, in place of anything there. The file may be
    /// anything but a directory: linkat(2) follows no symbolic link, and layers hold links to links.
    pub(crate) fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), RootError> {
        let error = |errno: Errno| RootError::at("link to", target)(errno);
        let (from, source) = self.link_source(target)?;
        let (parent, name, real) = self.place_below(path)?;
        let Err(errno) = parent.link(name, &from.directory, &source) else { return Ok(()) };
        if errno != Errno::EXIST {
            return Err(error(errno));
        }
        let identity = |status: Option<Status>| status.map(|status| (status.dev, status.ino));
        let there = identity(parent.status(name).map_err(error)?);
        if there == identity(from.directory.status(&source).map_err(error)?) {
            return Ok(());
        }
        if from.path.starts_with(&real) {
            // the target would go with what is replaced
            return Err(error(Errno::NOTDIR));
        }
        self.vacate(&parent, name, &real)?;
        parent.link(name, &from.directory, &source).map_err(error)
    }

    /// Finds the target of a hard link in the upper, or copies it up.
    fn link_source(&mut self, target: &Path) -> Result<(Slot, std::ffi::OsString), RootError> {
        let error = |errno: Errno| RootError::at("link to", target)(errno);
        let parent = target.parent().unwrap_or(Path::new(""));
        let name = target.file_name().ok_or(Errno::ISDIR).map_err(error)?;
        if let Some(slot) = self.open.get(parent.as_os_str().as_bytes()) {
            let status = slot.directory.status(name).map_err(error)?;
            if status.is_some_and(|status| !status.is_dir() && !status.is_whiteout()) {
                return Ok((slot.clone(), name.to_owned()));
            }
        }
        let mut found = self.own.resolve(target, Follow::Parents)?;
        if found.meta.is_none() {
            if let Some(lower) = self.lower {
                found = lower()?.with_layer(self.root.clone()).resolve(target, Follow::Parents)?;
            }
            match &found.meta {
                Some(meta) if !meta.is_dir() => self.copy_up(&found.path, meta)?,
                Some(_) => return Err(error(Errno::ISDIR)),
                None => return Err(error(Errno::NOENT)),
            }
        } else if found.meta.is_some_and(|meta| meta.is_dir()) {
            return Err(error(Errno::ISDIR));
        }
        let slot = self.slot(found.path.parent().unwrap_or(Path::new("")))?;
        Ok((slot, found.path.file_name().unwrap_or(name).to_owned()))
    }

    fn copy_up(&mut self, path: &Path, meta: &Meta) -> Result<(), RootError> {
        if !meta.is_file() {
            return match self.node(path, meta)? {
                Made::Yes => Ok(()),
                Made::Refused => Err(RootError::at("copy up", path)(Errno::PERM)),
            };
        }
        let content = self.lower.map(|lower| lower()?.content(path)).transpose()?;
        let mut content = content.unwrap_or_default().open()?;
        self.file(path, meta, |file| content.copy_to(file).map(drop).map_err(RootError::at("copy up", path)))
    }

    /// Hides what the lower layers have at a path. What this layer has there stays.
    pub(crate) fn whiteout(&mut self, path: &Path) -> Result<(), RootError> {
        let (parent, name, real) = self.place_below(path)?;
        if self.lower.is_none() {
            return self.vacate(&parent, name, &real);
        }
        let error = |errno: Errno| RootError::at("remove", &real)(errno);
        match parent.whiteout(name) {
            Err(Errno::EXIST) => {}
            made => return made.map_err(error),
        }
        match parent.open_dir(name) {
            Ok(directory) => directory.set_opaque().map_err(error),
            // a file hides what is below by itself
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(errno) => Err(error(errno)),
        }
    }

    /// Gives the directories their attributes.
    pub(crate) fn finish(mut self) -> Result<(), RootError> {
        if self.root_is_opaque {
            self.hide_root()?;
        }
        while let Some((path, meta)) = self.directories.pop_last() {
            let directory = self.root.exact(&path);
            directory
                .and_then(|directory| directory::set_meta(&directory, &meta, directory.keeping()))
                .map_err(RootError::at("set the attributes of", &path))?;
        }
        Ok(())
    }

    /// Has the root take the attributes it has below, unless the layer says others.
    pub(crate) fn inherit_root(&mut self) -> Result<(), RootError> {
        if !self.directories.contains_key(Path::new("")) {
            let meta = self.below(Path::new(""))?.unwrap_or_else(Meta::default_directory);
            self.directories.insert(PathBuf::new(), meta);
        }
        Ok(())
    }

    fn hide_root(&mut self) -> Result<(), RootError> {
        for name in self.lower.map_or(Ok(Vec::new()), |lower| lower()?.read_dir(Path::new("")))? {
            self.whiteout(Path::new(&name))?;
        }
        Ok(())
    }

    /// Returns the attributes a path has in the lower layers.
    fn below(&self, path: &Path) -> Result<Option<Meta>, RootError> {
        self.lower.map_or(Ok(None), |lower| lower()?.metadata(path))
    }

    /// Removes what is at a name, and forgets what was known of it.
    fn vacate(&mut self, parent: &Directory, name: &OsStr, real: &Path) -> Result<(), RootError> {
        parent.remove(name).map_err(RootError::at("replace", real))?;
        self.forget(real);
        Ok(())
    }

    /// Forgets what was known of a path and what was below it.
    fn forget(&mut self, real: &Path) {
        self.open.clear();
        let gone = self.directories.range(real.to_owned()..).map(|(path, _)| path);
        let gone: Vec<_> = gone.take_while(|path| path.starts_with(real)).cloned().collect();
        for path in gone {
            self.directories.remove(&path);
        }
    }

    /// Opens the parent of a path, made if it is missing; none for the root itself.
    fn place<'p>(&mut self, path: &'p Path) -> Result<Option<(Directory, &'p OsStr, PathBuf)>, RootError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        let slot = self.slot(parent)?;
        Ok(Some((slot.directory, name, slot.path.join(name))))
    }

    fn place_below<'p>(&mut self, path: &'p Path) -> Result<(Directory, &'p OsStr, PathBuf), RootError> {
        self.place(path)?.ok_or_else(|| RootError::NotBelow { path: path.to_owned() })
    }

    /// Opens a directory, made with its parents if it is missing.
    fn slot(&mut self, path: &Path) -> Result<Slot, RootError> {
        let mut slot = Slot { directory: self.root.own_directory().clone(), path: PathBuf::new() };
        if path.as_os_str().is_empty() {
            return Ok(slot);
        }
        let mut missing = Vec::new();
        for ancestor in path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
            if let Some(open) = self.open.get(ancestor.as_os_str().as_bytes()) {
                slot = open.clone();
                break;
            }
            missing.push(ancestor);
        }
        for ancestor in missing.into_iter().rev() {
            slot = self.step(&slot, ancestor.file_name().unwrap_or_default())?;
            if self.open.len() >= OPEN_DIRECTORIES {
                self.open.clear();
            }
            self.open.insert(ancestor.as_os_str().as_bytes().to_owned(), slot.clone());
        }
        Ok(slot)
    }

    fn step(&mut self, parent: &Slot, name: &OsStr) -> Result<Slot, RootError> {
        let path = parent.path.join(name);
        let error = |errno: Errno| RootError::at("open the directory", &path)(errno);
        match parent.directory.open_dir(name) {
            Ok(directory) => return Ok(Slot { directory, path }),
            Err(Errno::NOENT) => {
                let meta = self.below(&path)?.filter(Meta::is_dir);
                return self.make(parent, path, meta);
            }
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(error(errno)),
        }
        let there =
            parent.directory.status(name).and_then(|there| there.ok_or(Errno::NOENT)).map_err(error)?;
        if there.is_whiteout() {
            parent.directory.remove(name).map_err(error)?;
            let slot = self.make(parent, path, None)?;
            slot.directory.set_opaque().map_err(RootError::at("make opaque", &slot.path))?;
            return Ok(slot);
        }
        if !there.is_symlink() {
            return Err(error(Errno::NOTDIR));
        }
        // what is resolved leads over no symbolic link any more
        let resolved = self.own.resolve(&path, Follow::All)?;
        if resolved.path.iter().any(whiteout::is_reserved) {
            // a directory made there could not be written into a layer
            return Err(RootError::Reserved { path, target: resolved.path });
        }
        self.slot(&resolved.path)
    }

    fn make(&mut self, parent: &Slot, path: PathBuf, meta: Option<Meta>) -> Result<Slot, RootError> {
        let name = path.file_name().unwrap_or_default();
        let made = parent.directory.create_dir(name).and_then(|()| parent.directory.open_dir(name));
        let directory = made.map_err(RootError::at("create the directory", &path))?;
        self.directories.insert(path.clone(), meta.unwrap_or_else(Meta::default_directory));
        Ok(Slot { directory, path })
    }
}
