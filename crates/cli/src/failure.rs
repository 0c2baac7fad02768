//! From errors of the libraries to what the user gets: a text, hints and an exit code. Nothing else decides these.

use std::fmt;
use std::io;

use rbuild_builder::execute::StepError;
use rbuild_builder::{BuildError, FailedStep, Failure as BuildFailure, Place};
use rbuild_dockerfile::line_col;
use rbuild_image::{LayoutError, StoreError, StoreErrorKind};
use rbuild_layers::store::StoreDirError;
use rbuild_registry::CopyError;

use crate::interrupt::Interrupted;
use crate::render::diagnostic::{self, Colour};
use crate::render::{one_line, printable};
use crate::settings::Usage;

/// The build failed, or anything not named below.
pub(crate) const BUILD: u8 = 1;
/// The command line or the Dockerfile is wrong.
pub(crate) const USAGE: u8 = 2;
/// A registry did not do what it was asked.
pub(crate) const REGISTRY: u8 = 3;
/// This host cannot do what it was asked.
pub(crate) const HOST: u8 = 4;

/// What is shown of an error.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// Without `error: `.
    message: String,
    /// Drawn above the message.
    excerpt: Option<String>,
    hints: Vec<String>,
}

impl Failure {
    /// Finds code and hints among an error's causes.
    pub(crate) fn of(error: &anyhow::Error, colour: Colour) -> Self {
        let mut failure = Self { code: BUILD, message: chain(error), excerpt: None, hints: Vec::new() };
        if let Some(built) = error.downcast_ref::<BuildError>() {
            failure.code = code(built);
        }
        if let Some(BuildError::Step(step)) = error.downcast_ref() {
            failure.excerpt = Some(step_excerpt(step, colour));
        }
        if let Some(place) = error.downcast_ref().and_then(BuildError::place) {
            let line = line_col(&place.text, place.span.start).0;
            failure.excerpt =
                diagnostic::excerpt(&place.dockerfile, &place.text, line, &error.to_string(), colour);
            failure.hints.extend(place.hint.clone());
        }
        if let Some(BuildError::Refused { name, text, diagnostics }) = error.downcast_ref() {
            failure.excerpt = Some(diagnostic::render(name, text, diagnostics, colour));
            failure.message = match diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count() {
                0 | 1 => format!("{name} cannot be built because of the error above"),
                count => format!("{name} cannot be built because of the {count} errors above"),
            };
        }
        if let Some((code, hint)) = error.chain().find_map(judge) {
            failure.code = code;
            failure.hints.extend(hint);
        }
        failure.hints.extend(error.chain().find_map(disk_hint));
        if error.chain().any(|cause| cause.is::<StoreDirError>()) && error.chain().any(is_forbidden) {
            failure.hints.push("put the store where you may write, with --root or RBUILD_ROOT".to_owned());
        }
        failure
    }
}

/// Draws what a failed step wrote last, and its place in the Dockerfile.
fn step_excerpt(step: &FailedStep, colour: Colour) -> String {
    let Place { dockerfile, text, span, .. } = &step.place;
    let (output, message) = match &step.source {
        StepError::Exit { output, code, .. } => (output.as_slice(), format!("exit code: {code}")),
        other => ([].as_slice(), other.to_string()),
    };
    let mut drawn = String::new();
    if !output.is_empty() {
        let output: String = output.iter().map(|line| format!("  {}\n", printable(line))).collect();
        drawn = format!("last output of {}:\n{output}\n", one_line(&step.display));
    }
    let line = line_col(text, span.start).0;
    drawn.extend(diagnostic::excerpt(dockerfile, text, line, &message, colour));
    drawn
}

/// The exit code of a failed build.
fn code(error: &BuildError) -> u8 {
    match error.failure() {
        BuildFailure::Build => BUILD,
        BuildFailure::Usage => USAGE,
        BuildFailure::Registry => REGISTRY,
        BuildFailure::Host => HOST,
        BuildFailure::Cancelled => Interrupted::Interrupt.code(),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(excerpt) = &self.excerpt {
            writeln!(f, "{excerpt}")?;
        }
        writeln!(f, "error: {}", self.message)?;
        self.hints.iter().try_for_each(|hint| writeln!(f, "hint: {hint}"))
    }
}

/// Tells exit code and hint of one cause, when it is one that decides.
fn judge(cause: &(dyn std::error::Error + 'static)) -> Option<(u8, Option<String>)> {
    if let Some(usage) = cause.downcast_ref::<Usage>() {
        return Some((USAGE, usage.hint.clone()));
    }
    if let Some(interrupted) = cause.downcast_ref::<Interrupted>() {
        return Some((interrupted.code(), None));
    }
    if let Some(error) = cause.downcast_ref::<rbuild_registry::Error>() {
        return Some((REGISTRY, foreign_realm(error).or_else(|| error.hint())));
    }
    if cause.is::<rbuild_registry::CredentialsError>() {
        return Some((REGISTRY, None));
    }
    if let Some(CopyError::Platform { available, .. }) = cause.downcast_ref() {
        return Some((
            REGISTRY,
            available.first().map(|platform| format!("choose one, as --platform {platform}")),
        ));
    }
    if let Some(LayoutError::NoSuchImage { .. }) = cause.downcast_ref() {
        return Some((USAGE, Some("`rbuild images` lists the names of the store".to_owned())));
    }
    if let Some(LayoutError::Ambiguous { .. } | LayoutError::NotALayout { .. }) = cause.downcast_ref() {
        return Some((USAGE, None));
    }
    if let Some(unavailable) = cause.downcast_ref::<rbuild_sandbox::Unavailable>() {
        let _ = unavailable;
        return Some((HOST, None));
    }
    let store = match cause.downcast_ref() {
        // Transparent: the store's error is not among the causes.
        Some(CopyError::Store(error)) => Some(error),
        _ => cause.downcast_ref::<StoreError>(),
    };
    // The store's error comes before the registry's own, which knows what to do.
    let own = rbuild_registry::Error::find(store?);
    let hint = own.and_then(|own| foreign_realm(own).or_else(|| own.hint()));
    match store?.kind() {
        StoreErrorKind::Unauthorized
        | StoreErrorKind::Denied
        | StoreErrorKind::Unavailable
        | StoreErrorKind::Corrupt { .. } => Some((REGISTRY, hint)),
        _ => None,
    }
}

/// The flag with which a token service of another domain is trusted.
fn foreign_realm(error: &rbuild_registry::Error) -> Option<String> {
    match error {
        rbuild_registry::Error::ForeignRealm { registry, host } => {
            Some(format!("if it does: --registry-token-service {registry}={host}"))
        }
        rbuild_registry::Error::Authentication { source, .. } => foreign_realm(source),
        _ => None,
    }
}

fn disk_hint(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    // what an I/O error wraps is not among the causes
    let wrapped = cause.downcast_ref::<io::Error>().and_then(|error| error.get_ref()?.downcast_ref());
    match wrapped.or_else(|| cause.downcast_ref()) {
        Some(StoreDirError::Full { .. }) => {
            return Some(
                "free space, as with `rbuild gc --max-size`, or put the store elsewhere with --root"
                    .to_owned(),
            );
        }
        Some(StoreDirError::Limit { .. }) => {
            return Some(
                "raise --disk-limit, or remove images from the store with `rbuild gc --all`".to_owned(),
            );
        }
        _ => {}
    }
    match cause.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("free space, or put the store elsewhere with --root or RBUILD_ROOT".to_owned())
        }
        _ => None,
    }
}

fn is_forbidden(cause: &(dyn std::error::Error + 'static)) -> bool {
    let kinds = [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem];
    cause.downcast_ref::<io::Error>().is_some_and(|error| kinds.contains(&error.kind()))
}

/// Joins an error and its causes with colons; a cause that its parent already quotes is left out.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    fn check(error: anyhow::Error, code: u8, text: &str) {
        let failure = Failure::of(&error, Colour::Never);
        assert_eq!((failure.code, failure.to_string().as_str()), (code, text));
    }

    #[test]
    fn causes_decide() {
        check(Usage::new("no").hint("yes").into(), USAGE, "error: no\nhint: yes\n");
        check(anyhow::anyhow!("a").context("b"), BUILD, "error: b: a\n");
        check(Interrupted::Interrupt.into(), 130, "error: interrupted\n");
        check(Interrupted::Terminate.into(), 143, "error: terminated\n");
        let missing = LayoutError::NoSuchImage { path: "/s".into(), name: "a".into() };
        check(
            missing.into(),
            USAGE,
            "error: no image a in \"/s\"\nhint: `rbuild images` lists the names of the store\n",
        );
        let denied = StoreError::new(StoreErrorKind::Denied, "cannot push");
        check(
            anyhow::Error::new(denied).context("cannot push app"),
            REGISTRY,
            "error: cannot push app: cannot push\n",
        );
    }

    #[test]
    fn failed_steps_are_shown_in_their_dockerfile() {
        let step = FailedStep {
            stage: "build".to_owned(),
            number: 1,
            total: 2,
            display: "RUN make".to_owned(),
            place: Place {
                dockerfile: "Dockerfile".to_owned(),
                text: "FROM scratch\nRUN make\n".to_owned(),
                span: rbuild_dockerfile::Span::new(13, 21),
                hint: None,
            },
            source: StepError::Exit {
                command: "/bin/sh -c make".to_owned(),
                code: 2,
                signal: None,
                output: vec!["no rule\u{1b}[0m".to_owned()],
            },
        };
        let expect = "last output of RUN make:
  no rule

 --> Dockerfile:2:1
  |
2 | RUN make
  | ^^^^^^^^ exit code: 2
error: [build 1/2] RUN make: `/bin/sh -c make` did not complete successfully: exit code: 2
";
        check(BuildError::Step(Box::new(step)).into(), BUILD, expect);
    }

    #[test]
    fn refused_dockerfiles_are_drawn() {
        let refused = BuildError::Refused {
            name: "Dockerfile".to_owned(),
            text: "FORM scratch\n".to_owned(),
            diagnostics: vec![
                rbuild_dockerfile::Diagnostic::error("unknown instruction: FORM").on_lines(1, 1),
            ],
        };
        let expect = "error: unknown instruction: FORM
 --> Dockerfile:1:1
  |
1 | FORM scratch
  | ^^^^^^^^^^^^
error: Dockerfile cannot be built because of the error above
";
        check(refused.into(), USAGE, expect);
    }

    #[test]
    fn unresolved_images_are_shown_where_they_are_named() {
        let text = "FROM scratch AS build\nFROM biuld\n".to_owned();
        let place = rbuild_builder::Place {
            dockerfile: "Dockerfile".to_owned(),
            span: rbuild_dockerfile::Span::new(22, 32),
            text,
            hint: Some("did you mean the stage build?".to_owned()),
        };
        let unresolved = rbuild_builder::Unresolved {
            name: "biuld".to_owned(),
            place: Some(Box::new(place)),
            source: StoreError::new(StoreErrorKind::NotFound, "there is no registry client"),
        };
        let expect = " --> Dockerfile:2:1
  |
2 | FROM biuld
  | ^^^^^^^^^^ cannot resolve the image biuld
error: cannot resolve the image biuld: there is no registry client
hint: did you mean the stage build?
";
        check(BuildError::Resolve(Box::new(unresolved)).into(), REGISTRY, expect);
    }

    #[test]
    fn full_disks_are_explained() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = Err::<(), _>(full).context("cannot write layer").unwrap_err();
        let text = Failure::of(&error, Colour::Never).to_string();
        assert!(text.contains("hint: free space"), "{text}");
    }

    #[test]
    fn quoted_causes_are_not_repeated() {
        let error = anyhow::anyhow!("deep").context("middle: deep").context("top");
        check(error, BUILD, "error: top: middle: deep\n");
    }
}
