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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Verb};

    fn call(line: &str) -> Result<Call, String> {
        let args = std::iter::once("rbuild").chain(line.split_whitespace());
        let Verb::Build(args) = Cli::from_args(args.map(Into::into)).unwrap().verb else { panic!("{line}") };
        Call::new(&args).map_err(|error| error.to_string())
    }

    #[test]
    fn methods_and_formats_are_read() {
        for (line, expect) in [
            ("", Call::Build),
            ("--call build", Call::Build),
            ("--check", Call::Check(LintFormat::Text)),
            ("--call=lint", Call::Check(LintFormat::Text)),
            ("--check --call=check,format=sarif", Call::Check(LintFormat::Sarif)),
            ("--call=outline,format=json", Call::Outline(LintFormat::Json)),
            ("--call targets", Call::Targets(LintFormat::Text)),
        ] {
            assert_eq!(call(line).as_ref(), Ok(&expect), "{line}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (line, expect) in [
            ("--call nothing", "--call \"nothing\" is not a method"),
            ("--call=outline,format=sarif", "--call outline,format=sarif: unknown option \"format=sarif\""),
            ("--call=check,x", "--call check,x: unknown option \"x\""),
            ("--check --call outline", "--check contradicts --call outline"),
            ("--check --call build", "--check contradicts --call build"),
        ] {
            assert_eq!(call(line), Err(expect.to_owned()), "{line}");
        }
    }
}
