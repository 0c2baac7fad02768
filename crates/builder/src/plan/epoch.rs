//! `SOURCE_DATE_EPOCH`: the time that stands for now.

use std::collections::BTreeMap;

use super::options::PlanOptions;
use super::scope::Environment;
use super::warning::{Checked, refuse};

const NAME: &str = "SOURCE_DATE_EPOCH";

/// The time of the main context, which `SOURCE_DATE_EPOCH=context` stands for.
///
/// # References
/// BuildKit `docs/build-repro.md`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContextTime {
    /// It has none: a directory of this host. The argument is then not set.
    #[default]
    Unset,
    /// That of a commit, or the `Last-Modified` of a file; in seconds since 1970.
    At(i64),
    /// It may have one that is not found out: `context` is refused.
    Unknown,
}

impl ContextTime {
    /// What the value of the argument `name` stands for; `None` when it is not set.
    pub(super) fn resolve(self, name: &str, value: String) -> Option<String> {
        match self {
            Self::Unset if name == NAME && value == "context" => None,
            Self::At(seconds) if name == NAME && value == "context" => Some(seconds.to_string()),
            _ => Some(value),
        }
    }

    /// Build arguments as they are used.
    #[must_use]
    pub fn applied(self, build_args: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let resolve =
            |(name, value): (&String, &String)| Some((name.clone(), self.resolve(name, value.clone())?));
        build_args.iter().filter_map(resolve).collect()
    }
}

/// The time that a build argument or the global scope gives, in seconds since 1970.
pub(super) fn source_date_epoch(options: &PlanOptions, arguments: &Environment) -> Checked<Option<i64>> {
    let given = options.build_args.get(NAME).map(String::as_str).or_else(|| arguments.get(NAME));
    match given.filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some(value) => value.parse().map(Some).map_err(|_| {
            let error = refuse(format!("invalid {NAME} {value:?}"));
            let hint =
                "a number of seconds since 1970-01-01, or `context` for a repository or a URL with a time";
            error.with_hint(hint).into()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_context_stands_for_something() {
        let check = |time: ContextTime, name: &str, value: &str, expect: Option<&str>| {
            assert_eq!(time.resolve(name, value.to_owned()).as_deref(), expect, "{time:?} {name}={value}");
        };
        check(ContextTime::Unset, NAME, "context", None);
        check(ContextTime::Unset, NAME, "7", Some("7"));
        check(ContextTime::At(8), NAME, "context", Some("8"));
        check(ContextTime::At(8), NAME, "", Some(""));
        check(ContextTime::At(8), "OTHER", "context", Some("context"));
        check(ContextTime::Unknown, NAME, "context", Some("context"));
    }
}
