//! Errors and warnings as values; rendering them is the caller's.

use crate::span::Span;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The Dockerfile must not be built.
    Error,
    /// The Dockerfile builds; a lint rule has something to say.
    Warning,
}

/// A finding in a Dockerfile, with all that a renderer needs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Diagnostic {
    /// Whether the build may start.
    pub severity: Severity,
    /// Name of the lint rule, `None` for a plain error.
    pub rule: Option<&'static str>,
    /// What is wrong: lower case, no full stop; lint messages are BuildKit's own texts.
    pub message: String,
    /// The characters at fault.
    pub span: Option<Span>,
    /// First and last line of the instruction at fault, counted from 1.
    pub lines: Option<(u32, u32)>,
    /// What to do, or the name that was probably meant: "did you mean `COPY`?".
    pub hint: Option<String>,
    /// A page that explains the rule.
    pub url: Option<&'static str>,
}

impl Diagnostic {
    /// Makes an error without a place.
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            rule: None,
            message: message.into(),
            span: None,
            lines: None,
            hint: None,
            url: None,
        }
    }

    /// Makes the warning of a lint rule without a place.
    pub fn warning(rule: &crate::lint::Rule, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, rule: Some(rule.name), url: rule.url, ..Self::error(message) }
    }

    /// Adds the characters at fault.
    #[must_use]
    pub fn at(mut self, span: Span) -> Self {
        self.span = Some(span);
        self
    }

    /// Adds the lines of the instruction at fault.
    #[must_use]
    pub fn on_lines(mut self, start: u32, end: u32) -> Self {
        self.lines = Some((start, end));
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the nearest of the names that would have been right, if one is near.
    #[must_use]
    pub fn suggest<'a>(self, name: &str, names: impl IntoIterator<Item = &'a str>) -> Self {
        match crate::suggest::nearest(name, names) {
            Some(near) => self.with_hint(format!("did you mean `{near}`?")),
            None => self,
        }
    }

    /// Tells whether this forbids the build.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some((line, _)) = self.lines {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}
