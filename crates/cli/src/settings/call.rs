//! `--call` and `--check`: what a build command does instead of building.

use super::Usage;
use crate::args::{BuildArgs, LintFormat};

/// What `rbuild build` is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// An image.
    Build,
    /// What lint rules find.
    Check(LintFormat),
    /// What the target takes.
    Outline(LintFormat),
    /// Which targets there are.
    Targets(LintFormat),
}

impl Call {
    /// Reads `METHOD[,format=FORMAT]`.
    ///
    /// # Errors
    /// An unknown method, option or format, or `--check` beside another method.
    pub(crate) fn new(args: &BuildArgs) -> Result<Self, Usage> {
        let text = args.call.as_deref().unwrap_or(if args.check { "check" } else { "build" });
        let mut parts = text.split(',');
        let method = parts.next().unwrap_or_default();
        let mut format = LintFormat::Text;
        for option in parts {
            format = match option.split_once('=') {
                Some(("format", "text")) => LintFormat::Text,
                Some(("format", "json")) => LintFormat::Json,
                Some(("format", "sarif")) if matches!(method, "check" | "lint") => LintFormat::Sarif,
                _ => {
                    return Err(Usage::new(format!("--call {text}: unknown option {option:?}"))
                        .hint("--call takes format=text and format=json, --call=check also format=sarif"));
                }
            };
        }
        match method {
            "build" if args.call.is_none() || !args.check => Ok(Self::Build),
            "check" | "lint" => Ok(Self::Check(format)),
            "outline" | "targets" if args.check => {
                Err(Usage::new(format!("--check contradicts --call {text}")))
            }
            "outline" => Ok(Self::Outline(format)),
            "targets" => Ok(Self::Targets(format)),
            "build" => Err(Usage::new("--check contradicts --call build")),
            _ => Err(Usage::new(format!("--call {method:?} is not a method"))
                .hint("there are build, check, outline and targets")),
        }
    }
}
