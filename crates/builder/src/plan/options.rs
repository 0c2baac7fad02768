//! What a plan depends on beside the Dockerfile.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use rbuild_dockerfile::Diagnostic;
use rbuild_image::Platform;

use super::epoch::ContextTime;
use super::step::{Network, Surroundings};

/// What the command line says about a build, as far as planning is concerned.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// `--target`; `None` is the last stage.
    pub target: Option<String>,
    /// `--build-arg`, with a value for each.
    pub build_args: BTreeMap<String, String>,
    /// What `ARG SOURCE_DATE_EPOCH=context` of the global scope stands for.
    pub context_time: ContextTime,
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
    /// The ids of `--secret`.
    pub secrets: BTreeSet<String>,
    /// The ids of `--ssh`.
    pub agents: BTreeSet<String>,
    /// `--allow`.
    pub allow: BTreeSet<Entitlement>,
    /// Files of this host that describe devices for `RUN --device` (CDI).
    pub device_specifications: Vec<PathBuf>,
    /// `--add-host`, `--ulimit` and `--shm-size`.
    pub surroundings: Surroundings,
    /// Which stages are planned.
    pub scope: Scope,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            context_time: ContextTime::Unset,
            platform: Platform::host(),
            platform_origin: PlatformOrigin::Host,
            build_platform: Platform::host(),
            emulators: BTreeMap::new(),
            named_contexts: BTreeSet::new(),
            labels: BTreeMap::new(),
            network: Network::Default,
            secrets: BTreeSet::new(),
            agents: BTreeSet::new(),
            allow: BTreeSet::new(),
            device_specifications: Vec::new(),
            surroundings: Surroundings::default(),
            scope: Scope::Target,
        }
    }
}

/// What a Dockerfile may ask for only when the caller allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entitlement {
    /// `RUN --network=host` in a build whose network is none.
    NetworkHost,
    /// `RUN --security=insecure`.
    SecurityInsecure,
    /// `RUN --device`.
    Device,
}

impl Entitlement {
    /// Returns the name that `--allow` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
            Self::Device => "device",
        }
    }
}

impl FromStr for Entitlement {
    type Err = UnknownEntitlement;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::NetworkHost, Self::SecurityInsecure, Self::Device];
        all.into_iter()
            .find(|entitlement| entitlement.name() == text)
            .ok_or_else(|| UnknownEntitlement(text.to_owned()))
    }
}

/// A text that names no entitlement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown entitlement {0:?}: expected one of network.host, security.insecure, device")]
pub struct UnknownEntitlement(String);

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
    /// Those the target needs, to be built.
    Target,
    /// Those the target needs, to be looked at: what cannot be executed is no error.
    Look,
    /// All, to be looked at, as a check of the whole Dockerfile wants it.
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
