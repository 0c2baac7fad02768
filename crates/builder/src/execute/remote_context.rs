//! Contexts that are no local directory: archives, standard input, repositories, URLs.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_layers::{Content, Root, View, apply};

use super::remote::{MAX_DOWNLOAD, RemoteError, RemoteTree, Remotes, shown};
use crate::context::{self, ContextDir, GitRef, KeepGitDir};
use crate::options::ContextSource;
use crate::plan::ContextTime;

/// The name of a file that is a context by itself, as in BuildKit.
const ONLY_FILE: &str = "context";

/// Bytes a Dockerfile may have.
const MAX_DOCKERFILE: u64 = 16 << 20;

/// A main context that can be read.
#[derive(Debug, Default)]
pub(crate) struct OpenedContext {
    /// The files; `None` where there are none at all.
    pub tree: Option<Arc<ContextDir>>,
    /// The context's own text, where it is a Dockerfile rather than a tree, and its name for messages.
    pub dockerfile: Option<(String, Vec<u8>)>,
    /// The time it is of.
    pub time: ContextTime,
}

impl Remotes {
    /// Fetches and unpacks a context that is no local directory; blocks.
    pub(crate) fn open(
        &self,
        source: &ContextSource,
        keep: Option<KeepGitDir>,
    ) -> Result<OpenedContext, RemoteError> {
        let tree = |tree| OpenedContext { tree: Some(tree), dockerfile: None, time: ContextTime::Unknown };
        match source {
            ContextSource::Empty | ContextSource::Directory(_) => Ok(OpenedContext::default()),
            ContextSource::Archive(path) => self.archive_file(path).map(tree),
            ContextSource::Stream(stream) => self.stream(stream.file()),
            ContextSource::Git(wanted) => {
                let commit = self.commit_tree(wanted, keep)?;
                let time = commit.time.map_or(ContextTime::Unknown, ContextTime::At);
                Ok(OpenedContext { time, ..tree(Arc::clone(&commit.tree)) })
            }
            ContextSource::Web(url) => {
                let file = self.file(url, ONLY_FILE)?;
                let content = file.tree.content(Path::new(ONLY_FILE));
                let time = file.last_modified.map_or(ContextTime::Unknown, ContextTime::At);
                Ok(match self.unpacked(&content, &shown(url))? {
                    Some(archive) => OpenedContext { time, ..tree(archive) },
                    None => OpenedContext {
                        tree: Some(Arc::clone(&file.tree)),
                        dockerfile: Some((shown(url), text(&content, url)?)),
                        time,
                    },
                })
            }
        }
    }

    /// The tree of a commit; `keep` wins over what the reference says.
    pub(crate) fn git_tree(
        &self,
        wanted: &GitRef,
        keep: Option<KeepGitDir>,
    ) -> Result<Arc<ContextDir>, RemoteError> {
        Ok(Arc::clone(&self.commit_tree(wanted, keep)?.tree))
    }

    fn commit_tree(&self, wanted: &GitRef, keep: Option<KeepGitDir>) -> Result<Arc<RemoteTree>, RemoteError> {
        let written = if wanted.keep_git_dir == Some(true) { KeepGitDir::Yes } else { KeepGitDir::No };
        self.checkout(wanted, keep.unwrap_or(written))
    }

    /// A directory with the file a URL names, which is not unpacked.
    pub(crate) fn web_file(&self, url: &str) -> Result<Arc<ContextDir>, RemoteError> {
        Ok(Arc::clone(&self.file(url, ONLY_FILE)?.tree))
    }

    /// The tree of an archive of this host.
    pub(crate) fn archive_file(&self, path: &Path) -> Result<Arc<ContextDir>, RemoteError> {
        let name = path.display().to_string();
        let unread = |source| RemoteError::Read { path: path.to_owned(), source };
        let (Some(parent), Some(file)) = (path.parent(), path.file_name()) else {
            return Err(RemoteError::NoArchive { name });
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let root = Root::open(parent).map_err(|error| unread(io::Error::other(error)))?;
        let content = Content::Path { root, path: PathBuf::from(file) };
        self.unpacked(&content, &name)?.ok_or(RemoteError::NoArchive { name })
    }

    /// What comes on standard input: an archive, or a Dockerfile and nothing else.
    fn stream(&self, file: &File) -> Result<OpenedContext, RemoteError> {
        const NAME: &str = "-";
        let scratch = self.store().scratch()?;
        let path = scratch.path().join("stream");
        let failed = |source| RemoteError::Write { path: path.clone(), source };
        let mut copy = File::create_new(&path).map_err(failed)?;
        if io::copy(&mut file.take(MAX_DOWNLOAD + 1), &mut copy).map_err(failed)? > MAX_DOWNLOAD {
            return Err(failed(io::Error::from(io::ErrorKind::FileTooLarge)));
        }
        let root = Root::open(scratch.path()).map_err(|error| failed(io::Error::other(error)))?;
        let content = Content::Path { root, path: "stream".into() };
        Ok(match self.unpacked(&content, "standard input")? {
            Some(tree) => OpenedContext { tree: Some(tree), dockerfile: None, time: ContextTime::Unknown },
            None => OpenedContext {
                tree: None,
                dockerfile: Some((NAME.to_owned(), text(&content, "standard input")?)),
                time: ContextTime::Unknown,
            },
        })
    }

    /// Unpacks an archive into a directory of the work directory; `None` when it is none.
    fn unpacked(&self, content: &Content, name: &str) -> Result<Option<Arc<ContextDir>>, RemoteError> {
        let failed = |source| RemoteError::Archive { name: name.to_owned(), source };
        let scratch = self.store().scratch()?;
        let Some(changes) = context::archive(content, scratch.path()).map_err(failed)? else {
            return if is_compressed(content).map_err(|error| failed(error.into()))? {
                Err(RemoteError::NoArchive { name: name.to_owned() })
            } else {
                Ok(None)
            };
        };
        let root = scratch.root().map_err(|error| failed(error.into()))?;
        apply(&changes, &root, &View::empty()).map_err(|error| failed(error.into()))?;
        let tree = Arc::new(ContextDir::exact(root));
        self.keep(RemoteTree::new(Arc::clone(&tree), scratch));
        Ok(Some(tree))
    }
}

/// Tells whether a content begins as something compressed.
fn is_compressed(content: &Content) -> io::Result<bool> {
    let mut head = Vec::new();
    content.open().map_err(io::Error::other)?.take(6).read_to_end(&mut head)?;
    Ok([b"\x1f\x8b".as_slice(), b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"]
        .iter()
        .any(|magic| head.starts_with(magic)))
}

fn text(content: &Content, name: &str) -> Result<Vec<u8>, RemoteError> {
    let failed = |source| RemoteError::Read { path: PathBuf::from(shown_name(name)), source };
    let mut bytes = Vec::new();
    let reader = content.open().map_err(|error| failed(io::Error::other(error)))?;
    reader.take(MAX_DOCKERFILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn shown_name(name: &str) -> String {
    if name.contains("://") { shown(name) } else { name.to_owned() }
}
