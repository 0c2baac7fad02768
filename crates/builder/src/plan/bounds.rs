//! Expansion within bounds: repeated doubling (`ENV A=$A$A`) must not exhaust memory.

use std::cell::Cell;

use rbuild_dockerfile::{ExpandError, Expanded, Expander};

use super::scope::Environment;

/// Bytes a word may become: eight times what Linux takes as one environment string.
const MAX_WORD: usize = 1 << 20;

/// Bytes all words of a plan may become together: twice what a Dockerfile may have.
pub(super) const MAX_PLAN: usize = 32 << 20;

/// Expands a word.
///
/// # Errors
/// Those of the expander; and the values it takes in, or the result, are longer than 1 MiB. Values are counted before
/// they are copied.
pub(super) fn word(expander: &Expander, word: &str, env: &Environment) -> Result<Expanded, ExpandError> {
    let expanded = counted(env, |lookup| expander.word(word, lookup))?;
    if expanded.text.len() > MAX_WORD.max(word.len()) {
        return Err(too_long());
    }
    Ok(expanded)
}

/// Expands a word and splits the result at unquoted white space.
///
/// # Errors
/// As [`word`].
pub(super) fn split(expander: &Expander, word: &str, env: &Environment) -> Result<Vec<String>, ExpandError> {
    let words = counted(env, |lookup| expander.words(word, lookup))?;
    if words.iter().map(String::len).sum::<usize>() > MAX_WORD.max(word.len()) {
        return Err(too_long());
    }
    Ok(words)
}

fn counted<T>(
    env: &Environment,
    expand: impl FnOnce(&dyn Fn(&str) -> Option<String>) -> Result<T, ExpandError>,
) -> Result<T, ExpandError> {
    let taken = Cell::new(0_usize);
    let expanded = expand(&|name| {
        let value = env.get(name)?;
        taken.set(taken.get().saturating_add(value.len()));
        (taken.get() <= MAX_WORD).then(|| value.to_owned())
    });
    // First: a value that was withheld may have made another error.
    if taken.get() > MAX_WORD { Err(too_long()) } else { expanded }
}

fn too_long() -> ExpandError {
    ExpandError::Syntax("the result is longer than 1 MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_end_in_an_error() {
        let mut env = Environment::default();
        env.set("HALF", &"x".repeat(MAX_WORD / 2));
        let expander = Expander::new('\\');
        let check = |text: &str, expect: Option<usize>| {
            let length = word(&expander, text, &env).ok().map(|expanded| expanded.text.len());
            assert_eq!(length, expect, "{text}");
            let split = split(&expander, text, &env).ok();
            assert_eq!(split.map(|words| words.concat().len()), expect, "{text}");
        };
        check("$HALF", Some(MAX_WORD / 2));
        check("$HALF$HALF", Some(MAX_WORD));
        check("$HALF$HALF$HALF", None);
        check("${HALF:?$HALF$HALF}", None);
        check("${HALF//x/xyz}", None);
        check("${HALF//x/}", Some(0));
    }
}
