//! What is parsed and planned but not executed yet, as data.
//!
//! Taking a feature over is deleting its line from [`REFUSED`].

use rbuild_dockerfile::{Diagnostic, Dockerfile};

use super::options::PlanOptions;
use super::step::{CopySource, CopyStep, PlannedStage, RunStep, Security, StepKind, StepMount};
use super::warning;

/// Something a Dockerfile can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// `RUN --mount=type=bind`.
    MountBind,
    /// `RUN --mount=type=cache`.
    MountCache,
    /// `RUN --mount=type=tmpfs`.
    MountTmpfs,
    /// `RUN --mount=type=secret`, not required.
    MountSecret,
    /// `RUN --mount=type=secret,required`.
    MountSecretRequired,
    /// `RUN --mount=type=ssh`.
    MountSsh,
    /// `RUN --security=insecure`.
    SecurityInsecure,
    /// `RUN --device`.
    Device,
    /// `RUN` for another platform than the host's.
    ForeignRun,
    /// `ADD` of a URL.
    AddUrl,
    /// `ADD` of a git repository.
    AddGit,
    /// `COPY --parents`.
    Parents,
    /// `COPY --link`, `ADD --link`.
    Link,
    /// `COPY --exclude`, `ADD --exclude`.
    Exclude,
    /// A stage for Windows.
    Windows,
}

/// The features that are refused, with their names in messages.
pub const REFUSED: &[(Feature, &str)] = &[
    (Feature::MountBind, "RUN --mount=type=bind"),
    (Feature::MountCache, "RUN --mount=type=cache"),
    (Feature::MountTmpfs, "RUN --mount=type=tmpfs"),
    (Feature::MountSecret, "RUN --mount=type=secret"),
    (Feature::MountSecretRequired, "RUN --mount=type=secret"),
    (Feature::MountSsh, "RUN --mount=type=ssh"),
    (Feature::SecurityInsecure, "RUN --security=insecure"),
    (Feature::Device, "RUN --device"),
    (Feature::ForeignRun, "RUN for another platform than the host's"),
    (Feature::AddUrl, "ADD of a URL"),
    (Feature::AddGit, "ADD of a git repository"),
    (Feature::Parents, "COPY --parents"),
    (Feature::Link, "--link"),
    (Feature::Exclude, "--exclude"),
    (Feature::Windows, "building for windows"),
];

/// Lists the refusals of a stage, each at its instruction.
pub(super) fn refusals(
    stage: &PlannedStage,
    dockerfile: &Dockerfile,
    options: &PlanOptions,
) -> Vec<Diagnostic> {
    let host = options.build_platform.normalised();
    let wanted = stage.platform.normalised();
    let foreign = (&host.os, &host.architecture) != (&wanted.os, &wanted.architecture);
    let mut out = Vec::new();
    for step in &stage.steps {
        let mut features = match &step.kind {
            StepKind::Run(run) => features_of_run(run),
            StepKind::Copy(copy) => features_of_copy(copy),
            StepKind::Workdir(_) | StepKind::Configure => Vec::new(),
        };
        if foreign && matches!(step.kind, StepKind::Run(_)) {
            features.push(Feature::ForeignRun);
        }
        if wanted.os == "windows" {
            features.push(Feature::Windows);
        }
        for (feature, name) in REFUSED {
            if features.contains(feature) {
                let error = Diagnostic::error(format!("{name} is not supported yet"));
                out.push(*warning::place(error, dockerfile, step.span));
            }
        }
    }
    out
}

fn features_of_run(run: &RunStep) -> Vec<Feature> {
    let mut features: Vec<_> = run
        .mounts
        .iter()
        .map(|mount| match mount {
            StepMount::Bind(_) => Feature::MountBind,
            StepMount::Cache(_) => Feature::MountCache,
            StepMount::Tmpfs { .. } => Feature::MountTmpfs,
            StepMount::Secret(secret) if secret.required => Feature::MountSecretRequired,
            StepMount::Secret(_) => Feature::MountSecret,
            StepMount::Ssh(_) => Feature::MountSsh,
        })
        .collect();
    if run.security == Security::Insecure {
        features.push(Feature::SecurityInsecure);
    }
    if !run.devices.is_empty() {
        features.push(Feature::Device);
    }
    features
}

fn features_of_copy(copy: &CopyStep) -> Vec<Feature> {
    let mut features = Vec::new();
    for source in &copy.sources {
        match source {
            CopySource::Url(_) => features.push(Feature::AddUrl),
            CopySource::Git(_) => features.push(Feature::AddGit),
            CopySource::Pattern(_) | CopySource::Heredoc { .. } => {}
        }
    }
    if copy.parents {
        features.push(Feature::Parents);
    }
    // BuildKit ignores --link where --chmod is set.
    if copy.link && copy.chmod.is_none() {
        features.push(Feature::Link);
    }
    if !copy.exclude.is_empty() {
        features.push(Feature::Exclude);
    }
    features
}
