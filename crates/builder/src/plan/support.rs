//! What is refused before the first step: what is not executed yet, what nobody gave or allowed, what cannot run here.
//!
//! Taking a feature over is deleting its line from [`REFUSED`].

use std::collections::BTreeMap;

use rbuild_dockerfile::{Diagnostic, Dockerfile};
use rbuild_image::{Platform, Reference};

use super::options::{Emulator, Entitlement, PlanOptions};
use super::step::{Network, PlannedStage, RunStep, Security, StepKind, StepMount};
use super::warning;

/// Something a Dockerfile can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// A stage for Windows.
    Windows,
}

/// The features that are refused, with their names in messages.
pub const REFUSED: &[(Feature, &str)] = &[(Feature::Windows, "building for windows")];

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
        let mut errors = Vec::new();
        if let StepKind::Run(run) = &step.kind {
            errors.extend(foreign.then(|| foreign_run(&wanted, options)).flatten());
            errors.extend(missing_mounts(run, options));
            errors.extend(forbidden(run, options));
            errors.extend(missing_device(run, options));
        }
        if wanted.os == "windows" {
            let named = REFUSED.iter().filter(|(feature, _)| *feature == Feature::Windows);
            errors.extend(named.map(|(_, name)| Diagnostic::error(format!("{name} is not supported yet"))));
        }
        out.extend(errors.into_iter().map(|error| *warning::place(error, dockerfile, step.span)));
    }
    out
}

/// Refuses what a `RUN` requires and nobody gave; BuildKit says it in these words when the step runs.
fn missing_mounts(run: &RunStep, options: &PlanOptions) -> Vec<Diagnostic> {
    let missing =
        |mount: &StepMount| match mount {
            StepMount::Secret(secret) if secret.required && !options.secrets.contains(&secret.id) => {
                let id = &secret.id;
                let error = Diagnostic::error(format!("secret {id}: not found"));
                Some(error.with_hint(format!(
                    "give it with --secret id={id},src=FILE or --secret id={id},env=NAME"
                )))
            }
            StepMount::Ssh(ssh) if ssh.required && !options.agents.contains(&ssh.id) => {
                let id = &ssh.id;
                let error = Diagnostic::error(format!("no SSH key {id:?} forwarded"));
                Some(error.with_hint(format!("forward an agent with --ssh {id}, or --ssh {id}=SOCKET")))
            }
            _ => None,
        };
    run.mounts.iter().filter_map(missing).collect()
}

/// Refuses what only `--allow` gives.
fn forbidden(run: &RunStep, options: &PlanOptions) -> Vec<Diagnostic> {
    let escapes = run.network == Network::Host && options.network == Network::None;
    let wanted = [
        (escapes, Entitlement::NetworkHost, "RUN --network=host in a build without network"),
        (run.security == Security::Insecure, Entitlement::SecurityInsecure, "RUN --security=insecure"),
        (!run.devices.is_empty(), Entitlement::Device, "RUN --device"),
    ];
    let refused =
        wanted.into_iter().filter(|(wanted, entitlement, _)| *wanted && !options.allow.contains(entitlement));
    refused
        .map(|(_, entitlement, what)| {
            Diagnostic::error(format!("{what} is not allowed"))
                .with_hint(format!("allow it with --allow {}", entitlement.name()))
        })
        .collect()
}

/// Refuses a device that may exist. One that no file describes is absent, which is an error only when it is required.
///
/// # References
/// Container Device Interface, "CDI JSON Specification"
fn missing_device(run: &RunStep, options: &PlanOptions) -> Option<Diagnostic> {
    if !options.allow.contains(&Entitlement::Device) {
        return None;
    }
    let device = run.devices.first()?;
    if let Some(specification) = options.device_specifications.first() {
        let error = format!(
            "RUN --device is not supported where devices are described ({})",
            specification.display()
        );
        return Some(Diagnostic::error(error));
    }
    let is_required = |device: &&String| {
        device.split(',').any(|field| {
            field.strip_prefix("required").is_some_and(|value| matches!(value, "" | "=true" | "=1" | "=t"))
        })
    };
    run.devices.iter().find(is_required)?;
    let name = device.split(',').next().unwrap_or(device);
    Some(Diagnostic::error(format!("required device {name:?} is not registered on this host")))
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
