//! Why the node side could not do what was asked, and how the interface says so.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rbuild_image::{Digest, DocumentError, ImageError, LayoutError, StoreError, StoreErrorKind};
use rbuild_layers::{SnapshotError, StoreDirError};
use tonic::{Code, Status};

use crate::policy::PolicyError;

/// Why an image could not be brought, found or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name of the image is none.
    #[error("{0}")]
    Name(String),
    /// Something in the request cannot be served.
    #[error("{0}")]
    Request(String),
    /// This node does not take the image.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The registry's client cannot be set up.
    #[error("cannot set up the registry client")]
    Client(#[source] Box<rbuild_registry::Error>),
    /// The registry failed, or a local copy of what it has.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A manifest, an index or a config cannot be read.
    #[error("cannot read {digest} of {name}")]
    Document {
        /// The image.
        name: String,
        /// The document.
        digest: Digest,
        /// Why not.
        source: DocumentError,
    },
    /// The index has no image for this node.
    #[error("{name} has no image for {platform}, only for {}", available.join(", "))]
    Platform {
        /// The image.
        name: String,
        /// This node's platform.
        platform: String,
        /// The platforms there are.
        available: Vec<String>,
    },
    /// Manifest and config do not belong together.
    #[error("{name} is no image that can be run")]
    Image {
        /// The image.
        name: String,
        /// Why not.
        source: ImageError,
    },
    /// The image is larger than images may be.
    #[error("{name} has {count} {what}, more than {limit}")]
    TooLarge {
        /// The image.
        name: String,
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        count: u64,
        /// How much there may be.
        limit: u64,
    },
    /// The disk is too full for what is missing of the image.
    #[error("`{}` has {free} bytes free, {name} needs about {needed}", path.display())]
    NoSpace {
        /// The image.
        name: String,
        /// The store.
        path: PathBuf,
        /// The bytes that are needed.
        needed: u64,
        /// The bytes that are free.
        free: u64,
    },
    /// Nothing moved for too long.
    #[error("pulling {name} made no progress for {waited:?}")]
    Stalled {
        /// The image.
        name: String,
        /// How long nothing moved.
        waited: Duration,
    },
    /// A file of the store cannot be read or written.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store cannot be used as a layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The store's directory cannot be used.
    #[error(transparent)]
    Directory(#[from] StoreDirError),
    /// A layer cannot be unpacked.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// containerd refused a call.
    #[error("containerd cannot {doing}: {} ({:?})", status.message(), status.code())]
    Containerd {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        status: Box<Status>,
    },
    /// A thread of ours ended before its work.
    #[error("the work was interrupted")]
    Interrupted,
}

/// Makes the closure that `map_err` wants for a failed system call.
pub(crate) fn failed<'a, E: Into<io::Error>>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(E) -> Error + 'a {
    move |source| Error::Io { operation, path: path.to_owned(), source: source.into() }
}

impl Error {
    /// Says it the way kubelets understand: they look at the beginning of the text, and see it only with the code
    /// UNKNOWN.
    pub(crate) fn into_status(self) -> Status {
        let text = chain(&self);
        match self.code() {
            Code::Unavailable => Status::unknown(format!("RegistryUnavailable: {text}")),
            Code::FailedPrecondition => Status::unknown(format!("SignatureValidationFailed: {text}")),
            code => Status::new(code, text),
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Name(_) | Self::Request(_) => Code::InvalidArgument,
            Self::Policy(_) => Code::FailedPrecondition,
            Self::Store(error) => match error.kind() {
                StoreErrorKind::NotFound => Code::NotFound,
                StoreErrorKind::Unauthorized => Code::Unauthenticated,
                StoreErrorKind::Denied => Code::PermissionDenied,
                StoreErrorKind::Unavailable => Code::Unavailable,
                StoreErrorKind::Corrupt { .. } => Code::DataLoss,
                _ => Code::Unknown,
            },
            Self::Platform { .. } => Code::NotFound,
            Self::NoSpace { .. } => Code::ResourceExhausted,
            Self::Stalled { .. } => Code::DeadlineExceeded,
            _ => Code::Unknown,
        }
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelets_find_their_words() {
        let store = |kind| Error::Store(StoreError::new(kind, "cannot resolve x"));
        let check = |error: Error, code: Code, text: &str| {
            let status = error.into_status();
            assert_eq!((status.code(), status.message()), (code, text));
        };
        check(store(StoreErrorKind::Unavailable), Code::Unknown, "RegistryUnavailable: cannot resolve x");
        check(store(StoreErrorKind::NotFound), Code::NotFound, "cannot resolve x");
        let rejected = PolicyError::Rejected { name: "x".into(), scope: "default".into() };
        check(
            rejected.into(),
            Code::Unknown,
            "SignatureValidationFailed: x is rejected by the policy for `default`",
        );
    }
}
