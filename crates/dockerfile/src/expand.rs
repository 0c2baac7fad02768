//! Variable expansion: the shell-like words of a Dockerfile.

use std::collections::BTreeSet;

/// Expands words; the fields say how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expander {
    /// The escape character.
    pub escape: char,
    /// What happens to quotes.
    pub quotes: Quotes,
    /// Whether a variable without a value stays as it is written, instead of becoming empty.
    pub keep_unset: bool,
}

/// What an [`Expander`] does with quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quotes {
    /// They quote, and are removed.
    Remove,
    /// They quote, and stay.
    Keep,
    /// They are characters like others: heredoc bodies.
    Ignore,
}

/// An expanded word.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// The result.
    pub text: String,
    /// The names that were used and have a value.
    pub matched: BTreeSet<String>,
    /// The names that were used and have none.
    pub unmatched: BTreeSet<String>,
}

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// The word is not well formed.
    #[error("{0}")]
    Syntax(String),
    /// `${name:?text}` without a value.
    #[error("{name}: {text}")]
    Required {
        /// The variable.
        name: String,
        /// The text behind `?`, or a default one.
        text: String,
    },
}

impl Expander {
    /// Makes the expander of instruction arguments.
    #[must_use]
    pub fn new(escape: char) -> Self {
        Self { escape, quotes: Quotes::Remove, keep_unset: false }
    }

    /// Makes the expander of heredoc bodies: the escape is always `\`, quotes are ordinary characters.
    #[must_use]
    pub fn heredoc() -> Self {
        Self { escape: '\\', quotes: Quotes::Ignore, keep_unset: false }
    }

    /// Expands to one string.
    ///
    /// # Errors
    /// When quotes or braces are not closed, a modifier is unknown, or a required variable has no value.
    pub fn word(&self, word: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Expanded, ExpandError> {
        let _ = (word, lookup);
        unimplemented!()
    }

    /// Expands, then splits at unquoted white space.
    ///
    /// # Errors
    /// As [`Expander::word`].
    pub fn words(
        &self,
        word: &str,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Vec<String>, ExpandError> {
        let _ = (word, lookup);
        unimplemented!()
    }
}
