//! What a plan is made of: stages of steps, with nothing left to expand or to look up in the Dockerfile.

use std::net::IpAddr;

use rbuild_dockerfile::{Diagnostic, Span};
use rbuild_image::{History, ImageConfig, Platform};
use rbuild_sandbox::Rlimit;
use serde::Serialize;

use super::outline::Outline;

/// A Dockerfile lowered over its base images: everything the build will do, in order.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The stages that are needed, each after the stages it reads from.
    pub stages: Vec<PlannedStage>,
    /// The index in `stages` of the stage that becomes the image.
    pub target: usize,
    /// Lint findings that only planning can see, in the order they were met.
    pub warnings: Vec<Diagnostic>,
    /// `SOURCE_DATE_EPOCH`, from a build argument or the global scope, in seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// What can be given to the build of the target.
    pub outline: Outline,
}

/// One stage: a base and the steps on top of it.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedStage {
    /// The name to show: the stage's own, or `stage-N` with its 0-based position in the Dockerfile.
    pub name: String,
    /// The 0-based position in the Dockerfile.
    pub index: usize,
    /// The platform the stage is built for.
    pub platform: Platform,
    /// What the first step stands on.
    pub base: Base,
    /// The steps in order. Every history entry the stage adds belongs to exactly one of them; steps whose
    /// `history` is `None` (ONBUILD) change only the config.
    pub steps: Vec<Step>,
    /// The final config. `rootfs` and `history` are those of the base image (empty above `scratch` or another
    /// stage's copy of them); the executor extends both from `steps`. `created` is unset.
    pub config: ImageConfig,
}

/// What a stage stands on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// A stage, by its index in [`Plan::stages`].
    Stage(usize),
    /// An image, or the named context that replaces it.
    Image(ImageRequest),
}

/// A name that stands for an image or for a named context.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageRequest {
    /// The name as written, expanded.
    pub name: String,
    /// The platform that is wanted.
    pub platform: Platform,
    /// The key in [`PlanOptions::named_contexts`](super::PlanOptions::named_contexts) that replaces the name.
    pub context: Option<String>,
}

/// One instruction, ready to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Where the instruction stands in the Dockerfile; of a trigger, the `FROM` that pulled it in.
    pub span: Span,
    /// The instruction as progress output shows it: `RUN apt-get update`.
    pub display: String,
    /// The history entry the step adds, without a time; `None` for instructions that leave none.
    pub history: Option<History>,
    /// What to do.
    pub kind: StepKind,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq)]
pub enum StepKind {
    /// Runs a process; its changes become a layer, also when there are none.
    Run(RunStep),
    /// Puts files in; `COPY` and `ADD`. Becomes a layer.
    Copy(CopyStep),
    /// Creates a directory. Becomes a layer.
    Workdir(WorkdirStep),
    /// Changes only the config, which is already folded into [`PlannedStage::config`].
    Configure,
}

/// A process and what it sees.
#[derive(Debug, Clone, PartialEq)]
pub struct RunStep {
    /// The program and its arguments; the program is looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment in order: the config's, then build arguments, then proxies.
    pub env: Vec<(String, String)>,
    /// Names in `env` that the cache key leaves out (the predefined proxy variables).
    pub uncached_env: Vec<String>,
    /// The working directory, absolute.
    pub cwd: String,
    /// The user as `USER` gave it (`name|uid[:group|gid]`); empty for root.
    pub user: String,
    /// The network the process sees.
    pub network: Network,
    /// The privileges of the process.
    pub security: Security,
    /// What is mounted into the rootfs, in the order written.
    pub mounts: Vec<StepMount>,
    /// CDI devices asked for with `--device`, as written.
    pub devices: Vec<String>,
    /// Scripts that appear read-only below `/dev/pipes`.
    pub files: Vec<ScriptFile>,
    /// The host name inside.
    pub hostname: String,
    /// What the caller sets for every process.
    pub surroundings: Surroundings,
}

/// What a caller sets for every process of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Lines of `/etc/hosts`, in order: a name and its address.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// Resource limits, in order; the others are those of the calling process.
    pub rlimits: Vec<Rlimit>,
    /// The size of `/dev/shm` in bytes; 64 MiB when absent.
    pub shm_size: Option<u64>,
}

/// A heredoc that a `RUN` executes as a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptFile {
    /// The file name below `/dev/pipes`: the heredoc's delimiter.
    pub name: String,
    /// The bytes of the file.
    pub content: String,
    /// The permission bits.
    pub mode: u32,
}

/// Which network a process sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// What the build was told to use.
    #[default]
    Default,
    /// A network namespace with a loopback device only.
    None,
    /// The network of the host.
    Host,
}

/// Which privileges a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// The default capabilities and system call filter.
    #[default]
    Sandbox,
    /// All capabilities, no filter.
    Insecure,
}

/// A `RUN --mount`, every value expanded and every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepMount {
    /// A tree from elsewhere.
    Bind(BindMount),
    /// A directory that outlives the build.
    Cache(CacheMount),
    /// An empty memory file system.
    Tmpfs {
        /// The absolute path in the rootfs.
        target: String,
        /// The size limit in bytes; `None` is the kernel's default.
        size: Option<u64>,
    },
    /// A value that must never be committed.
    Secret(SecretMount),
    /// A socket of an ssh agent.
    Ssh(SshMount),
}

/// `--mount=type=bind`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// The absolute path in the rootfs.
    pub target: String,
    /// The tree that is mounted.
    pub from: Source,
    /// The absolute path inside that tree.
    pub source: String,
    /// Whether the process may write; writes are discarded after the step.
    pub access: Access,
}

/// `--mount=type=cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMount {
    /// The absolute path in the rootfs.
    pub target: String,
    /// The name of the directory, with the namespace of `BUILDKIT_CACHE_MOUNT_NS` in front when that is set.
    pub id: String,
    /// What happens when two steps want it at once.
    pub sharing: Sharing,
    /// The tree a new cache starts from; `None` is an empty directory.
    pub from: Option<Source>,
    /// The absolute path inside that tree.
    pub source: String,
    /// Whether the process may write.
    pub access: Access,
    /// Permission bits of a new cache directory.
    pub mode: u32,
    /// Owner of a new cache directory.
    pub uid: u32,
    /// Group of a new cache directory.
    pub gid: u32,
}

/// `--mount=type=secret`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretMount {
    /// The name of the secret.
    pub id: String,
    /// The absolute path of the file; `None` when only `env` is set.
    pub target: Option<String>,
    /// The environment variable that holds the value.
    pub env: Option<String>,
    /// Whether a missing secret fails the step; otherwise nothing is mounted.
    pub required: bool,
    /// Permission bits of the file.
    pub mode: u32,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
}

/// `--mount=type=ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshMount {
    /// The name of the agent.
    pub id: String,
    /// The absolute path of the socket.
    pub target: String,
    /// Whether a missing agent fails the step.
    pub required: bool,
    /// Permission bits of the socket.
    pub mode: u32,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
}

/// Whether a mount can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Writes fail.
    ReadOnly,
    /// Writes succeed.
    ReadWrite,
}

/// How concurrent steps share a cache directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// All write to the same directory at once.
    Shared,
    /// Each gets a directory of its own.
    Private,
    /// The second waits for the first.
    Locked,
}

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The build context.
    Context,
    /// An empty tree (`--from=scratch`).
    Scratch,
    /// A stage, by its index in [`Plan::stages`].
    Stage(usize),
    /// An image, or the named context of that name.
    Image(ImageRequest),
}

/// `COPY` or `ADD`, every word expanded.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyStep {
    /// The tree that patterns are looked up in.
    pub from: Source,
    /// What is copied, in order.
    pub sources: Vec<CopySource>,
    /// Absolute and joined to the working directory; ends in `/` when the written form names a directory
    /// (`dir/`, `.`, `dir/.`).
    pub destination: String,
    /// `user[:group]`; names are looked up in the rootfs that is written to.
    pub chown: Option<String>,
    /// Octal or symbolic permission bits, checked.
    pub chmod: Option<String>,
    /// Whether destination symlinks are not followed and the files stand in a layer independent of the base.
    pub link: bool,
    /// Whether the directories of a source are kept.
    pub parents: bool,
    /// Patterns left out, as written.
    pub exclude: Vec<String>,
    /// What only one of the two instructions has.
    pub kind: CopyKind,
}

/// One thing to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// A path or wildcard pattern, relative to the root of the source tree.
    Pattern(String),
    /// A file made from a heredoc, mode 0644.
    Heredoc {
        /// The file name: the delimiter.
        name: String,
        /// The bytes, expanded unless the delimiter was quoted.
        content: String,
    },
    /// An http or https URL.
    Url(String),
    /// A git repository, as written.
    Git(String),
}

/// What distinguishes `ADD` from `COPY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyKind {
    /// `COPY`.
    Copy,
    /// `ADD`.
    Add {
        /// The digest (URL) or commit (git) the source must have.
        checksum: Option<String>,
        /// Whether archives are extracted; `None`: local ones by content, remote ones not.
        unpack: Option<bool>,
        /// Whether `.git` of a git source is kept; `None`: not.
        keep_git_dir: Option<bool>,
    },
}

/// `WORKDIR` of something other than `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkdirStep {
    /// The directory, absolute.
    pub path: String,
    /// The owner of what is created, as `USER` gave it; empty for root.
    pub user: String,
}
