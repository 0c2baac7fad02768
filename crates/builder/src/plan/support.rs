//! What is parsed and planned but not executed yet, as data.
//!
//! Taking a feature over is deleting its line from [`REFUSED`].

use std::collections::BTreeMap;

use rbuild_dockerfile::{Diagnostic, Dockerfile};
use rbuild_image::{Platform, Reference};

use super::options::{Emulator, PlanOptions};
use super::step::{PlannedStage, RunStep, Security, StepKind, StepMount};
use super::warning;

/// Something a Dockerfile can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// `RUN --mount=type=secret,required`.
    MountSecretRequired,
    /// `RUN --mount=type=ssh,required`.
    MountSshRequired,
    /// `RUN --security=insecure`.
    SecurityInsecure,
    /// `RUN --device`.
    Device,
    /// A stage for Windows.
    Windows,
}

/// The features that are refused, with their names in messages.
pub const REFUSED: &[(Feature, &str)] = &[
    (Feature::MountSecretRequired, "RUN --mount=type=secret,required"),
    (Feature::MountSshRequired, "RUN --mount=type=ssh,required"),
    (Feature::SecurityInsecure, "RUN --security=insecure"),
    (Feature::Device, "RUN --device"),
    (Feature::Windows, "building for windows"),
];

/// Refuses a `# syntax=` that names a frontend other than BuildKit's own, which is built in and never pulled.
///
/// The build argument `BUILDKIT_SYNTAX` overrides the line, as with BuildKit.
pub(super) fn frontend_refusal(
    dockerfile: &Dockerfile,
    build_args: &BTreeMap<String, String>,
) -> Option<Diagnostic> {
    let syntax = dockerfile.directives.syntax.as_ref();
    let given = build_args.get("BUILDKIT_SYNTAX").filter(|frontend| !frontend.is_empty());
    let frontend = given.or(syntax.map(|syntax| &syntax.value))?;
    let built_in = |reference: Reference| {
        matches!(reference.repository(), "docker/dockerfile" | "docker/dockerfile-upstream")
    };
    if frontend == "dockerfile.v0" || frontend.parse().is_ok_and(built_in) {
        return None;
    }
    let error = Diagnostic::error(format!(
        "the frontend {frontend} is not supported, only docker/dockerfile is"
    ))
    .with_hint(
        "to build with the built-in one all the same, pass --build-arg BUILDKIT_SYNTAX=docker/dockerfile",
    );
    Some(match syntax.filter(|_| given.is_none()) {
        Some(syntax) => error.at(syntax.span),
        None => error,
    })
}

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
            StepKind::Copy(_) | StepKind::Workdir(_) | StepKind::Configure => Vec::new(),
        };
        if foreign && matches!(step.kind, StepKind::Run(_)) {
            let error = foreign_run(&wanted, options);
            out.extend(error.map(|error| *warning::place(error, dockerfile, step.span)));
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

/// Refuses a `RUN` whose programs nothing here can run, and says what would.
fn foreign_run(wanted: &Platform, options: &PlanOptions) -> Option<Diagnostic> {
    let host = options.build_platform.normalised();
    let why = if wanted.os == host.os {
        match options.emulators.get(&wanted.architecture) {
            Some(Emulator::Fixed) => return None,
            Some(Emulator::NotFixed) => {
                "its emulator is registered without the flag F, for this file system only"
            }
            None => "no emulator is registered in /proc/sys/fs/binfmt_misc",
        }
    } else {
        "no emulator runs programs of another operating system"
    };
    Some(Diagnostic::error(format!("RUN for {wanted} cannot run on {host}: {why}")).with_hint(
        "install qemu-user-static and binfmt-support on this host (or run tonistiigi/binfmt), or RUN in stages \
         `FROM --platform=$BUILDPLATFORM` and only COPY into this one",
    ))
}

fn features_of_run(run: &RunStep) -> Vec<Feature> {
    // Nobody can give secrets or agents yet: what may be missing is missing, as in BuildKit.
    let required = |mount: &StepMount| match mount {
        StepMount::Secret(secret) if secret.required => Some(Feature::MountSecretRequired),
        StepMount::Ssh(ssh) if ssh.required => Some(Feature::MountSshRequired),
        _ => None,
    };
    let mut features: Vec<_> = run.mounts.iter().filter_map(required).collect();
    if run.security == Security::Insecure {
        features.push(Feature::SecurityInsecure);
    }
    if !run.devices.is_empty() {
        features.push(Feature::Device);
    }
    features
}
