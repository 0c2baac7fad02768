//! `rbuild lint` and `rbuild build --check`: what lint rules find.

use rbuild_builder::{Bases, Build, BuildError, Checked};
use rbuild_dockerfile::Diagnostic;

use super::parse::Verdict;
use super::{print, shown_path};
use crate::args::{LintArgs, LintFormat};
use crate::render::diagnostic::{self, Colour};
use crate::render::findings::{self, Findings};
use crate::settings::{self, Usage};

/// Checks a Dockerfile without asking for anything that is not on this machine.
pub(crate) async fn run(args: LintArgs, colour: Colour) -> anyhow::Result<Verdict> {
    let options = settings::lint_options(&args, &super::environment)?;
    let verdict = report(Build::from(options).check(Bases::Assume).await, args.format, colour)?;
    Ok(if verdict == Verdict::Warned { Verdict::Accepted } else { verdict })
}

/// Prints findings; a refused Dockerfile is one for programs, and an error for people.
pub(super) fn report(
    checked: Result<Checked, BuildError>,
    format: LintFormat,
    colour: Colour,
) -> anyhow::Result<Verdict> {
    let (name, text, warnings, errors) = match checked {
        Ok(Checked { name, dockerfile, findings, violation }) => {
            (name, dockerfile.text, findings, Vec::from_iter(violation))
        }
        Err(BuildError::Refused { name, text, diagnostics }) if format != LintFormat::Text => {
            let (errors, warnings) = diagnostics.into_iter().partition(Diagnostic::is_error);
            (name, text, warnings, errors)
        }
        Err(error) => return Err(error.into()),
    };
    let name = shown_path(&name);
    let found = Findings { name: &name, text: &text, warnings: &warnings, errors: &errors };
    match format {
        LintFormat::Json => print(&format!("{:#}\n", findings::json(&found)))?,
        LintFormat::Sarif => print(&format!("{:#}\n", findings::sarif(&found)))?,
        LintFormat::Text => {
            if !warnings.is_empty() {
                print(&format!("{}\n\n", diagnostic::render(&name, &text, &warnings, colour)))?;
            }
            print(&summary(warnings.len()))?;
            if let Some(violation) = errors.first() {
                return Err(Usage::new(violation.message.clone()).into());
            }
        }
    }
    Ok(match (errors.is_empty(), warnings.is_empty()) {
        (true, true) => Verdict::Accepted,
        (true, false) => Verdict::Warned,
        (false, _) => Verdict::Rejected,
    })
}

fn summary(count: usize) -> String {
    match count {
        0 => "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        count => format!("Check complete, {count} warnings have been found!\n"),
    }
}
