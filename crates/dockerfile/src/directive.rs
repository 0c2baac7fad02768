//! Parser directives: `# syntax=`, `# escape=`, `# check=`.

use std::collections::BTreeSet;

use crate::diagnostic::Diagnostic;
use crate::span::{Span, Spanned};

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

impl Check {
    /// Reads the value of a `check` directive or of `BUILDKIT_DOCKERFILE_CHECK`.
    ///
    /// # Errors
    /// When an option is unknown or has no value; the text names it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut check = Self::default();
        for option in text.trim().split(';').filter(|_| !text.trim().is_empty()) {
            let Some((key, value)) = option.split_once('=') else {
                return Err(format!("invalid check option {option:?}"));
            };
            match (key.trim(), value.trim()) {
                ("skip", "all") => check.skip_all = true,
                ("skip", rules) => check.skip = names(rules),
                ("experimental", "all") => check.experimental_all = true,
                ("experimental", rules) => check.experimental = names(rules),
                ("error", value) => {
                    let parsed = crate::flags::parse_bool(value);
                    check.error = parsed.ok_or_else(|| format!("failed to parse check option {option:?}"))?;
                }
                (key, _) => return Err(format!("invalid check option {key:?}")),
            }
        }
        Ok(check)
    }

    /// Tells whether a finding of this rule is to be reported.
    #[must_use]
    pub fn allows(&self, rule: &crate::lint::Rule) -> bool {
        let named = |rules: &[String]| rules.iter().any(|name| name == rule.name);
        let enabled = !rule.experimental || self.experimental_all || named(&self.experimental);
        enabled && !self.skip_all && !named(&self.skip)
    }
}

/// Reads a list of rules; names that are no rule's are dropped, as they select nothing.
fn names(list: &str) -> Vec<String> {
    let named: BTreeSet<&str> = list.split(',').map(str::trim).collect();
    crate::lint::all().filter(|rule| named.contains(rule.name)).map(|rule| rule.name.to_owned()).collect()
}

/// Whether a line was a directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// It was.
    Directive,
    /// It was not, and no later line can be.
    Nothing,
}

/// Recognises directives while lines are read.
#[derive(Debug)]
pub(crate) struct DirectiveReader {
    escape: char,
    done: bool,
    seen: Vec<String>,
}

impl Default for DirectiveReader {
    fn default() -> Self {
        Self { escape: '\\', done: false, seen: Vec::new() }
    }
}

impl DirectiveReader {
    /// The escape character in force.
    pub(crate) fn escape(&self) -> char {
        self.escape
    }

    /// Looks at one line; the first that is no directive ends the search.
    pub(crate) fn read(&mut self, line: &str, at: Span) -> Result<Found, Diagnostic> {
        if self.done {
            return Ok(Found::Nothing);
        }
        let Some((key, value)) = split(line, "#") else {
            self.done = true;
            return Ok(Found::Nothing);
        };
        if self.seen.contains(&key) {
            return Err(Diagnostic::error(format!("only one {key} parser directive can be used")).at(at));
        }
        if key == "escape" {
            self.escape = match value {
                "\\" => '\\',
                "`" => '`',
                other => {
                    let message = format!("invalid escape token '{other}' does not match ` or \\");
                    return Err(Diagnostic::error(message).at(at));
                }
            };
        }
        self.seen.push(key);
        Ok(Found::Directive)
    }
}

/// Splits `# key = value`; `None` if the line is no directive that we know.
fn split<'a>(line: &'a str, comment: &str) -> Option<(String, &'a str)> {
    let text = line.strip_prefix(comment)?.trim_start();
    let (key, value) = text.split_once('=')?;
    let key = key.trim_end_matches(is_regexp_space).to_ascii_lowercase();
    let value = value.trim_matches(is_regexp_space);
    let known = matches!(key.as_str(), "syntax" | "escape" | "check");
    (known && !value.is_empty() && !value.contains('\n')).then_some((key, value))
}

/// The `\s` of Go's regular expressions.
fn is_regexp_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0c')
}

/// Finds `syntax`, in the three forms that frontends are detected by.
pub(crate) fn find_syntax(text: &str) -> Option<Spanned<String>> {
    find(text, "syntax", "#").or_else(|| find(text, "syntax", "//")).or_else(|| {
        let json = body(text).0;
        let value: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).ok()?;
        let name = value.get("syntax")?.as_str()?.to_owned();
        let start = text.len() - json.len();
        Some(Spanned::new(name, Span::new(start, start + json.trim_end().len())))
    })
}

/// Finds `check`.
pub(crate) fn find_check(text: &str) -> Option<Spanned<String>> {
    find(text, "check", "#")
}

/// Drops a byte order mark and a `#!` line; tells the offset of what is left.
fn body(text: &str) -> (&str, usize) {
    let start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let rest = text.get(start..).unwrap_or_default();
    if !rest.starts_with("#!") {
        return (rest, start);
    }
    let next = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
    (rest.get(next..).unwrap_or_default(), start + next)
}

/// Finds a directive by its key; the value ends at the first space.
fn find(text: &str, key: &str, comment: &str) -> Option<Spanned<String>> {
    let (rest, mut offset) = body(text);
    for line in rest.split_inclusive('\n') {
        let bare = line.strip_suffix('\n').unwrap_or(line);
        let bare = bare.strip_suffix('\r').unwrap_or(bare);
        let (name, value) = split(bare, comment)?;
        if name == key {
            let start = offset + bare.find('=').map_or(0, |equals| equals + 1);
            let start = start + text.get(start..).map_or(0, |tail| tail.len() - tail.trim_start().len());
            let value = value.split(' ').next().unwrap_or_default();
            return Some(Spanned::new(value.to_owned(), Span::new(start, start + value.len())));
        }
        offset += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_is_found_in_three_forms() {
        let check = |text: &str, expect: Option<&str>| {
            let found = find_syntax(text);
            assert_eq!(found.as_ref().map(|syntax| syntax.value.as_str()), expect, "{text:?}");
            if let Some(Spanned { value, span }) = found.filter(|_| !text.contains('{')) {
                assert_eq!(&text[span.start..span.end], value);
            }
        };
        check("# syntax=docker/dockerfile:1\nFROM a", Some("docker/dockerfile:1"));
        check("#syntax = a b\r\n", Some("a"));
        check("# escape=`\n# SYNTAX=x\n", Some("x"));
        check("// syntax=x\n", Some("x"));
        check("{\"syntax\": \"x\"}", Some("x"));
        check("\u{feff}#!/usr/bin/env x\n# syntax=y\n", Some("y"));
        check("# comment\n# syntax=x\n", None);
        check("\n# syntax=x\n", None);
        check(" # syntax=x\n", None);
        check("# syntax=\nFROM a", None);
        check("", None);
    }

    #[test]
    fn check_options() {
        let check =
            Check::parse("skip=UndefinedVar, FromAsCasing,Unknown;error=true;experimental=all").unwrap();
        assert_eq!(check.skip, ["FromAsCasing", "UndefinedVar"]);
        assert!(check.error && check.experimental_all && !check.skip_all);
        assert!(Check::parse("skip=all").unwrap().skip_all);
        assert_eq!(Check::parse("").unwrap(), Check::default());
        for bad in ["skip", "what=1", "error=perhaps", "skip=A;"] {
            assert!(Check::parse(bad).is_err(), "{bad}");
        }
    }
}
