//! Which sources of `ADD` and `COPY` are not paths.

use super::step::CopySource;

/// Tells a path from a URL and from a git repository by its text alone.
///
/// `github.com/owner/repository` is a path: as a source it cannot be told from a local directory.
pub(super) fn classify(source: &str) -> CopySource {
    if is_git(source) {
        CopySource::Git(source.to_owned())
    } else if source.starts_with("http://") || source.starts_with("https://") {
        CopySource::Url(source.to_owned())
    } else {
        CopySource::Pattern(source.to_owned())
    }
}

fn is_git(source: &str) -> bool {
    if let Some((scheme, rest)) = source.split_once("://")
        && !scheme.is_empty()
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        let path = rest.split(['?', '#']).next().unwrap_or(rest);
        return match scheme.to_ascii_lowercase().as_str() {
            "git" | "ssh" => true,
            "http" | "https" => path.contains('/') && path.ends_with(".git"),
            _ => false,
        };
    }
    is_scp_form(source)
}

/// `user@host:path`.
fn is_scp_form(source: &str) -> bool {
    let Some((user, rest)) = source.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let named = |text: &str, extra: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
    };
    named(user, "-_") && named(host, "-.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_sources_apart() {
        let git = |source: &str| assert_eq!(classify(source), CopySource::Git(source.to_owned()));
        let url = |source: &str| assert_eq!(classify(source), CopySource::Url(source.to_owned()));
        let path = |source: &str| assert_eq!(classify(source), CopySource::Pattern(source.to_owned()));
        git("git://example.com/foo");
        git("https://github.com/moby/buildkit.git");
        git("https://foo:bar@github.com/moby/buildkit.git");
        git("https://github.com/foo/bar.git#baz/qux:quux/quuz");
        git("https://github.com/moby/buildkit.git?tag=v1.0.0");
        git("git@github.com:moby/buildkit.git");
        git("ssh://git@host/x");
        url("https://github.com/moby/buildkit");
        url("http://host/x.git/y");
        url("https://host.git");
        path(".git");
        path("github.com/moby/buildkit");
        path("../git@host:x");
        path("ftp://host/x");
        path("a:b");
        path("a/b@c:d");
    }
}
