//! The directories of a context as they were when they were first asked for: [`Listings`].

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use rbuild_dockerfile::IgnoreFile;
use rbuild_dockerfile::ignore::ParentMatch;
use rbuild_layers::{FileId, Meta, NameKind, Root, RootError, Stamp, Time};

/// Threads that list directories ahead; more would wait for the kernel's locks on directories.
const MAX_READERS: usize = 8;

/// What of a directory an ignore file lets through, listed once and remembered.
///
/// An excluded directory is entered only if a pattern may take something below it back in. Files that are excluded are
/// not even looked at.
#[derive(Debug)]
pub(super) struct Listings {
    root: Root,
    ignore: Option<IgnoreFile>,
    known: Mutex<HashMap<PathBuf, Arc<Listed>>>,
}

/// The entries of one directory, sorted by name.
#[derive(Debug, Default)]
pub(super) struct Listed {
    entries: Vec<(Box<OsStr>, Listing)>,
}

/// One entry.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) meta: Meta,
    pub(super) id: FileId,
    /// When the inode last changed.
    pub(super) ctime: Time,
    /// Which patterns match a directory; none of anything else.
    patterns: Option<Box<ParentMatch>>,
    /// Whether it is there; found when it is asked for where that depends on what is below it.
    shown: OnceLock<bool>,
}

impl Listing {
    /// What tells whether the file has changed since.
    pub(super) fn stamp(&self) -> Stamp {
        let Self { meta, id, ctime, .. } = self;
        Stamp { dev: id.dev, ino: id.ino, size: meta.size, mtime: meta.mtime, ctime: *ctime }
    }
}

impl Listed {
    fn get(&self, name: &OsStr) -> Option<&Listing> {
        let place = self.entries.binary_search_by(|(entry, _)| (**entry).cmp(name)).ok()?;
        self.entries.get(place).map(|(_, listing)| listing)
    }
}

impl Listings {
    pub(super) fn new(root: Root, ignore: Option<IgnoreFile>) -> Self {
        Self { root, ignore, known: Mutex::default() }
    }

    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    pub(super) fn ignore(&self) -> Option<&IgnoreFile> {
        self.ignore.as_ref()
    }

    /// The names in a directory that are not hidden; none if it is none, or hidden itself.
    pub(super) fn names(&self, directory: &Path) -> Result<Vec<OsString>, RootError> {
        let mut names = Vec::new();
        for (name, listing) in &self.listed(directory)?.entries {
            if self.shows(listing, directory, name)? {
                names.push(name.to_os_string());
            }
        }
        Ok(names)
    }

    /// Takes what is wanted of an entry; none if there is no such, or it is hidden.
    pub(super) fn get<T>(
        &self,
        directory: &Path,
        name: &OsStr,
        take: impl FnOnce(&Listing) -> T,
    ) -> Result<Option<T>, RootError> {
        let listed = self.listed(directory)?;
        let Some(listing) = listed.get(name) else { return Ok(None) };
        Ok(self.shows(listing, directory, name)?.then(|| take(listing)))
    }

    /// A directory that is excluded itself shows if anything below it does.
    fn shows(&self, listing: &Listing, directory: &Path, name: &OsStr) -> Result<bool, RootError> {
        if let Some(shown) = listing.shown.get() {
            return Ok(*shown);
        }
        let path = directory.join(name);
        let mut shown = false;
        for (name, below) in &self.listed(&path)?.entries {
            shown = self.shows(below, &path, name)?;
            if shown {
                break;
            }
        }
        Ok(*listing.shown.get_or_init(|| shown))
    }

    fn listed(&self, directory: &Path) -> Result<Arc<Listed>, RootError> {
        if let Some(listed) = self.known().get(directory) {
            return Ok(Arc::clone(listed));
        }
        let listed = match (directory.parent(), directory.file_name()) {
            (Some(parent), Some(name)) => match self.listed(parent)?.get(name) {
                Some(listing) if listing.meta.is_dir() => {
                    self.list(directory, listing.patterns.as_deref())?
                }
                _ => Listed::default(),
            },
            _ => self.list(directory, None)?,
        };
        // Whoever was first is right: a build sees one state of a directory.
        Ok(Arc::clone(self.known().entry(directory.to_owned()).or_insert_with(|| Arc::new(listed))))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Arc<Listed>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(&self, directory: &Path, above: Option<&ParentMatch>) -> Result<Listed, RootError> {
        let listing = self.root.list(directory)?;
        let outermost = ParentMatch::default();
        let above = above.unwrap_or(&outermost);
        let mut text = directory.to_string_lossy().into_owned();
        if !text.is_empty() {
            text.push('/');
        }
        let start = text.len();
        let mut entries = Vec::new();
        for (name, kind) in listing.names() {
            text.truncate(start);
            text.push_str(&name.to_string_lossy());
            let Some((shown, patterns)) = self.judge(&text, kind, above) else { continue };
            if let Some((meta, id, Stamp { ctime, .. })) = listing.stamped(name)? {
                entries.push((name.into(), Listing { meta, id, ctime, patterns, shown }));
            }
        }
        entries.shrink_to_fit();
        Ok(Listed { entries })
    }

    /// Asks the patterns for an entry; none if it is hidden with everything below it.
    fn judge(
        &self,
        path: &str,
        kind: NameKind,
        above: &ParentMatch,
    ) -> Option<(OnceLock<bool>, Option<Box<ParentMatch>>)> {
        let Some(ignore) = &self.ignore else { return Some((OnceLock::from(true), None)) };
        if kind == NameKind::Other {
            let shown = !ignore.is_ignored_below(path, above);
            return shown.then(|| (OnceLock::from(true), None));
        }
        match ignore.matches(path, above) {
            (false, patterns) => Some((OnceLock::from(true), Some(Box::new(patterns)))),
            (true, _) if ignore.can_skip_dir(path) => None,
            (true, patterns) => Some((OnceLock::new(), Some(Box::new(patterns)))),
        }
    }

    /// Lists a directory and everything below it on several threads. What fails is left for whoever asks for it.
    pub(super) fn read_ahead(&self, directory: &Path) {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_READERS);
        let queue = Queue::new(directory.to_owned());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(directory) = queue.take() {
                        let listed = self.listed(&directory).unwrap_or_default();
                        let directories = listed.entries.iter().filter(|(_, listing)| listing.meta.is_dir());
                        queue.done(directories.map(|(name, _)| directory.join(&**name)));
                    }
                });
            }
        });
    }
}

/// Directories that are still to be listed.
#[derive(Debug)]
struct Queue {
    state: Mutex<Pending>,
    changed: Condvar,
}

#[derive(Debug)]
struct Pending {
    directories: Vec<PathBuf>,
    /// Directories that were taken and may still bring others.
    taken: usize,
}

impl Queue {
    fn new(first: PathBuf) -> Self {
        let state = Mutex::new(Pending { directories: vec![first], taken: 0 });
        Self { state, changed: Condvar::new() }
    }

    /// Gives the next directory; none when all are done.
    fn take(&self) -> Option<PathBuf> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(directory) = state.directories.pop() {
                state.taken += 1;
                return Some(directory);
            }
            if state.taken == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends what [`Queue::take`] began.
    fn done(&self, found: impl Iterator<Item = PathBuf>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.directories.extend(found);
        state.taken -= 1;
        self.changed.notify_all();
    }
}
