//! Which sources of `ADD` and `COPY` are not paths.

use super::step::CopySource;
use crate::context::{GitRef, GitRefError, WrittenIn};

/// Tells a path from a URL and from a git repository by its text alone.
///
/// `github.com/owner/repository` is a path: as a source it cannot be told from a local directory.
///
/// # Errors
/// It names a repository, and says something wrong of it.
pub(super) fn classify(source: &str) -> Result<CopySource, GitRefError> {
    let repository = GitRef::parse(source, WrittenIn::Dockerfile)?;
    Ok(if repository.is_some_and(|repository| !repository.is_ambiguous) {
        CopySource::Git(source.to_owned())
    } else if source.starts_with("http://") || source.starts_with("https://") {
        CopySource::Url(source.to_owned())
    } else {
        CopySource::Pattern(source.to_owned())
    })
}

/// A source as it may be shown: without the user and password of its URL.
pub(super) fn shown(source: &str) -> String {
    let hidden = source.split_once("://").and_then(|(scheme, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, _) = authority.rsplit_once('@')?;
        Some(format!("{scheme}://xxxxx{}", rest.get(user.len()..)?))
    });
    hidden.unwrap_or_else(|| source.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_credentials() {
        let check = |source: &str, expect: &str| assert_eq!(shown(source), expect);
        check("https://me:secret@host/x?y=a@b", "https://xxxxx@host/x?y=a@b");
        check("https://token@host", "https://xxxxx@host");
        check("https://a@b:c@host/x", "https://xxxxx@host/x");
        check("https://host/x@y", "https://host/x@y");
        check("a/b@c", "a/b@c");
    }

    #[test]
    fn tells_sources_apart() {
        let check = |source: &str, expect: fn(String) -> CopySource| {
            assert_eq!(classify(source), Ok(expect(source.to_owned())));
        };
        check("git://example.com/foo", CopySource::Git);
        check("https://github.com/moby/buildkit.git", CopySource::Git);
        check("https://foo:bar@github.com/moby/buildkit.git", CopySource::Git);
        check("https://github.com/foo/bar.git#baz/qux:quux/quuz", CopySource::Git);
        check("https://github.com/moby/buildkit.git?tag=v1.0.0", CopySource::Git);
        check("git@github.com:moby/buildkit.git", CopySource::Git);
        check("ssh://git@host/x", CopySource::Git);
        check("https://github.com/moby/buildkit", CopySource::Url);
        check("http://host/x.git/y", CopySource::Url);
        check("https://host.git", CopySource::Url);
        check(".git", CopySource::Pattern);
        check("github.com/moby/buildkit", CopySource::Pattern);
        check("file:///srv/x.git", CopySource::Pattern);
        check("../git@host:x", CopySource::Pattern);
        check("ftp://host/x", CopySource::Pattern);
        check("a:b", CopySource::Pattern);
        check("a/b@c:d", CopySource::Pattern);
        assert!(classify("https://host/x.git?unknown=1").is_err());
    }
}
