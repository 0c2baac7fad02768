//! Where a build's context and Dockerfile come from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::build::Build;
use crate::context::{ContextDir, KeepGitDir};
use crate::error::BuildError;
use crate::execute::{OpenedContext, Remotes};
use crate::options::DockerfileSource;

/// Bytes a Dockerfile may have.
const MAX_DOCKERFILE: u64 = 16 << 20;

impl Build {
    /// Opens the context, wherever it is.
    pub(crate) async fn open(&self, remotes: &Arc<Remotes>) -> Result<OpenedContext, BuildError> {
        if !self.options.context.holds_dockerfile() {
            return self.open_local();
        }
        let (source, remotes) = (self.options.context.source.clone(), Arc::clone(remotes));
        let keep = match self.options.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR").map(String::as_str) {
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Some(KeepGitDir::Yes),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Some(KeepGitDir::No),
            _ => None,
        };
        let name = source.to_string();
        let opened = tokio::task::spawn_blocking(move || remotes.open(&source, keep)).await;
        let opened = opened.map_err(|_| BuildError::Cancelled)?;
        opened.map_err(|error| BuildError::fetch(&name, error))
    }

    /// Opens the context for a look at its Dockerfile, which needs no store where it is a local directory.
    pub(crate) async fn open_for_reading(&self) -> Result<OpenedContext, BuildError> {
        match self.options.context.holds_dockerfile() {
            true => self.open(&self.remotes()?).await,
            // what the ignore file says, right or wrong, concerns copies alone
            false => {
                let open = |dir| ContextDir::open(dir, None).map(Arc::new);
                let tree = self.options.context.directory().map(open).transpose()?;
                Ok(OpenedContext { tree, ..OpenedContext::default() })
            }
        }
    }

    /// Opens a context that is a local directory, or none.
    pub(crate) fn open_local(&self) -> Result<OpenedContext, BuildError> {
        let Some(dir) = self.options.context.directory() else {
            return match self.options.context.holds_dockerfile() {
                false => Ok(OpenedContext::default()),
                true => Err(BuildError::Option {
                    option: "context",
                    value: self.options.context.source.to_string(),
                    reason: "only a build fetches a context; give a local directory".to_owned(),
                }),
            };
        };
        let mut candidates = Vec::new();
        if let DockerfileSource::Path(path) = &self.options.dockerfile {
            let mut own = dir.join(path).into_os_string();
            own.push(".dockerignore");
            candidates.push(PathBuf::from(own));
        } else {
            candidates.push(dir.join("Dockerfile.dockerignore"));
        }
        candidates.push(dir.join(".dockerignore"));
        let ignore = ContextDir::ignore_file(&candidates)?;
        let tree = Arc::new(ContextDir::open(dir, ignore)?.remembering(self.store.as_ref()));
        Ok(OpenedContext { tree: Some(tree), ..OpenedContext::default() })
    }

    /// Finds the Dockerfile and its name for messages.
    pub(crate) fn dockerfile_text(&self, context: &OpenedContext) -> Result<(String, Vec<u8>), BuildError> {
        let dir = self.options.context.directory().unwrap_or(Path::new(""));
        let within = context.tree.as_ref().filter(|_| self.options.context.holds_dockerfile());
        match (&self.options.dockerfile, &context.dockerfile, within) {
            (DockerfileSource::Text { name, text }, ..) => Ok((name.clone(), text.clone().into_bytes())),
            (DockerfileSource::Path(path), Some((name, _)), _) => Err(BuildError::Option {
                option: "file",
                value: path.display().to_string(),
                reason: format!("the context {name} is a Dockerfile itself"),
            }),
            (DockerfileSource::Default, Some((name, text)), _) => Ok((name.clone(), text.clone())),
            (DockerfileSource::Path(path), None, Some(tree)) if path.is_relative() => {
                let text = read_within(tree, path)?.ok_or_else(|| missing(path))?;
                Ok((shown(path), text))
            }
            (DockerfileSource::Default, None, Some(tree)) => {
                for path in ["Dockerfile", "dockerfile"] {
                    if let Some(text) = read_within(tree, Path::new(path))? {
                        return Ok((path.to_owned(), text));
                    }
                }
                Err(missing(Path::new("Dockerfile")))
            }
            (DockerfileSource::Path(path), None, _) => {
                let path = dir.join(path);
                Ok((shown(&path), read_dockerfile(path)?))
            }
            (DockerfileSource::Default, None, None) => {
                let (first, second) = (dir.join("Dockerfile"), dir.join("dockerfile"));
                let path = if !first.exists() && second.exists() { second } else { first };
                Ok((shown(&path), read_dockerfile(path)?))
            }
        }
    }
}

/// A path for messages, without a leading `./`.
fn shown(path: &Path) -> String {
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}

fn missing(path: &Path) -> BuildError {
    BuildError::Dockerfile { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() }
}

/// Reads a file of a context that is no directory of the user's: symbolic links do not lead out of it.
fn read_within(tree: &ContextDir, path: &Path) -> Result<Option<Vec<u8>>, BuildError> {
    let failed =
        |error| BuildError::Dockerfile { path: path.to_owned(), source: std::io::Error::other(error) };
    tree.read(path, MAX_DOCKERFILE).map_err(failed)
}

fn read_dockerfile(path: PathBuf) -> Result<Vec<u8>, BuildError> {
    use std::io::Read;
    let mut text = Vec::new();
    let read = std::fs::File::open(&path).and_then(|file| file.take(MAX_DOCKERFILE).read_to_end(&mut text));
    match read {
        Ok(_) => Ok(text),
        Err(source) => Err(BuildError::Dockerfile { path, source }),
    }
}
