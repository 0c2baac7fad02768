//! What a plan depends on beside the Dockerfile.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rbuild_dockerfile::Diagnostic;
use rbuild_image::Platform;

use super::step::Network;

/// What the command line says about a build, as far as planning is concerned.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// `--target`; `None` is the last stage.
    pub target: Option<String>,
    /// `--build-arg`, with a value for each.
    pub build_args: BTreeMap<String, String>,
    /// The platform of the result.
    pub platform: Platform,
    /// Whether `platform` was asked for.
    pub platform_origin: PlatformOrigin,
    /// The platform the build runs on.
    pub build_platform: Platform,
    /// What runs programs of other architectures (Go's names) on the build platform.
    pub emulators: BTreeMap<String, Emulator>,
    /// The names of `--build-context`, with `::platform` where given.
    pub named_contexts: BTreeSet<String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--network`.
    pub network: Network,
    /// Which stages are planned.
    pub scope: Scope,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            platform: Platform::host(),
            platform_origin: PlatformOrigin::Host,
            build_platform: Platform::host(),
            emulators: BTreeMap::new(),
            named_contexts: BTreeSet::new(),
            labels: BTreeMap::new(),
            network: Network::Default,
            scope: Scope::Target,
        }
    }
}

/// How the kernel runs programs of a foreign architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emulator {
    /// The interpreter is held open and works in every rootfs (flag F of binfmt_misc).
    Fixed,
    /// The interpreter would have to be in the rootfs, where it is not.
    NotFixed,
}

/// Where the platform of a build comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlatformOrigin {
    /// `--platform` was given: the result's config says this platform, whatever the base says.
    Requested,
    /// It is the host's, taken for want of another: the result keeps the platform of its base.
    Host,
}

/// Which stages are planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those the target needs.
    Target,
    /// All, as a check of the whole Dockerfile wants it.
    All,
}

/// Why a Dockerfile cannot be built: at least one diagnostic of severity error.
#[derive(Debug, Clone)]
pub struct PlanError(pub Vec<Diagnostic>);

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("the Dockerfile cannot be built"),
            [first] => f.write_str(&first.message),
            [first, rest @ ..] => write!(f, "{} (and {} more)", first.message, rest.len()),
        }
    }
}

impl std::error::Error for PlanError {}

impl From<Diagnostic> for PlanError {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl From<Box<Diagnostic>> for PlanError {
    fn from(diagnostic: Box<Diagnostic>) -> Self {
        Self(vec![*diagnostic])
    }
}
