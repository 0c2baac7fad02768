//! What a build reads from elsewhere: files of the web and git repositories, each fetched once.

use std::collections::BTreeMap;
use std::fs::{File, FileTimes, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rbuild_image::Digest;
use rbuild_layers::store::StoreDirError;
use rbuild_layers::{Scratch, Store, Time};
use rbuild_registry::{Client, WebFile};
use rbuild_sandbox::{Cancel, Secret};
use thiserror::Error;

use super::error::Cause;
use super::host_credentials::HostCredentials;
use super::known_file::KnownFile;
use crate::context::{
    CheckoutTime, Commit, ContextDir, ContextError, Git, GitAuthorization, GitError, GitRef, KeepGitDir,
    Normalise, Plus, Repository, percent_decoded,
};

/// Bytes a file of the web may have.
pub(crate) const MAX_DOWNLOAD: u64 = 64 << 30;

/// How often a cancelled build looks up from a download.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// Why something cannot be had from elsewhere.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// Nothing was given to fetch with.
    #[error("this build was given no client to fetch from the web with")]
    NoClient,
    /// The server did not give it.
    #[error(transparent)]
    Download(Box<rbuild_registry::Error>),
    /// The bytes are not those that were asked for.
    #[error("{url}: the content is {actual}, expected {expected}")]
    Checksum {
        /// Where they come from, without query.
        url: String,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// The server says that nothing has changed, and was not asked.
    #[error("{0}: the server says that the file is not modified, but nothing was said of one")]
    NotModified(String),
    /// The repository cannot be had.
    #[error(transparent)]
    Git(GitError),
    /// There is no room for it.
    #[error(transparent)]
    Store(#[from] StoreDirError),
    /// It cannot be kept.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An archive cannot be unpacked.
    #[error("cannot unpack {name}")]
    Archive {
        /// Where it comes from.
        name: String,
        /// Why.
        source: Cause,
    },
    /// It was to be an archive.
    #[error("{name} is no tar archive, plain or compressed with gzip, bzip2, xz or zstd")]
    NoArchive {
        /// Where it comes from.
        name: String,
    },
    /// It cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What came cannot be read.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl From<GitError> for RemoteError {
    fn from(error: GitError) -> Self {
        match error {
            GitError::Cancelled => Self::Cancelled,
            error => Self::Git(error),
        }
    }
}

/// Fetches, and remembers what it fetched until the build ends.
#[derive(Debug)]
pub(crate) struct Remotes {
    store: Store,
    client: Option<Client>,
    git: Git,
    credentials: HostCredentials,
    cancel: Cancel,
    runtime: tokio::runtime::Handle,
    files: Once<Arc<RemoteFile>>,
    commits: Once<Commit>,
    trees: Once<Arc<RemoteTree>>,
    /// What is read until the build ends.
    kept: Mutex<Vec<RemoteTree>>,
}

/// A file of the web as the only one of a directory.
#[derive(Debug)]
pub(crate) struct RemoteFile {
    /// The directory: one file of mode 0600 with the server's time.
    pub tree: Arc<ContextDir>,
    /// The file's name.
    pub name: String,
    /// The server's time, where it gave one, in seconds since 1970.
    pub last_modified: Option<i64>,
    digest: Digest,
    _scratch: Scratch,
}

/// The files of a commit.
#[derive(Debug)]
pub(crate) struct RemoteTree {
    /// The wanted directory.
    pub tree: Arc<ContextDir>,
    /// When it was committed, in seconds since 1970; `None` for what is no commit.
    pub time: Option<i64>,
    _scratch: Scratch,
}

impl Remotes {
    /// Starts with nothing. To be made within a tokio runtime.
    pub(crate) fn new(
        store: Store,
        client: Option<Client>,
        git: Git,
        credentials: HostCredentials,
        cancel: Cancel,
    ) -> Self {
        Self {
            store,
            client,
            git,
            credentials,
            cancel,
            runtime: tokio::runtime::Handle::current(),
            files: Once::default(),
            commits: Once::default(),
            trees: Once::default(),
            kept: Mutex::default(),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Leaves a tree where it is until the build ends.
    pub(crate) fn keep(&self, tree: RemoteTree) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(tree);
    }

    /// Downloads a file; blocks.
    pub(crate) fn file(&self, url: &str, name: &str) -> Result<Arc<RemoteFile>, RemoteError> {
        self.files.get(&format!("{name}\0{url}"), || self.download(url, name).map(Arc::new))
    }

    fn download(&self, url: &str, name: &str) -> Result<RemoteFile, RemoteError> {
        let client = self.client.as_ref().ok_or(RemoteError::NoClient)?;
        let scratch = self.store.scratch()?;
        let path = scratch.path().join(name);
        let failed = |source| RemoteError::Write { path: path.clone(), source };
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
        let mut known = KnownFile::of(&self.store, url)?;
        let download = loop {
            let etag = known.as_ref().map(|known| known.etag.as_str());
            let authorization = self.credentials.web(url);
            let authorization = authorization.as_ref().map(Secret::expose);
            let wanted = WebFile { url, limit: MAX_DOWNLOAD, authorization, etag };
            match (self.transfer(client.download(wanted, &mut file))?, known.take()) {
                (Some(download), _) => break download,
                // What is kept may be damaged: then it is fetched after all.
                (None, Some(known)) => {
                    if let Ok(download) = known.copy(&self.store, &mut file) {
                        break download;
                    }
                }
                (None, None) => return Err(RemoteError::NotModified(shown(url))),
            }
        };
        KnownFile::keep(&self.store, url, &download, &mut file)?;
        let seconds = u64::try_from(download.last_modified.unwrap_or_default()).unwrap_or_default();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        file.set_permissions(Permissions::from_mode(0o600))
            .and_then(|()| file.set_times(FileTimes::new().set_modified(time)))
            .map_err(failed)?;
        Ok(RemoteFile {
            tree: Arc::new(ContextDir::open(scratch.path(), None)?),
            name: name.to_owned(),
            last_modified: download.last_modified,
            digest: download.digest,
            _scratch: scratch,
        })
    }

    /// Waits for a download, unless the build is cancelled.
    fn transfer<T>(
        &self,
        download: impl Future<Output = Result<T, rbuild_registry::Error>>,
    ) -> Result<T, RemoteError> {
        let cancelled = async {
            while !self.cancel.is_cancelled() {
                tokio::time::sleep(CANCEL_POLL).await;
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                download = download => download.map_err(|error| RemoteError::Download(Box::new(error))),
                () = cancelled => Err(RemoteError::Cancelled),
            }
        })
    }

    /// Asks a repository which commit is meant; blocks.
    pub(crate) fn commit(&self, wanted: &GitRef) -> Result<Commit, RemoteError> {
        self.commits.get(&identity(wanted), || {
            let scratch = self.store.scratch()?;
            let hosts = scratch.path().join("known_hosts");
            let authorization = self.credentials.git(&wanted.url());
            Ok(self.repository(wanted, authorization.as_ref(), (scratch.path(), &hosts)).resolve()?)
        })
    }

    /// Checks the commit out that is meant; blocks.
    pub(crate) fn checkout(&self, wanted: &GitRef, keep: KeepGitDir) -> Result<Arc<RemoteTree>, RemoteError> {
        self.trees.get(&format!("{keep:?}\0{}", identity(wanted)), || {
            let commit = self.commit(wanted)?;
            let scratch = self.store.scratch()?;
            let (directory, hosts) = (scratch.path().join("checkout"), scratch.path().join("known_hosts"));
            let failed = |source| RemoteError::Write { path: directory.clone(), source };
            std::fs::create_dir(&directory).map_err(failed)?;
            let authorization = self.credentials.git(&wanted.url());
            let repository = self.repository(wanted, authorization.as_ref(), (&directory, &hosts));
            let found = repository.check_out(&commit, keep)?;
            let mtime = (wanted.mtime == Some(CheckoutTime::Commit)).then(|| Time::seconds(found.time));
            let tree = ContextDir::open(&found.path, None)?.normalised(Normalise::Checkout { mtime });
            Ok(Arc::new(RemoteTree { tree: Arc::new(tree), time: Some(found.time), _scratch: scratch }))
        })
    }

    fn repository<'a>(
        &'a self,
        wanted: &'a GitRef,
        authorization: Option<&'a GitAuthorization>,
        (directory, new_hosts): (&'a Path, &'a Path),
    ) -> Repository<'a> {
        Repository { git: &self.git, wanted, authorization, cancel: &self.cancel, directory, new_hosts }
    }
}

impl RemoteTree {
    pub(crate) fn new(tree: Arc<ContextDir>, scratch: Scratch) -> Self {
        Self { tree, time: None, _scratch: scratch }
    }
}

impl RemoteFile {
    /// Compares the content with the digest that was asked for.
    pub(crate) fn verify(&self, url: &str, expected: Digest) -> Result<(), RemoteError> {
        if self.digest == expected {
            return Ok(());
        }
        Err(RemoteError::Checksum { url: shown(url), expected, actual: self.digest })
    }
}

/// What tells one checkout from another.
fn identity(wanted: &GitRef) -> String {
    let GitRef { remote, reference, checksum, subdir, submodules, mtime, fetch_by_commit, .. } = wanted;
    format!("{remote}\0{reference:?}{checksum:?}{subdir:?}{submodules:?}{mtime:?}{fetch_by_commit}")
}

/// A URL without what may be secret in it.
pub(crate) fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// The name a URL gives to its file: the last component of its path, if it has one.
pub(crate) fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let path = percent_decoded(path.split_once('/').map_or("", |(_, path)| path), Plus::Stays);
    let name = path.rsplit('/').find(|name| !name.is_empty()).unwrap_or_default();
    match name {
        "" | "." | ".." => "__unnamed__".to_owned(),
        name if name.contains('\0') => "__unnamed__".to_owned(),
        name => name.to_owned(),
    }
}

/// Values that are made once by whoever asks first; others wait.
#[derive(Debug)]
struct Once<T>(Mutex<BTreeMap<String, Arc<Mutex<Option<T>>>>>);

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Once<T> {
    fn get<E>(&self, key: &str, make: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let slot = Arc::clone(
            self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key.to_owned()).or_default(),
        );
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = &*slot {
            return Ok(value.clone());
        }
        let value = make()?;
        *slot = Some(value.clone());
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        let check = |url: &str, expect: &str| assert_eq!(file_name(url), expect, "{url}");
        check("http://h/a/b.tar.gz?x=/y#z", "b.tar.gz");
        check("http://h/a/", "a");
        check("http://h/a%20b", "a b");
        check("http://h/a%2Fb", "b");
        check("http://h/", "__unnamed__");
        check("http://h", "__unnamed__");
        check("http://h?x", "__unnamed__");
        check("http://h/..", "__unnamed__");
        check("http://h/a%00b", "__unnamed__");
    }

    #[test]
    fn urls_are_shown_without_secrets() {
        assert_eq!(shown("https://u:p@h:1/a@b?token=t"), "https://h:1/a@b");
    }
}
