//! `.dockerignore`: patterns compiled once, matched without backtracking.

/// The compiled patterns of an ignore file.
#[derive(Debug, Clone, Default)]
pub struct IgnoreFile {
    patterns: Vec<String>,
}

/// What is known of a path's parent directory; [`ParentMatch::default`] for entries of the root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ParentMatch {
    matched: Vec<bool>,
}

/// Why an ignore file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    /// A lone `!`.
    #[error("line {line}: illegal exclusion pattern `!`")]
    LoneExclusion {
        /// The line, counted from 1.
        line: u32,
    },
    /// A pattern that is not well formed.
    #[error("line {line}: syntax error in pattern `{pattern}`")]
    BadPattern {
        /// The line, counted from 1.
        line: u32,
        /// The pattern.
        pattern: String,
    },
}

impl IgnoreFile {
    /// Reads and compiles an ignore file.
    ///
    /// # Errors
    /// When a pattern is not well formed.
    pub fn parse(text: &[u8]) -> Result<Self, IgnoreError> {
        let _ = text;
        unimplemented!()
    }

    /// Compiles patterns one by one, as `--exclude` gives them.
    ///
    /// # Errors
    /// When a pattern is not well formed.
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, IgnoreError> {
        let _ = patterns.into_iter().count();
        unimplemented!()
    }

    /// Returns the patterns as they were understood: trimmed, cleaned, `!` in front where they re-include.
    #[must_use]
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Tells whether any pattern begins with `!`.
    #[must_use]
    pub fn has_exclusions(&self) -> bool {
        unimplemented!()
    }

    /// Tells whether a path is ignored, all its parents considered.
    #[must_use]
    pub fn is_ignored(&self, path: &str) -> bool {
        let _ = path;
        unimplemented!()
    }

    /// Tells whether a path is ignored, given what [`IgnoreFile::matches`] said of its parent, and what its children need.
    #[must_use]
    pub fn matches(&self, path: &str, parent: &ParentMatch) -> (bool, ParentMatch) {
        let _ = (path, parent);
        unimplemented!()
    }

    /// Tells whether nothing below an ignored directory can be re-included, so that it need not be entered.
    #[must_use]
    pub fn can_skip_dir(&self, path: &str) -> bool {
        let _ = path;
        unimplemented!()
    }
}
