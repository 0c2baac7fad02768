//! `.dockerignore`: patterns compiled once, matched without backtracking.
//!
//! ```
//! use rbuild_dockerfile::IgnoreFile;
//!
//! let ignore = IgnoreFile::parse(b"# comment\n*.log\nnode_modules\n!keep.log\n")?;
//! assert!(ignore.is_ignored("debug.log"));
//! assert!(!ignore.is_ignored("keep.log"));
//! assert!(ignore.is_ignored("node_modules/a/index.js"));
//! assert!(!ignore.is_ignored("src/node_modules"));
//! # Ok::<(), rbuild_dockerfile::ignore::IgnoreError>(())
//! ```
//!
//! # References
//! The behaviour is that of Go's `github.com/moby/patternmatcher`, its oddities included: what is accepted as a pattern
//! is what `filepath.Match` accepts, what it means is what the regular expression made from it means.

use crate::ignore_path::Subject;
use crate::ignore_pattern::Pattern;

/// Longest line in bytes.
const MAX_LINE: usize = 65_535;

/// The compiled patterns of an ignore file.
#[derive(Debug, Clone, Default)]
pub struct IgnoreFile {
    patterns: Vec<Pattern>,
    texts: Vec<String>,
}

/// Which patterns match a directory or one of its parents.
///
/// A walk hands the one that [`IgnoreFile::matches`] gave for a directory to all its entries, so that no pattern looks
/// at a path twice. [`ParentMatch::default`] is for the entries of the root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ParentMatch {
    matched: Vec<bool>,
}

impl ParentMatch {
    fn has(&self, index: usize) -> bool {
        self.matched.get(index).copied().unwrap_or(false)
    }
}

/// Why an ignore file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    /// A lone `!`.
    #[error("line {line}: illegal exclusion pattern `!`")]
    LoneExclusion {
        /// The line, or the pattern's number, counted from 1.
        line: usize,
    },
    /// A pattern that is not well formed.
    #[error("line {line}: syntax error in pattern `{pattern}`")]
    BadPattern {
        /// The line, or the pattern's number, counted from 1.
        line: usize,
        /// The pattern.
        pattern: String,
    },
    /// A line that is too long.
    #[error("line {line}: longer than {MAX_LINE} bytes")]
    LongLine {
        /// The line, counted from 1.
        line: usize,
    },
}

impl IgnoreFile {
    /// Reads and compiles an ignore file.
    ///
    /// # Errors
    /// When a pattern is not well formed.
    pub fn parse(text: &[u8]) -> Result<Self, IgnoreError> {
        let text = String::from_utf8_lossy(text);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let mut file = Self::default();
        for (index, line) in text.split('\n').enumerate() {
            if line.len() > MAX_LINE {
                return Err(IgnoreError::LongLine { line: index + 1 });
            }
            if let Some(pattern) = read_line(line) {
                file.add(&pattern, index + 1)?;
                file.texts.push(pattern);
            }
        }
        Ok(file)
    }

    /// Compiles patterns one by one, as `--exclude` gives them: no comments, no leading slash taken off.
    ///
    /// # Errors
    /// When a pattern is not well formed.
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, IgnoreError> {
        let mut file = Self::default();
        for (index, pattern) in patterns.into_iter().enumerate() {
            file.add(pattern, index + 1)?;
            file.texts.push(pattern.to_owned());
        }
        Ok(file)
    }

    fn add(&mut self, pattern: &str, line: usize) -> Result<(), IgnoreError> {
        let pattern = pattern.trim();
        if pattern.is_empty() {
            return Ok(());
        }
        let cleaned = clean(pattern);
        let (text, exclusion) = match cleaned.strip_prefix('!') {
            Some("") => return Err(IgnoreError::LoneExclusion { line }),
            Some(text) => (text, true),
            None => (cleaned.as_str(), false),
        };
        let compiled = Pattern::compile(text, exclusion);
        let bad = || IgnoreError::BadPattern { line, pattern: pattern.to_owned() };
        self.patterns.push(compiled.ok_or_else(bad)?);
        Ok(())
    }

    /// Returns the patterns as they were understood: trimmed, cleaned, `!` in front where they re-include.
    #[must_use]
    pub fn patterns(&self) -> &[String] {
        &self.texts
    }

    /// Tells whether there is no pattern at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Tells whether any pattern begins with `!`.
    #[must_use]
    pub fn has_exclusions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.exclusion)
    }

    /// Tells whether a path is ignored, all its parents considered.
    ///
    /// The path is relative to the context and separated by slashes. In a walk [`IgnoreFile::matches`] is faster.
    #[must_use]
    pub fn is_ignored(&self, path: &str) -> bool {
        if clean(path) == "." {
            return false;
        }
        let (parents, path) = (parents(path), Subject::new(path));
        let parents: Vec<_> = parents.iter().map(|parent| Subject::new(parent)).collect();
        let found = |pattern: &&Pattern| {
            pattern.matches(&path) || parents.iter().any(|parent| pattern.matches(parent))
        };
        // The last pattern that matches decides.
        self.patterns.iter().rev().find(found).is_some_and(|pattern| !pattern.exclusion)
    }

    /// Tells whether a path is ignored, given what is known of its parent.
    #[must_use]
    pub fn is_ignored_below(&self, path: &str, parent: &ParentMatch) -> bool {
        let path = Subject::new(path);
        let mut patterns = self.patterns.iter().enumerate().rev();
        let found = patterns.find(|(index, pattern)| parent.has(*index) || pattern.matches(&path));
        found.is_some_and(|(_, pattern)| !pattern.exclusion)
    }

    /// Tells whether a path is ignored, given what is known of its parent, and what its own children need to know.
    #[must_use]
    pub fn matches(&self, path: &str, parent: &ParentMatch) -> (bool, ParentMatch) {
        let path = Subject::new(path);
        let mut ignored = false;
        let mut matched = Vec::with_capacity(self.patterns.len());
        for (index, pattern) in self.patterns.iter().enumerate() {
            // A pattern that could not change the answer is not looked at.
            let found = parent.has(index) || (pattern.exclusion == ignored && pattern.matches(&path));
            matched.push(found);
            if found {
                ignored = !pattern.exclusion;
            }
        }
        (ignored, ParentMatch { matched })
    }

    /// Tells whether nothing below an ignored directory can be re-included, so that it need not be entered.
    ///
    /// `false` is always safe to give, and is given when a pattern cannot be told not to reach below `path`.
    #[must_use]
    pub fn can_skip_dir(&self, path: &str) -> bool {
        let mut exclusions = self.patterns.iter().filter(|pattern| pattern.exclusion);
        !exclusions.any(|pattern| pattern.may_match_below(path.trim_end_matches('/')))
    }
}

/// Reads one line; `None` for a comment or an empty one.
fn read_line(line: &str) -> Option<String> {
    let pattern = line.trim();
    if line.starts_with('#') || pattern.is_empty() {
        return None;
    }
    let (mark, pattern) = match pattern.strip_prefix('!') {
        Some(pattern) => ("!", pattern.trim()),
        None => ("", pattern),
    };
    if pattern.is_empty() {
        return Some(mark.to_owned());
    }
    let cleaned = clean(pattern);
    let relative = if cleaned.len() > 1 { cleaned.strip_prefix('/') } else { None };
    Some(format!("{mark}{}", relative.unwrap_or(&cleaned)))
}

/// Returns the shortest equivalent path, as Go's `filepath.Clean` does.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".to_owned(),
        (false, path) => path,
    }
}

/// Returns the directories above a path, the outermost first.
fn parents(path: &str) -> Vec<String> {
    let Some((directory, _)) = path.rsplit_once('/') else { return Vec::new() };
    let directory = clean(if directory.is_empty() { "/" } else { directory });
    if directory == "." {
        return Vec::new();
    }
    let ends = directory.match_indices('/').map(|(at, _)| at).chain([directory.len()]);
    ends.filter_map(|end| directory.get(..end).map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(patterns: &str, ignored: &[&str], kept: &[&str]) {
        let file = IgnoreFile::parse(patterns.as_bytes()).unwrap();
        for (paths, expect) in [(ignored, true), (kept, false)] {
            for path in paths {
                assert_eq!(file.is_ignored(path), expect, "{path:?} with {patterns:?}");
                assert_eq!(walk(&file, path), expect, "walking to {path:?} with {patterns:?}");
            }
        }
    }

    /// Asks for a path as a walk does, directory by directory.
    fn walk(file: &IgnoreFile, path: &str) -> bool {
        let mut state = ParentMatch::default();
        for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
            let directory = path.get(..at).unwrap();
            let (ignored, next) = file.matches(directory, &state);
            if ignored && file.can_skip_dir(directory) {
                return true;
            }
            state = next;
        }
        let ignored = file.matches(path, &state).0;
        assert_eq!(file.is_ignored_below(path, &state), ignored, "{path:?}");
        ignored
    }

    #[test]
    fn patterns_match_like_mobys() {
        check("node_modules", &["node_modules", "node_modules/a/b"], &["a/node_modules", "node_modules2"]);
        check("*.go\n!main.go", &["a.go"], &["main.go", "a/b.go"]);
        check("**/*.go", &["a.go", "a/b.go", "a/b/c.go"], &["a.gox"]);
        check("**/.foo", &[".foo", "a/.foo"], &["bar.foo"]);
        check("**file", &["file", "afile", "a/file", "a/afile"], &["file2"]);
        check("abc/**", &["abc/x", "abc/x/y"], &["abc", "abcd"]);
        check("**", &["a", "a/b"], &[]);
        check("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["ab", "x/a/b"]);
        check("docs\n!docs/README.md", &["docs", "docs/a"], &["docs/README.md"]);
        check("*\n!dir\ndir/sub\n!dir/sub/a", &["x", "dir/sub/b"], &["dir/x", "dir/sub/a"]);
        check("/a", &["a", "a/b"], &["b/a"]);
        check("  a  \r\n# no\n#b\n", &["a"], &["# no", "#b"]);
        check("./a/../b/", &["b"], &["a"]);
        check("../a\n.", &[], &["a", "b"]);
        check("a?c\n[x-z]1\n[^b]2", &["abc", "aéc", "y1", "a2"], &["a/c", "ac", "b2", "a1"]);
        check("*\n!a\n*.md\n!b.md", &["x", "a.md", "c.md"], &["a", "b.md"]);
        check("a\\*b\n\\!c", &["a*b", "!c"], &["axb", "c"]);
        check("a.b+(c)", &["a.b+(c)"], &["axb+(c)"]);
        check("\u{feff}a", &["a"], &[]);
        check("", &[], &["a"]);
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for bad in ["[", "[^", "[a", "[-]", "[x-]", "[]a]", "a\\", "[a\\", "!", "! ", "a\n!\n", "[z-a]"] {
            assert!(IgnoreFile::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let error = IgnoreFile::parse(b"ok\n\n[").unwrap_err();
        assert_eq!(error.to_string(), "line 3: syntax error in pattern `[`");
    }

    #[test]
    fn directories_that_can_be_skipped() {
        let check = |patterns: &str, path: &str, expect: bool| {
            let file = IgnoreFile::parse(patterns.as_bytes()).unwrap();
            assert_eq!(file.can_skip_dir(path), expect, "{path:?} with {patterns:?}");
        };
        check("a", "a", true);
        check("a\n!b", "a", true);
        check("a\n!a/b/c", "a", false);
        check("a\n!a/b/c", "a/b", false);
        check("a\n!a/b/c", "a/x", true);
        check("a\n!*.md", "a", true);
        check("a\n!**/*.md", "a", false);
        check("a\n!b/**", "a", true);
        check("a\n!b/*/c", "a", true);
        check("b\n!b/*/c", "b/x", false);
        check("b\n!b/*/c", "b/x/y", true);
    }

    #[test]
    fn many_stars_are_matched_without_backtracking() {
        let file = IgnoreFile::parse("*a".repeat(2000).as_bytes()).unwrap();
        assert!(!file.is_ignored(&format!("{}b", "a".repeat(4000))));
    }
}
