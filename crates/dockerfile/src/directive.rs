//! Parser directives: `# syntax=`, `# escape=`, `# check=`.

use crate::span::Spanned;

/// The directives at the top of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// The frontend image that `# syntax=` names, up to the first space.
    pub syntax: Option<Spanned<String>>,
    /// The escape character: `\` or `` ` ``.
    pub escape: char,
    /// What `# check=` says.
    pub check: Option<Check>,
}

impl Default for Directives {
    fn default() -> Self {
        Self { syntax: None, escape: '\\', check: None }
    }
}

/// Which lint rules apply: `skip=A,B;experimental=all;error=true`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Check {
    /// Rules that stay silent.
    pub skip: Vec<String>,
    /// Whether all rules stay silent.
    pub skip_all: bool,
    /// Experimental rules that are on.
    pub experimental: Vec<String>,
    /// Whether all experimental rules are on.
    pub experimental_all: bool,
    /// Whether a finding makes the build fail.
    pub error: bool,
}
