//! The tree that layers make when they lie on top of one another, without a mount: [`View`].

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::vec;

use rustix::io::Errno;

use crate::change::Content;
use crate::directory::{Directory, Status};
use crate::meta::Meta;
use crate::root::{FileId, MAX_LINKS, Root, RootError, components, normal};

/// Which symbolic links [`View::resolve`] follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// All of them, as `stat` does.
    All,
    /// Those in the parents of the last component, as `lstat` does.
    Parents,
}

/// Where a path leads in a view.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The path without symbolic links, relative to the root; empty for the root. What does not exist is kept.
    pub path: PathBuf,
    /// What is there; none if nothing.
    pub meta: Option<Meta>,
}

/// A read-only tree: a plain directory, or the directories of layers merged as overlayfs merges them.
///
/// Only [`View::resolve`] and [`View::read`] follow symbolic links. All other methods take a path as `resolve`
/// returns it; one that leads over a symbolic link does not exist for them.
#[derive(Clone, Debug)]
pub struct View {
    /// The lowest first.
    layers: Vec<Root>,
    form: Form,
}

/// What the directories of a view are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A tree as it is.
    Plain,
    /// Layers: a character device 0:0 hides a path, `user.overlay.opaque` the content of a directory.
    Overlay,
}

/// A merged directory: the open directories of the layers that make it up, the highest first, each with its
/// layer's number.
#[derive(Debug)]
pub(crate) struct Stack {
    directories: Vec<(usize, Directory)>,
    form: Form,
}

/// A name found in a [`Stack`].
#[derive(Debug)]
pub(crate) struct Found {
    /// What is there.
    pub(crate) status: Status,
    /// The layers whose directories of that name make up the merged one, the highest first; for anything else
    /// the one layer that has it.
    pub(crate) layers: Vec<usize>,
}

impl Stack {
    /// Finds a name as overlayfs does: the highest layer wins, directories are merged down to an opaque one, to
    /// a whiteout, or to something else of that name.
    pub(crate) fn lookup(&self, name: &OsStr) -> rustix::io::Result<Option<Found>> {
        let mut found: Option<(Found, &Directory)> = None;
        for (layer, directory) in &self.directories {
            let Some(status) = directory.status(name)? else { continue };
            let gone = self.form == Form::Overlay && status.is_whiteout();
            match &mut found {
                None if gone => return Ok(None),
                None if status.is_dir() => found = Some((Found { status, layers: vec![*layer] }, directory)),
                None => return Ok(Some(Found { status, layers: vec![*layer] })),
                Some((found, above)) => {
                    if gone || !status.is_dir() || above.open_dir(name)?.is_opaque()? {
                        break;
                    }
                    found.layers.push(*layer);
                    *above = directory;
                }
            }
        }
        Ok(found.map(|(found, _)| found))
    }

    /// Opens a directory found here.
    fn descend(&self, name: &OsStr, found: &Found) -> rustix::io::Result<Self> {
        let parts = self.directories.iter().filter(|(layer, _)| found.layers.contains(layer));
        let open = parts.map(|(layer, directory)| Ok((*layer, directory.open_dir(name)?)));
        Ok(Self { directories: open.collect::<rustix::io::Result<_>>()?, form: self.form })
    }

    /// Reads the attributes of what was found here.
    pub(crate) fn meta(&self, name: &OsStr, found: &Found) -> rustix::io::Result<Meta> {
        self.highest(found)?.meta(name, &found.status)
    }

    /// Opens a regular file found here.
    pub(crate) fn open_file(&self, name: &OsStr, found: &Found) -> rustix::io::Result<File> {
        self.highest(found)?.open_file(name)
    }

    fn highest(&self, found: &Found) -> rustix::io::Result<&Directory> {
        let mut parts = self.directories.iter();
        let highest = parts.find(|(layer, _)| found.layers.first() == Some(layer));
        highest.map(|(_, directory)| directory).ok_or(Errno::NOENT)
    }

    /// Returns the layers this directory is made of, the highest first.
    pub(crate) fn layers(&self) -> Vec<usize> {
        self.directories.iter().map(|(layer, _)| *layer).collect()
    }

    /// Returns the names that are visible, sorted by bytes.
    pub(crate) fn names(&self) -> rustix::io::Result<Vec<OsString>> {
        if let ([(_, directory)], Form::Plain) = (self.directories.as_slice(), self.form) {
            return directory.names();
        }
        let mut visible = BTreeMap::new();
        for (_, directory) in &self.directories {
            for (name, file_type) in directory.list()? {
                if let Entry::Vacant(vacant) = visible.entry(name) {
                    let gone = directory.may_be_whiteout(file_type)
                        && directory.status(vacant.key())?.is_none_or(|status| status.is_whiteout());
                    vacant.insert(!gone);
                }
            }
        }
        Ok(visible.into_iter().filter_map(|(name, visible)| visible.then_some(name)).collect())
    }
}

/// Where a path is in a view.
enum Place {
    /// It is the root.
    Root(Stack),
    /// It is a name in a directory.
    Below { parent: Stack, name: OsString, found: Found },
}

impl View {
    /// Makes the view of nothing but an empty root directory.
    pub const fn empty() -> Self {
        Self { layers: Vec::new(), form: Form::Plain }
    }

    /// Makes the view of one plain directory, where no file has a special meaning.
    pub fn directory(root: Root) -> Self {
        Self { layers: vec![root], form: Form::Plain }
    }

    /// Makes the view of layer directories, lowest first, in the form overlayfs keeps them with `userxattr`.
    pub const fn overlay(layers: Vec<Root>) -> Self {
        Self { layers, form: Form::Overlay }
    }

    /// Returns this view, which must be of layers or empty, with another layer on top.
    #[must_use]
    pub fn with_layer(&self, upper: Root) -> Self {
        let mut layers = self.layers.clone();
        layers.push(upper);
        Self::overlay(layers)
    }

    /// Reads the attributes of a path; none if it does not exist.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub fn metadata(&self, path: &Path) -> Result<Option<Meta>, RootError> {
        let meta = self.place(path).and_then(|place| match place {
            None => Ok(None),
            Some(Place::Below { parent, name, found }) => parent.meta(&name, &found).map(Some),
            Some(Place::Root(stack)) => match stack.directories.first() {
                Some((_, directory)) => directory.own_meta().map(Some),
                None => Ok(Some(Meta::default_directory())),
            },
        });
        meta.map_err(RootError::at("look at", path))
    }

    /// Finds where a path leads, below the root: absolute links and `..` are clamped there. Behind a component
    /// that does not exist or is no directory, `..` takes a component away.
    ///
    /// # Errors
    /// [`RootError::TooManyLinks`] after 40 symbolic links; a layer cannot be read.
    pub fn resolve(&self, path: &Path, follow: Follow) -> Result<Resolved, RootError> {
        let real = self.real_path(path, follow).map_err(|errno| match errno {
            Errno::LOOP => RootError::TooManyLinks { path: path.to_owned() },
            errno => RootError::at("resolve", path)(errno),
        })?;
        let meta = self.metadata(&real)?;
        Ok(Resolved { path: real, meta })
    }

    fn real_path(&self, path: &Path, follow: Follow) -> rustix::io::Result<PathBuf> {
        let mut real = PathBuf::new();
        let mut current = Some(self.root());
        let mut pending = components(path);
        let mut followed = 0;
        while let Some(name) = pending.pop() {
            match name.as_bytes() {
                b"/" => {
                    real.clear();
                    current = Some(self.root());
                }
                b".." => {
                    real.pop();
                    current = self.stack(&real)?;
                }
                _ => {
                    let found = current.as_ref().map(|stack| stack.lookup(&name)).transpose()?.flatten();
                    let last = pending.is_empty() && follow == Follow::Parents;
                    if let Some(target) = link_target(current.as_ref(), &name, found.as_ref())?
                        && !last
                    {
                        followed += 1;
                        if followed > MAX_LINKS {
                            return Err(Errno::LOOP);
                        }
                        pending.extend(components(Path::new(&target)));
                        continue;
                    }
                    current = match (current, found) {
                        (Some(stack), Some(found)) if found.status.is_dir() => {
                            Some(stack.descend(&name, &found)?)
                        }
                        _ => None,
                    };
                    real.push(name);
                }
            }
        }
        Ok(real)
    }

    /// Returns the names in a directory, sorted by bytes.
    ///
    /// # Errors
    /// The path is missing or not a directory; a layer cannot be read.
    pub fn read_dir(&self, path: &Path) -> Result<Vec<OsString>, RootError> {
        let stack = self.stack(path).and_then(|stack| stack.ok_or(Errno::NOTDIR));
        stack.and_then(|stack| stack.names()).map_err(RootError::at("read the directory", path))
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// The path is missing, is not a regular file, or may not be read.
    pub fn open(&self, path: &Path) -> Result<File, RootError> {
        let file = self.place(path).and_then(|place| match place {
            Some(Place::Below { parent, name, found }) => parent.open_file(&name, &found),
            Some(Place::Root(_)) => Err(Errno::ISDIR),
            None => Err(Errno::NOENT),
        });
        file.map_err(RootError::at("open", path))
    }

    /// Returns where the bytes of a regular file are, to be opened later.
    ///
    /// # Errors
    /// The path is missing or not a regular file; a layer cannot be read.
    pub fn content(&self, path: &Path) -> Result<Content, RootError> {
        let layer = self.place(path).and_then(|place| match place {
            Some(Place::Below { found, .. }) if found.status.is_file() => {
                found.layers.first().copied().ok_or(Errno::NOENT)
            }
            Some(_) => Err(Errno::INVAL),
            None => Err(Errno::NOENT),
        });
        let layer = layer.map_err(RootError::at("open", path))?;
        Ok(self.content_in(layer, &normal(path)))
    }

    /// Returns the bytes of a regular file that `layer` is known to have.
    fn content_in(&self, layer: usize, path: &Path) -> Content {
        match self.layers.get(layer) {
            Some(root) => Content::Path { root: root.clone(), path: path.to_owned() },
            None => Content::None,
        }
    }

    /// Reads the file a path leads to, symbolic links followed; none if there is none.
    ///
    /// # Errors
    /// The file is longer than `limit` bytes (`EFBIG`), is not a regular file, or cannot be read.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, RootError> {
        let resolved = self.resolve(path, Follow::All)?;
        if resolved.meta.is_none() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let file = self.open(&resolved.path)?;
        let count = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
        if count.map_err(RootError::at("read", path))? as u64 > limit {
            return Err(RootError::at("read", path)(Errno::FBIG));
        }
        Ok(Some(bytes))
    }

    /// Returns the identity of a path; none if it does not exist.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub fn file_id(&self, path: &Path) -> Result<Option<FileId>, RootError> {
        let id = self.place(path).and_then(|place| match place {
            None => Ok(None),
            Some(Place::Below { found, .. }) => Ok(Some(found.id())),
            Some(Place::Root(stack)) => match stack.directories.first() {
                Some((layer, directory)) => Ok(Some(FileId::new(*layer, &directory.own_status()?))),
                None => Ok(Some(FileId { layer: 0, dev: 0, ino: 0, nlink: 1 })),
            },
        });
        id.map_err(RootError::at("look at", path))
    }

    /// Visits everything below a directory, itself not included, parents first and names sorted by bytes. The
    /// visitor says whether to go into a directory. What vanishes meanwhile is left out.
    ///
    /// # Errors
    /// The path is not a directory, or a layer cannot be read; what the visitor returns.
    pub fn walk<E: From<RootError>>(
        &self,
        path: &Path,
        visit: &mut dyn FnMut(&Visit<'_>) -> Result<Descend, E>,
    ) -> Result<(), E> {
        let top = normal(path);
        let layers = match self.place(&top).map_err(RootError::at("look at", path))? {
            Some(Place::Root(stack)) => stack.layers(),
            Some(Place::Below { found, .. }) if found.status.is_dir() => found.layers,
            _ => return Err(RootError::at("read the directory", path)(Errno::NOTDIR).into()),
        };
        let mut levels = vec![self.children(&top, &layers)?];
        while let Some(level) = levels.last_mut() {
            let Some(child) = level.next() else {
                levels.pop();
                continue;
            };
            let content = match child.layers.first() {
                Some(layer) if child.meta.is_file() => self.content_in(*layer, &child.path),
                _ => Content::None,
            };
            let visited = Visit { path: &child.path, meta: &child.meta, id: child.id, content };
            if visit(&visited)? == Descend::Into && child.meta.is_dir() {
                levels.push(self.children(&child.path, &child.layers)?);
            }
        }
        Ok(())
    }

    /// Reads a whole directory, so that no descriptor stays open while what is below is visited.
    fn children(&self, path: &Path, layers: &[usize]) -> Result<vec::IntoIter<Child>, RootError> {
        let read = || {
            let stack = self.open_stack(path, layers)?;
            let mut children = Vec::new();
            for name in stack.names()? {
                let Some(found) = stack.lookup(&name)? else { continue };
                let meta = match stack.meta(&name, &found) {
                    Err(Errno::NOENT) => continue,
                    meta => meta?,
                };
                let id = found.id();
                children.push(Child { path: path.join(name), meta, id, layers: found.layers });
            }
            Ok(children.into_iter())
        };
        read().map_err(|errno: Errno| RootError::at("read the directory", path)(errno))
    }

    fn root(&self) -> Stack {
        let directories = self.layers.iter().enumerate().rev();
        let open = directories.map(|(layer, root)| (layer, root.own_directory().clone()));
        Stack { directories: open.collect(), form: self.form }
    }

    /// Opens a merged directory; none if the path is something else or does not exist.
    pub(crate) fn stack(&self, path: &Path) -> rustix::io::Result<Option<Stack>> {
        Ok(match self.place(path)? {
            Some(Place::Root(stack)) => Some(stack),
            Some(Place::Below { parent, name, found }) if found.status.is_dir() => {
                Some(parent.descend(&name, &found)?)
            }
            _ => None,
        })
    }

    /// Opens the merged directory that the directories of these layers at a path are known to make up.
    pub(crate) fn open_stack(&self, path: &Path, layers: &[usize]) -> rustix::io::Result<Stack> {
        let mut directories = Vec::with_capacity(layers.len());
        for layer in layers {
            if let Some(root) = self.layers.get(*layer) {
                directories.push((*layer, root.exact(path)?));
            }
        }
        Ok(Stack { directories, form: self.form })
    }

    fn place(&self, path: &Path) -> rustix::io::Result<Option<Place>> {
        let mut parent = self.root();
        let path = normal(path);
        let mut names = path.iter().peekable();
        while let Some(name) = names.next() {
            let Some(found) = parent.lookup(name)? else { return Ok(None) };
            if names.peek().is_none() {
                return Ok(Some(Place::Below { parent, name: name.to_owned(), found }));
            }
            if !found.status.is_dir() {
                return Ok(None);
            }
            parent = parent.descend(name, &found)?;
        }
        Ok(Some(Place::Root(parent)))
    }
}

/// Returns the target of what was found, if it is a symbolic link.
fn link_target(
    stack: Option<&Stack>,
    name: &OsStr,
    found: Option<&Found>,
) -> rustix::io::Result<Option<OsString>> {
    match (stack, found) {
        (Some(stack), Some(found)) if found.status.is_symlink() => {
            stack.highest(found)?.read_link(name).map(Some)
        }
        _ => Ok(None),
    }
}

impl Found {
    pub(crate) fn id(&self) -> FileId {
        FileId::new(self.layers.first().copied().unwrap_or(0), &self.status)
    }
}

/// One path of a directory that was read whole.
struct Child {
    path: PathBuf,
    meta: Meta,
    id: FileId,
    layers: Vec<usize>,
}

/// One path of a [`View::walk`].
#[derive(Debug)]
pub struct Visit<'a> {
    /// The path from the root of the view.
    pub path: &'a Path,
    /// Its attributes.
    pub meta: &'a Meta,
    /// Its identity, to find hard links.
    pub id: FileId,
    /// Its bytes, if it is a regular file.
    pub content: Content,
}

/// Whether [`View::walk`] goes into a directory. Means nothing for anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descend {
    /// Visit its children.
    Into,
    /// Leave them out.
    Skip,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Layers(tempfile::TempDir);

    impl Layers {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn dir(&self, path: &str) {
            std::fs::create_dir_all(self.0.path().join(path)).unwrap();
        }

        fn file(&self, path: &str) {
            self.dir(path.rsplit_once('/').unwrap().0);
            std::fs::write(self.0.path().join(path), path).unwrap();
        }

        fn link(&self, path: &str, target: &str) {
            self.dir(path.rsplit_once('/').unwrap().0);
            symlink(target, self.0.path().join(path)).unwrap();
        }

        fn root(&self, path: &str) -> Root {
            Root::open(&self.0.path().join(path)).unwrap()
        }

        fn whiteout(&self, path: &str) {
            let (parent, name) = path.rsplit_once('/').unwrap();
            self.dir(parent);
            self.root(parent).own_directory().whiteout(OsStr::new(name)).unwrap();
        }

        fn opaque(&self, path: &str) {
            self.dir(path);
            self.root(path).own_directory().set_opaque().unwrap();
        }
    }

    fn names(view: &View, path: &str) -> Vec<String> {
        let names = view.read_dir(Path::new(path)).unwrap();
        names.into_iter().map(|name| name.into_string().unwrap()).collect()
    }

    fn overlay() -> (Layers, View) {
        let layers = Layers::new();
        layers.file("0/gone/x");
        layers.file("0/merged/low");
        layers.file("0/merged/both");
        layers.file("0/hidden/low");
        layers.file("0/hidden/sub/low");
        layers.file("0/filedir/low");
        layers.file("0/dirfile");
        layers.link("0/link", "/merged");
        layers.whiteout("1/gone");
        layers.file("1/merged/both");
        layers.file("1/merged/mid");
        layers.whiteout("1/merged/low");
        layers.opaque("1/hidden");
        layers.file("1/hidden/new");
        layers.file("1/filedir");
        layers.file("1/dirfile/x");
        layers.file("2/merged/high");
        layers.file("2/hidden/high");
        layers.file("2/filedir/high");
        let view = View::overlay(vec![layers.root("0"), layers.root("1"), layers.root("2")]);
        (layers, view)
    }

    #[test]
    fn layers_merge_as_overlayfs_merges_them() {
        let (_layers, view) = overlay();
        assert_eq!(names(&view, ""), ["dirfile", "filedir", "hidden", "link", "merged"]);
        assert_eq!(names(&view, "merged"), ["both", "high", "mid"]);
        assert_eq!(names(&view, "hidden"), ["high", "new"]);
        assert_eq!(names(&view, "filedir"), ["high"]);
        assert_eq!(names(&view, "dirfile"), ["x"]);
        assert!(view.metadata(Path::new("gone")).unwrap().is_none());
        assert!(view.metadata(Path::new("gone/x")).unwrap().is_none());
        assert!(view.metadata(Path::new("merged/low")).unwrap().is_none());
        assert!(view.metadata(Path::new("hidden/sub/low")).unwrap().is_none());
        assert!(view.metadata(Path::new("link/both")).unwrap().is_none());
        assert_eq!(view.read(Path::new("/link/both"), 100).unwrap().unwrap(), b"1/merged/both");
        assert!(view.read(Path::new("/link/both"), 12).is_err());
        assert_eq!(view.file_id(Path::new("merged/both")).unwrap().unwrap().layer, 1);

        let mut walked = Vec::new();
        view.walk(Path::new(""), &mut |visit| {
            walked.push(visit.path.to_str().unwrap().to_owned());
            Ok::<_, RootError>(if visit.path == Path::new("hidden") { Descend::Skip } else { Descend::Into })
        })
        .unwrap();
        let expect = [
            "dirfile",
            "dirfile/x",
            "filedir",
            "filedir/high",
            "hidden",
            "link",
            "merged",
            "merged/both",
            "merged/high",
            "merged/mid",
        ];
        assert_eq!(walked, expect);
    }

    #[test]
    fn plain_directories_know_no_whiteouts() {
        let layers = Layers::new();
        layers.whiteout("0/w");
        layers.file("0/.wh.x");
        assert_eq!(names(&View::directory(layers.root("0")), ""), [".wh.x", "w"]);
        assert_eq!(names(&View::overlay(vec![layers.root("0")]), ""), [".wh.x"]);
        assert_eq!(names(&View::empty(), ""), [] as [&str; 0]);
        assert!(View::empty().metadata(Path::new("")).unwrap().unwrap().is_dir());
    }

    #[test]
    fn links_resolve_below_the_root() {
        let layers = Layers::new();
        layers.file("0/usr/bin/sh");
        layers.link("0/bin", "usr/bin");
        layers.link("1/abs", "/bin/sh");
        layers.link("1/up", "../../../bin");
        layers.link("1/loop", "loop");
        layers.link("1/ping", "pong");
        layers.link("1/pong", "ping/x");
        layers.link("1/dangling", "no/where");
        layers.link("1/host", "/etc");
        layers.link("1/dots", "usr/../no/../bin");
        for n in 1..=41 {
            layers.link(&format!("1/c{n}"), &format!("c{}", n - 1));
        }
        layers.file("1/c0");
        let view = View::overlay(vec![layers.root("0"), layers.root("1")]);
        let check = |path: &str, follow: Follow, expect: Option<(&str, bool)>| {
            let resolved = view.resolve(Path::new(path), follow).ok();
            let found = resolved.as_ref().map(|it| (it.path.to_str().unwrap(), it.meta.is_some()));
            assert_eq!(found, expect, "{path}");
        };
        check("/bin/sh", Follow::All, Some(("usr/bin/sh", true)));
        check("bin", Follow::Parents, Some(("bin", true)));
        check("bin/", Follow::All, Some(("usr/bin", true)));
        check("abs", Follow::All, Some(("usr/bin/sh", true)));
        check("abs", Follow::Parents, Some(("abs", true)));
        check("up/sh", Follow::Parents, Some(("usr/bin/sh", true)));
        check("dots/sh", Follow::All, Some(("usr/bin/sh", true)));
        check("loop", Follow::All, None);
        check("loop", Follow::Parents, Some(("loop", true)));
        check("ping", Follow::All, None);
        check("c40", Follow::All, Some(("c0", true)));
        check("c41", Follow::All, None);
        check("dangling/file", Follow::All, Some(("no/where/file", false)));
        check("host/passwd", Follow::All, Some(("etc/passwd", false)));
        check("a/b/../c", Follow::All, Some(("a/c", false)));
        check("a/../bin/sh", Follow::All, Some(("usr/bin/sh", true)));
        check("bin/sh/x", Follow::All, Some(("usr/bin/sh/x", false)));
        check("bin/../..", Follow::All, Some(("", true)));
        check("bin/..", Follow::All, Some(("usr", true)));
        check("", Follow::All, Some(("", true)));
        check("/", Follow::All, Some(("", true)));
    }
}
