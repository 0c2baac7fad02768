//! Why a build failed.

use std::path::PathBuf;

use rbuild_dockerfile::{Diagnostic, Span};
use rbuild_image::StoreError;
use rbuild_layers::store::StoreDirError;
use rbuild_registry::CopyError;
use rbuild_sandbox::{CgroupError, Isolation, LimitRefused, Unavailable};
use thiserror::Error;

use crate::context::{ContextError, NamedContextError};
use crate::execute::{RemoteError, StepError};
use crate::export::ExportError;

/// Why a build failed. No tag moved, and nothing half-done stays.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The Dockerfile must not be built: at least one diagnostic of severity error.
    #[error("{} cannot be built: {}", name, first_message(diagnostics))]
    Refused {
        /// The Dockerfile's name, as given.
        name: String,
        /// Its text, which the diagnostics' spans point into.
        text: String,
        /// What is wrong.
        diagnostics: Vec<Diagnostic>,
    },
    /// The Dockerfile cannot be read.
    #[error("cannot read the Dockerfile {}", path.display())]
    Dockerfile {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The build context cannot be used.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A named context cannot be used.
    #[error(transparent)]
    NamedContext(#[from] NamedContextError),
    /// A context that is elsewhere cannot be had.
    #[error("cannot read the build context {name}")]
    Fetch {
        /// The context as it may be shown.
        name: String,
        /// Why.
        source: Box<RemoteError>,
    },
    /// An option of the build has a value that means nothing.
    #[error("invalid {option} {value:?}: {reason}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An image that the Dockerfile names cannot be found.
    #[error(transparent)]
    Resolve(Box<Unresolved>),
    /// An image was found and cannot be used.
    #[error("cannot use the image {name}: {reason}")]
    Base {
        /// The name as the Dockerfile has it.
        name: String,
        /// What is wrong with it.
        reason: String,
        /// Where the Dockerfile names it.
        place: Option<Box<Place>>,
    },
    /// The files of a named context cannot be the base of a stage.
    #[error("cannot start from the files of {name}")]
    BaseTree {
        /// The name as the Dockerfile has it.
        name: String,
        /// Why.
        source: Box<StepError>,
    },
    /// This host cannot run the steps.
    #[error("cannot run RUN steps on this host")]
    Isolation(#[from] Unavailable),
    /// The steps of this host cannot have a limit that is asked for.
    #[error(transparent)]
    Limit(#[from] LimitRefused),
    /// Steps cannot run in the cgroup that is asked for.
    #[error("cannot run steps in the cgroup of --cgroup-parent")]
    Cgroup(#[from] CgroupError),
    /// A step is to run without confinement where that is what isolates it.
    #[error(
        "RUN --security=insecure is not possible in isolation {isolation}, whose filter is what makes it"
    )]
    Confinement {
        /// The isolation in use.
        isolation: Isolation,
    },
    /// The isolation is for users who cannot give files away, and this one can.
    #[error(
        "isolation {isolation} records the owners of files, and in this store files have their own; \
         choose another isolation, or build as a user who is not root"
    )]
    Owners {
        /// The isolation that was asked for.
        isolation: Isolation,
    },
    /// A step failed.
    #[error(transparent)]
    Step(Box<FailedStep>),
    /// A push failed.
    #[error("cannot push {name}")]
    Push {
        /// The name.
        name: String,
        /// Why.
        source: Box<CopyError>,
    },
    /// An output cannot be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreDirError),
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// An image that cannot be found.
#[derive(Debug)]
pub struct Unresolved {
    /// The name as the Dockerfile has it.
    pub name: String,
    /// Where the Dockerfile names it.
    pub place: Option<Box<Place>>,
    /// Why.
    pub source: StoreError,
}

impl std::fmt::Display for Unresolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot resolve the image {}", self.name)
    }
}

impl std::error::Error for Unresolved {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // A registry's error names the request; what stands between says "cannot resolve" a second time.
        let request = std::error::Error::source(&self.source);
        request.filter(|cause| cause.is::<rbuild_registry::Error>()).or(Some(&self.source))
    }
}

/// A place in a Dockerfile, for an error that is met outside of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The Dockerfile's name, as given.
    pub dockerfile: String,
    /// Its text, which `span` points into.
    pub text: String,
    /// The instruction.
    pub span: Span,
    /// What was probably meant.
    pub hint: Option<String>,
}

/// A step that failed, and its place.
#[derive(Debug, Error)]
#[error("[{stage} {number}/{total}] {display}")]
pub struct FailedStep {
    /// The name of its stage.
    pub stage: String,
    /// Its number in the stage, from 1.
    pub number: usize,
    /// How many steps the stage has.
    pub total: usize,
    /// The instruction as it is shown.
    pub display: String,
    /// The instruction in the Dockerfile.
    pub place: Place,
    /// Why.
    pub source: StepError,
}

/// What kind of failure it is, for a caller that has one answer per kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The build itself failed.
    Build,
    /// The Dockerfile was refused, or an option makes no sense.
    Usage,
    /// A registry did not give or take something.
    Registry,
    /// This host cannot do it.
    Host,
    /// Somebody asked for it.
    Cancelled,
}

impl BuildError {
    pub(crate) fn fetch(name: &str, error: RemoteError) -> Self {
        match error {
            RemoteError::Cancelled => Self::Cancelled,
            error => Self::Fetch { name: name.to_owned(), source: Box::new(error) },
        }
    }

    /// Adds the place that names an image to an error about that image.
    pub(crate) fn in_dockerfile(mut self, find: impl FnOnce(&str) -> Option<Place>) -> Self {
        match &mut self {
            Self::Resolve(unresolved) => unresolved.place = find(&unresolved.name).map(Box::new),
            Self::Base { name, place, .. } => *place = find(name).map(Box::new),
            _ => {}
        }
        self
    }

    /// Returns where the Dockerfile names the image that this error is about.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Resolve(unresolved) => unresolved.place.as_deref(),
            Self::Base { place, .. } => place.as_deref(),
            _ => None,
        }
    }

    /// Tells whether a cache elsewhere lacks a layer, without which the build can begin again.
    pub(crate) fn is_lost_cache(&self) -> bool {
        let causes = std::iter::successors(Some(self as &dyn std::error::Error), |error| error.source());
        causes.filter_map(|cause| cause.downcast_ref()).any(|cause| matches!(cause, StepError::CacheLost))
    }

    /// Tells what kind of failure this is.
    pub fn failure(&self) -> Failure {
        // A full disk is met wherever bytes are written, also while a registry answers.
        if is_disk_full(self) {
            return Failure::Build;
        }
        match self {
            Self::Refused { .. }
            | Self::Dockerfile { .. }
            | Self::Context(_)
            | Self::NamedContext(_)
            | Self::Option { .. } => Failure::Usage,
            Self::Resolve(_) | Self::Push { .. } => Failure::Registry,
            Self::Isolation(_)
            | Self::Limit(_)
            | Self::Cgroup(_)
            | Self::Confinement { .. }
            | Self::Owners { .. } => Failure::Host,
            Self::Cancelled => Failure::Cancelled,
            Self::Step(failed) => match failed.source {
                StepError::Fetch { .. } => Failure::Registry,
                StepError::Cancelled => Failure::Cancelled,
                _ => Failure::Build,
            },
            Self::Fetch { .. }
            | Self::Base { .. }
            | Self::BaseTree { .. }
            | Self::Export(_)
            | Self::Store(_) => Failure::Build,
        }
    }
}

fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let full = [std::io::ErrorKind::StorageFull, std::io::ErrorKind::QuotaExceeded];
    causes
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| full.contains(&cause.kind()))
}

fn first_message(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().find(|diagnostic| diagnostic.is_error()).map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io;

    use rbuild_image::StoreErrorKind;

    use super::*;

    #[test]
    fn tells_a_full_disk_from_a_registry_that_fails() {
        let check = |source: StoreError, expect: Failure| {
            let source =
                StepError::Fetch { image: "a".into(), store: "/store".into(), source: Box::new(source) };
            let (stage, display) = ("s".to_owned(), "RUN x".to_owned());
            let place = Place {
                dockerfile: "Dockerfile".to_owned(),
                text: "RUN x".to_owned(),
                span: Span::new(0, 5),
                hint: None,
            };
            let failed = FailedStep { stage, number: 1, total: 1, display, place, source };
            assert_eq!(BuildError::Step(Box::new(failed)).failure(), expect);
        };
        check(StoreError::new(StoreErrorKind::Unavailable, "down"), Failure::Registry);
        check(StoreError::io("cannot store", io::Error::from(io::ErrorKind::StorageFull)), Failure::Build);
        check(StoreError::io("cannot read", io::Error::from(io::ErrorKind::TimedOut)), Failure::Registry);
    }
}
