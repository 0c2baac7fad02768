//! Which paths of a copied directory are meant: `--exclude` and the patterns of `--parents`.

use std::path::Path;

use rbuild_dockerfile::IgnoreFile;
use rbuild_dockerfile::ignore::IgnoreError;

/// The paths within a source that are copied; everything by default.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    include: Option<IgnoreFile>,
    exclude: Option<IgnoreFile>,
}

impl Selection {
    /// Compiles `--exclude` patterns and, for `--parents`, the one pattern that is included.
    ///
    /// # Errors
    /// A pattern is malformed.
    pub(crate) fn new(include: Option<&str>, exclude: &[String]) -> Result<Self, IgnoreError> {
        let exclude = match exclude {
            [] => None,
            patterns => Some(IgnoreFile::from_patterns(patterns.iter().map(String::as_str))?),
        };
        let include = include.map(|pattern| IgnoreFile::from_patterns([pattern])).transpose()?;
        Ok(Self { include, exclude })
    }

    /// Tells whether a path, relative to the source, is copied.
    pub(crate) fn selects(&self, path: &Path) -> bool {
        let matched = |patterns: &IgnoreFile| patterns.is_ignored(&path.to_string_lossy());
        self.include.as_ref().is_none_or(matched) && !self.exclude.as_ref().is_some_and(matched)
    }
}
