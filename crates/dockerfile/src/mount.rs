//! `RUN --mount`: the options of one mount.

use crate::expand::ExpandError;

/// One mount of a RUN, BuildKit's defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// Files of the build context, a stage, a named context or an image.
    Bind(Bind),
    /// A directory kept between builds.
    Cache(Cache),
    /// A file system in memory.
    Tmpfs(Tmpfs),
    /// A secret as a file or a variable.
    Secret(Secret),
    /// An agent's socket.
    Ssh(Ssh),
}

/// Whether a step may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Writing fails.
    ReadOnly,
    /// Writing works.
    ReadWrite,
}

/// `type=bind`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Where it appears; relative to the working directory.
    pub target: String,
    /// What appears, below the root of `from`; empty for all of it.
    pub source: String,
    /// Where it comes from; `None` for the build context.
    pub from: Option<String>,
    /// Read-only unless `rw`; what is written is thrown away.
    pub access: Access,
}

/// `type=cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Where it appears; relative to the working directory.
    pub target: String,
    /// What names it; `None` for the cleaned target.
    pub id: Option<String>,
    /// Who else may use it meanwhile.
    pub sharing: Sharing,
    /// Where its first content comes from.
    pub from: Option<String>,
    /// The part of `from`.
    pub source: String,
    /// Read-write unless `ro`.
    pub access: Access,
    /// Permission bits of the directory; `None` for 0755.
    pub mode: Option<u32>,
    /// Owner of the directory; `None` for 0.
    pub uid: Option<u32>,
    /// Group of the directory; `None` for 0.
    pub gid: Option<u32>,
}

/// How concurrent steps use one cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// All at once.
    #[default]
    Shared,
    /// Each its own.
    Private,
    /// One after the other.
    Locked,
}

/// `type=tmpfs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    /// Where it appears; relative to the working directory.
    pub target: String,
    /// Size limit in bytes.
    pub size: Option<u64>,
}

/// `type=secret`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// The secret's name.
    pub id: String,
    /// The file; `None` when only a variable is wanted.
    pub target: Option<String>,
    /// The variable that gets the value.
    pub env: Option<String>,
    /// Whether the step fails without it.
    pub required: bool,
    /// Permission bits of the file.
    pub mode: u32,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
}

/// `type=ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    /// The agent's name.
    pub id: String,
    /// The socket; `None` for `/run/buildkit/ssh_agent.N`.
    pub target: Option<String>,
    /// Whether the step fails without it.
    pub required: bool,
    /// Permission bits of the socket.
    pub mode: u32,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
}

/// Why a mount cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A value does not expand.
    #[error("cannot expand the value of `{key}`")]
    Expand {
        /// The option.
        key: String,
        /// Why not.
        source: ExpandError,
    },
    /// The options make no sense.
    #[error("{message}")]
    Invalid {
        /// What is wrong.
        message: String,
        /// The name that was probably meant.
        hint: Option<String>,
    },
}

/// Reads the value of `--mount`; `expand` is called for every value but that of `from`.
///
/// # Errors
/// When an option is unknown, lacks its value, does not belong to the type, or does not expand.
pub fn parse_mount(
    text: &str,
    expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
) -> Result<Mount, MountError> {
    let _ = (text, expand);
    unimplemented!()
}
