//! What a caller says of a build, as plain values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_image::Platform;
use rbuild_layers::Limits;
use rbuild_sandbox::{Isolation, Secret};

use crate::cache::remote::{CacheExport, CacheImport, CachePlace};
use crate::context::{Git, GitRef, NamedContext};
use crate::export::Output;
use crate::plan::{Entitlement, Network, Surroundings};
use crate::ssh::SshAgent;

/// The main context of a build.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    pub(crate) source: ContextSource,
}

/// Where a main context is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum ContextSource {
    #[default]
    Empty,
    Directory(PathBuf),
    Archive(PathBuf),
    Stream(Stream),
    Git(Box<GitRef>),
    Web(String),
}

/// As it may be shown.
impl fmt::Display for ContextSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("(none)"),
            Self::Directory(path) | Self::Archive(path) => write!(f, "{}", path.display()),
            Self::Stream(_) => f.write_str("-"),
            Self::Git(wanted) => f.write_str(&wanted.redacted()),
            Self::Web(url) => f.write_str(&crate::execute::shown(url)),
        }
    }
}

/// An open file that is read once; equal to itself alone.
#[derive(Debug, Clone)]
pub(crate) struct Stream(Arc<File>);

impl Stream {
    pub(crate) fn file(&self) -> &File {
        &self.0
    }
}

impl PartialEq for Stream {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Stream {}

impl Context {
    /// A local directory, which is never written to.
    pub fn dir(path: impl Into<PathBuf>) -> Self {
        Self { source: ContextSource::Directory(path.into()) }
    }

    /// A local tar archive, plain or compressed with gzip, bzip2, xz or zstd.
    pub fn archive(path: impl Into<PathBuf>) -> Self {
        Self { source: ContextSource::Archive(path.into()) }
    }

    /// What comes from an open file, such as standard input: an archive, or a Dockerfile without a context.
    pub fn stream(file: File) -> Self {
        Self { source: ContextSource::Stream(Stream(Arc::new(file))) }
    }

    /// The files of a git repository.
    pub fn git(reference: GitRef) -> Self {
        Self { source: ContextSource::Git(Box::new(reference)) }
    }

    /// An archive or a Dockerfile of a web server.
    pub fn web(url: impl Into<String>) -> Self {
        Self { source: ContextSource::Web(url.into()) }
    }

    /// No files at all.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Tells whether a relative path of a Dockerfile starts within the context, and not at the working directory.
    pub fn holds_dockerfile(&self) -> bool {
        !matches!(self.source, ContextSource::Empty | ContextSource::Directory(_))
    }

    /// The directory, where the context is a local one.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match &self.source {
            ContextSource::Directory(path) => Some(path),
            _ => None,
        }
    }
}

/// Where the Dockerfile's text is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DockerfileSource {
    /// `Dockerfile` in the context, or `dockerfile`.
    #[default]
    Default,
    /// This file; a relative path starts at the context directory.
    Path(PathBuf),
    /// This text, under a name for messages.
    Text {
        /// The name.
        name: String,
        /// The text.
        text: String,
    },
}

impl From<&str> for DockerfileSource {
    fn from(path: &str) -> Self {
        Self::Path(path.into())
    }
}

impl From<PathBuf> for DockerfileSource {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

/// Whether names of [`BuildOptions::tags`] are pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Push {
    /// Names of a registry are pushed, bare names stay in the store; with any [`BuildOptions::outputs`], all stay.
    #[default]
    ByName,
    /// All are pushed; bare names go to Docker Hub.
    Always,
    /// All stay in the store.
    Never,
}

/// Whether results of earlier builds may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheUse {
    /// A step whose key is known is not executed.
    #[default]
    Use,
    /// Every step is executed; results are still recorded.
    Ignore,
}

/// Whether a name that the store knows is looked up in its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pull {
    /// Bare names that the store knows are taken from it.
    #[default]
    Missing,
    /// The registry is asked for every name.
    Always,
}

/// Everything that can be said of a build, in docker build's words.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// The main context.
    pub context: Context,
    /// The Dockerfile.
    pub dockerfile: DockerfileSource,
    /// Names of the result.
    pub tags: Vec<String>,
    /// Whether they are pushed.
    pub push: Push,
    /// Where else the result goes. Empty, and no tags: it stays in the store without a name.
    pub outputs: Vec<Output>,
    /// The stage to build; `None` is the last.
    pub target: Option<String>,
    /// The platforms of the result, several of which make an index; none is the host's.
    pub platforms: Vec<Platform>,
    /// Values of `ARG`.
    pub build_args: BTreeMap<String, String>,
    /// Labels that win over the Dockerfile's.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the manifest, or of what a key says before a colon, as docker's: `index:NAME`,
    /// `manifest[linux/arm64]:NAME`, `index-descriptor,manifest:NAME`.
    pub annotations: BTreeMap<String, String>,
    /// Trees and images that stand for names of the Dockerfile: `name` or `name::platform`.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// The network of RUN.
    pub network: Network,
    /// Values of secrets, by id.
    pub secrets: BTreeMap<String, Secret>,
    /// Agents that RUN may ask for signatures, by id.
    pub agents: BTreeMap<String, SshAgent>,
    /// What the Dockerfile may ask for beyond what is harmless.
    pub allow: BTreeSet<Entitlement>,
    /// Hosts and limits of RUN.
    pub surroundings: Surroundings,
    /// Whether results of earlier builds are used.
    pub cache: CacheUse,
    /// Stages whose steps are executed whatever the cache holds, by name, in upper or lower case. As in BuildKit the steps of other stages
    /// are not, unless these give them something else to read; names that no stage has are passed over.
    pub no_cache_stages: BTreeSet<String>,
    /// Whether [`Event::StepMissed`](crate::Event::StepMissed) tells why steps were not in the cache. A large COPY is read twice for it when nothing
    /// like it was ever read.
    pub explain: bool,
    /// Caches elsewhere that are read, the most trusted first.
    pub cache_from: Vec<CacheImport>,
    /// Caches elsewhere that are written once the image is done.
    pub cache_to: Vec<CacheExport>,
    /// Where cache mounts that the store lacks are brought from, the first that has one.
    pub cache_mounts_from: Vec<CachePlace>,
    /// Where the cache mounts that steps used are kept, once the image is done.
    pub cache_mounts_to: Vec<CachePlace>,
    /// Whether names in the store are looked up again.
    pub pull: Pull,
    /// The isolation of RUN; `None` is the strongest that works.
    pub isolation: Option<Isolation>,
    /// The cgroup, by its path below the cgroup2 filesystem, in which every RUN gets one of its own; `None`: steps stay in the
    /// cgroup of this process.
    pub cgroup_parent: Option<PathBuf>,
    /// How many steps may run at the same time; `None`: as many as there are processors.
    pub jobs: Option<NonZeroUsize>,
    /// How repositories are read.
    pub git: Git,
    /// What a layer may cost when it is unpacked.
    pub limits: Limits,
    /// Seconds since 1970 that stand for now; `None`: the build argument `SOURCE_DATE_EPOCH`, else the clock.
    pub source_date_epoch: Option<i64>,
}
