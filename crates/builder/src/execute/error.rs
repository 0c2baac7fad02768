//! Why a step failed.

use std::path::PathBuf;

use rbuild_dockerfile::ignore::IgnoreError;
use rbuild_layers::RootError;
use rbuild_sandbox::RunError;
use thiserror::Error;

use super::copier::CopyError;
use super::draft::DraftError;
use super::mode::ModeError;
use super::remote::RemoteError;
use super::user::UserError;

/// A boxed cause from a crate below.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why one step failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StepError {
    /// The process of a RUN ended with something else than 0.
    #[error("`{command}` {}", describe_exit(*code, *signal))]
    Exit {
        /// The command as the Dockerfile has it.
        command: String,
        /// The exit code as a shell shows it.
        code: i32,
        /// The signal that killed it.
        signal: Option<i32>,
        /// The last lines it wrote.
        output: Vec<String>,
    },
    /// The process of a RUN could not be started.
    #[error("cannot run `{command}`")]
    Run {
        /// The command as the Dockerfile has it.
        command: String,
        /// Why.
        source: Box<RunError>,
    },
    /// The user of a RUN is unknown.
    #[error(transparent)]
    User(#[from] UserError),
    /// A source could not be copied.
    #[error("cannot copy `{path}`")]
    Copy {
        /// The source as written.
        path: String,
        /// Why.
        source: CopyError,
    },
    /// A directory could not be made.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// `--chmod` is malformed.
    #[error(transparent)]
    Mode(#[from] ModeError),
    /// `--exclude` or `--parents` is malformed.
    #[error("invalid pattern")]
    Pattern(#[from] IgnoreError),
    /// An archive could not be read.
    #[error("cannot extract `{path}`")]
    Archive {
        /// The source as written.
        path: String,
        /// Why.
        source: Cause,
    },
    /// A source that is elsewhere could not be had.
    #[error("cannot fetch `{source_name}`")]
    Remote {
        /// The source as it may be shown.
        source_name: String,
        /// Why.
        source: Box<RemoteError>,
    },
    /// A tree could not be read or written.
    #[error(transparent)]
    Tree(#[from] RootError),
    /// A mount of a RUN could not be prepared.
    #[error("cannot mount `{target}`")]
    Mount {
        /// Where.
        target: String,
        /// Why.
        source: Cause,
    },
    /// The layers below the step could not be fetched.
    #[error("cannot fetch the layers of {image} into {}", store.display())]
    Fetch {
        /// The image.
        image: String,
        /// The store's directory.
        store: PathBuf,
        /// Why.
        source: Box<rbuild_image::StoreError>,
    },
    /// The rootfs below the step could not be prepared, or the result not be kept.
    #[error("cannot {operation}")]
    Snapshot {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: Cause,
    },
    /// The layer could not be written.
    #[error("cannot write the layer")]
    Layer(#[source] Cause),
    /// A file the builder needs could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A cache elsewhere does not have a layer that it said it has. The build goes on without that cache.
    #[error("a layer of a cache is missing")]
    CacheLost,
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// What the step asks for is not supported.
    #[error("{0} is not supported")]
    Unsupported(String),
}

impl StepError {
    pub(crate) fn snapshot(operation: &'static str, source: impl Into<Cause>) -> Self {
        Self::Snapshot { operation, source: source.into() }
    }
}

fn describe_exit(code: i32, signal: Option<i32>) -> String {
    signal.map_or_else(
        || format!("did not complete successfully: exit code: {code}"),
        |signal| format!("was killed by signal {signal}: exit code: {code}"),
    )
}
