//! What a build tells while it runs.
//!
//! Events are facts for a renderer, in the order they happen. Times are the renderer's business; durations are
//! measured here because only the builder knows when work began.

use std::sync::Arc;
use std::time::Duration;

use rbuild_dockerfile::Diagnostic;
use serde::{Serialize, Serializer};

/// The number of a step in a build, unique and in plan order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct StepId(pub usize);

/// One thing that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// The Dockerfile is lowered; nothing ran yet.
    PlanReady {
        /// Names of the stages that will be built, in order.
        stages: Vec<String>,
        /// How many steps there are in all.
        steps: usize,
    },
    /// How `RUN` steps will be isolated.
    Isolation {
        /// The isolation's name, as `--isolation` takes it.
        name: String,
        /// Why this one, or what a stronger one lacked.
        why: String,
    },
    /// A lint finding or another thing worth saying that fails nothing.
    Warning {
        /// What was found.
        #[serde(flatten)]
        finding: Diagnostic,
        /// The Dockerfile that the finding's places are in; not serialised.
        #[serde(skip)]
        file: Arc<DockerfileText>,
    },
    /// A remark without a place in the Dockerfile.
    Notice {
        /// One line of text.
        message: String,
    },
    /// A step begins.
    StepStarted {
        /// Which step.
        id: StepId,
        /// The stage it belongs to.
        stage: String,
        /// Its 1-based number within the stage.
        number: usize,
        /// How many steps the stage has.
        total: usize,
        /// The instruction as it is shown.
        display: String,
    },
    /// A step was not in the cache; told only when [`BuildOptions::explain`](crate::BuildOptions::explain) asks for it.
    StepMissed {
        /// Which step.
        id: StepId,
        /// What is different from the nearest step of an earlier build, at least one.
        reasons: Vec<Reason>,
    },
    /// A step's process wrote something; not necessarily whole lines.
    StepOutput {
        /// Which step.
        id: StepId,
        /// Which descriptor.
        stream: OutputStream,
        /// The bytes, lossily as text when serialised.
        #[serde(serialize_with = "lossy")]
        bytes: Vec<u8>,
    },
    /// A step is done.
    StepFinished {
        /// Which step.
        id: StepId,
        /// Whether its result was taken from the cache.
        cached: bool,
        /// How long it took.
        #[serde(serialize_with = "seconds")]
        duration: Duration,
        /// Compressed size of its layer in bytes; `None` when it made none.
        layer_size: Option<u64>,
    },
    /// A step failed; the build ends with the error that tells why.
    StepFailed {
        /// Which step.
        id: StepId,
        /// The error in one line.
        message: String,
        /// How long it took.
        #[serde(serialize_with = "seconds")]
        duration: Duration,
    },
    /// A step was stopped, because the build was cancelled or another step failed.
    StepCancelled {
        /// Which step.
        id: StepId,
        /// How long it took.
        #[serde(serialize_with = "seconds")]
        duration: Duration,
    },
    /// An image name was resolved to a digest.
    Resolved {
        /// The name as written.
        name: String,
        /// The manifest's digest.
        digest: String,
    },
    /// A request to a registry or another server failed for a temporary reason and will be sent again.
    Retrying {
        /// What failed, in one line.
        failure: String,
        /// How often it was tried since something last moved.
        tries: u32,
        /// How long until the next try.
        #[serde(serialize_with = "seconds")]
        delay: Duration,
    },
    /// Bytes of a base image arrive.
    Pull(Transfer),
    /// Bytes of the result leave.
    Push(Transfer),
    /// An output was written.
    Exported {
        /// The output's type and destination.
        output: String,
        /// The manifest's digest, where there is one.
        digest: Option<String>,
        /// Whether all of its names stood for this digest before, so that nothing was written.
        unchanged: bool,
    },
    /// The build succeeded.
    Done {
        /// The manifest's digest.
        digest: String,
        /// Compressed size of all layers in bytes.
        size: u64,
        /// How long the build took.
        #[serde(serialize_with = "seconds")]
        duration: Duration,
        /// Whether every name it was given stood for this digest before.
        unchanged: bool,
    },
}

/// One thing for which a step was not in the cache, as `file src/main.c` and `changed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// What: `file PATH`, `ARG NAME`, `ENV NAME`, `base image NAME`, `step INSTRUCTION`, `command`, `destination`, a flag.
    pub input: String,
    /// What about it: `changed`, `is new`, `is gone`, `is A, was B`.
    pub change: String,
}

impl Reason {
    pub(crate) fn new(input: impl Into<String>, change: impl Into<String>) -> Self {
        Self { input: input.into(), change: change.into() }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.input, self.change)
    }
}

/// A Dockerfile as it was read, for what shows its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerfileText {
    /// Its name, for messages.
    pub name: String,
    /// Its text, which spans count bytes of.
    pub text: String,
}

/// Progress of one blob or manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// The image the transfer belongs to.
    pub image: String,
    /// The digest of what moves.
    pub digest: String,
    /// Bytes moved so far.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
    /// How it stands.
    pub state: TransferState,
}

/// How a transfer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransferState {
    /// Bytes are moving.
    Running,
    /// All bytes moved and were verified.
    Finished,
    /// The destination had it.
    Exists,
    /// The registry took it from another repository.
    Mounted,
}

/// A descriptor a process writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

fn lossy<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}
