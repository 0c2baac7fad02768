//! Which caches a build reads and writes.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use rbuild_image::{Digest, Reference, ReferenceError};
use thiserror::Error;

/// The longest name of a scope, in bytes.
const MAX_SCOPE: usize = 40;

/// A name that keeps the entries of writers apart within one cache.
///
/// Letters, digits, `_`, `.` and `-`, at most 40. An entry written under one scope is never used by a build that does not list
/// that scope.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheScope(String);

/// Why a text is no scope.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "scope {0:?} is not 1 to {MAX_SCOPE} of the characters A-Z, a-z, 0-9, `_`, `.` and `-`, the first no `.` or `-`"
)]
pub struct ScopeError(String);

impl CacheScope {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_default(&self) -> bool {
        self.0 == "default"
    }
}

impl Default for CacheScope {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for CacheScope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let sound = !text.is_empty() && text.len() <= MAX_SCOPE && text.bytes().all(plain);
        match sound && !text.starts_with(['.', '-']) {
            true => Ok(Self(text.to_owned())),
            false => Err(ScopeError(text.to_owned())),
        }
    }
}

impl fmt::Display for CacheScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    /// In a repository of a registry, beside whatever else is there.
    Registry(Reference),
    /// In a directory, an OCI image layout.
    Directory(PathBuf),
}

impl CachePlace {
    /// The name that stands for a scope: the tag of the default scope is the reference's own.
    ///
    /// # Errors
    /// Its tag is too long for the names derived from it.
    pub fn name(&self, scope: &CacheScope) -> Result<Reference, ReferenceError> {
        match self {
            Self::Registry(name) if scope.is_default() => name.with_tag(name.tag().unwrap_or("latest")),
            Self::Registry(name) => name.with_tag(&format!("{}-{scope}", name.tag().unwrap_or("latest"))),
            Self::Directory(_) => format!("localhost/rbuild-cache:{scope}").parse(),
        }
    }
}

impl CachePlace {
    /// The tag under which a note of a scope stands until it is merged.
    pub(super) fn note(name: &Reference, note: &Digest) -> Result<Reference, ReferenceError> {
        name.with_tag(&format!("{}{}", Self::note_prefix(name), note.hex()))
    }

    /// What the tags of a scope's notes begin with.
    pub(super) fn note_prefix(name: &Reference) -> String {
        format!("{}.w-", name.tag().unwrap_or("latest"))
    }

    /// Finds out whether all names that a scope needs can be made.
    ///
    /// # Errors
    /// As [`CachePlace::name`].
    pub fn check(&self, scope: &CacheScope) -> Result<(), ReferenceError> {
        Self::note(&self.name(scope)?, &Digest::of(b"")).map(drop)
    }
}

impl fmt::Display for CachePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(name) => f.write_str(&name.familiar()),
            Self::Directory(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A cache that a build reads. Of several the first that has a result gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheImport {
    /// Where; an image with an inline cache, too.
    pub place: CachePlace,
    /// Whose entries.
    pub scope: CacheScope,
}

/// A cache that a build writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheExport {
    /// Beside images, under a name of its own.
    Place {
        /// Where.
        place: CachePlace,
        /// Under whose name.
        scope: CacheScope,
        /// Which results.
        mode: CacheMode,
    },
    /// In the manifest of the image itself, which can only hold what its own layers came from.
    Inline,
}

/// Which results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// Those whose layers are in the image.
    #[default]
    Min,
    /// Those of all stages.
    Max,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_has_one_tag() {
        let check = |name: &str, scope: &str, expect: &str| {
            let place = CachePlace::Registry(name.parse().expect("a name"));
            let name = place.name(&scope.parse().expect("a scope")).expect("a sound name");
            assert_eq!(name.to_string(), expect);
        };
        check("r.local:5000/a/cache", "default", "r.local:5000/a/cache:latest");
        check("r.local:5000/a:buildcache", "default", "r.local:5000/a:buildcache");
        check("r.local:5000/a:buildcache", "main", "r.local:5000/a:buildcache-main");
        let long = CachePlace::Registry(format!("r.local/a:{}", "t".repeat(128)).parse().expect("a name"));
        assert!(long.check(&"main".parse().expect("a scope")).is_err());
    }

    #[test]
    fn scopes_are_plain_names() {
        for text in ["", ".a", "-a", "a b", "a/b", "ä", &"a".repeat(MAX_SCOPE + 1)] {
            assert!(text.parse::<CacheScope>().is_err(), "{text}");
        }
        for text in ["a", "_", "pr-12", "release_1.2", &"a".repeat(MAX_SCOPE)] {
            assert_eq!(text.parse::<CacheScope>().expect("a scope").as_str(), text);
        }
    }
}
