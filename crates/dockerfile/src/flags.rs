//! The flags of an instruction: which there are, and what they take.

use crate::diagnostic::Diagnostic;
use crate::node::Node;
use crate::span::{Span, Spanned};

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing, `true` or `false`.
    Bool,
    /// A value.
    Text,
    /// A value, and the flag may be repeated.
    List,
}

/// The flags of one instruction, checked against those it knows.
#[derive(Debug)]
pub(crate) struct Flags {
    found: Vec<(&'static str, String, Span)>,
}

impl Flags {
    /// Reads the flags of a node.
    pub(crate) fn parse(node: &Node, known: &[(&'static str, Kind)]) -> Result<Self, Diagnostic> {
        let mut found: Vec<(&'static str, String, Span)> = Vec::new();
        for (flag, span) in node.flags.iter().zip(&node.flag_spans) {
            let text = flag.strip_prefix("--").unwrap_or(flag);
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (text, None),
            };
            let Some((known_name, kind)) = known.iter().find(|(known, _)| *known == name) else {
                let names = known.iter().map(|(known, _)| *known);
                let keyword = node.instruction.to_uppercase();
                let error = Diagnostic::error(format!("unknown flag: --{name}")).at(*span);
                return Err(if known.is_empty() {
                    error.with_hint(format!("{keyword} has no flags"))
                } else {
                    error.suggest(name, names)
                });
            };
            if *kind != Kind::List && found.iter().any(|(used, ..)| used == known_name) {
                return Err(Diagnostic::error(format!("duplicate flag specified: --{name}")).at(*span));
            }
            let value = check(name, value, *kind).map_err(|error| error.at(*span))?;
            found.push((known_name, value, *span));
        }
        Ok(Self { found })
    }

    /// Returns the value of a text flag, an empty one as none.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.spanned(name).map(|flag| flag.value)
    }

    /// Returns the value of a text flag with the place of the flag, an empty one as none.
    pub(crate) fn spanned(&self, name: &str) -> Option<Spanned<String>> {
        self.list(name).into_iter().next().filter(|flag| !flag.value.is_empty())
    }

    /// Returns the value of a switch, if it is given.
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        self.list(name).into_iter().next().map(|flag| flag.value == "true")
    }

    /// Returns all values of a flag.
    pub(crate) fn list(&self, name: &str) -> Vec<Spanned<String>> {
        let of_name = self.found.iter().filter(|(found, ..)| *found == name);
        of_name.map(|(_, value, span)| Spanned::new(value.clone(), *span)).collect()
    }

    /// Returns the values of a flag without their places.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        self.list(name).into_iter().map(|flag| flag.value).collect()
    }
}

/// Checks one value; switches become `true` or `false`.
fn check(name: &str, value: Option<&str>, kind: Kind) -> Result<String, Diagnostic> {
    let missing = || Diagnostic::error(format!("missing a value on flag: --{name}"));
    match (kind, value) {
        (Kind::Text | Kind::List, None) => Err(missing().with_hint(format!("write `--{name}=VALUE`"))),
        (Kind::Text | Kind::List, Some(value)) => Ok(value.to_owned()),
        (Kind::Bool, None) => Ok("true".to_owned()),
        (Kind::Bool, Some("")) => Err(missing()),
        (Kind::Bool, Some(value)) => match value.to_lowercase().as_str() {
            lower @ ("true" | "false") => Ok(lower.to_owned()),
            _ => Err(Diagnostic::error(format!("expecting boolean value for flag --{name}, not: {value}"))),
        },
    }
}

/// Reads a boolean as Go's `strconv.ParseBool` does.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
