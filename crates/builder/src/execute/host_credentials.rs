//! Credentials for web servers and git hosts, given as secrets under the names that BuildKit has for them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rbuild_sandbox::Secret;

use crate::context::GitAuthorization;

/// The secrets of a build, looked at for what is fetched from elsewhere.
///
/// | name | what it is |
/// | --- | --- |
/// | `HTTP_AUTH_TOKEN_<host>` | the bearer token for files of this host |
/// | `HTTP_AUTH_HEADER_<host>` | the whole `Authorization` header for them |
/// | `GIT_AUTH_HEADER[.<host>]`, `GIT_AUTH_TOKEN[.<host>]` | the same for repositories; a token is a password |
///
/// # References
/// - <https://docs.docker.com/build/building/secrets/#git-authentication-for-remote-contexts>
/// - BuildKit `source/http/source.go`; `source/git/source.go`, `authSecretNames` (order, and the port as part of the
///   host) and `tokenScope`
#[derive(Debug, Default)]
pub(crate) struct HostCredentials(BTreeMap<String, Secret>);

impl HostCredentials {
    pub(crate) fn new(secrets: BTreeMap<String, Secret>) -> Self {
        Self(secrets)
    }

    /// The `Authorization` header for a URL; the token wins when there is both.
    pub(crate) fn web(&self, url: &str) -> Option<Secret> {
        let host = host_name(authority(url)?);
        let token = self.0.get(&format!("HTTP_AUTH_TOKEN_{host}"));
        let header = || self.0.get(&format!("HTTP_AUTH_HEADER_{host}")).cloned();
        token.map(|token| Secret::new([b"Bearer ", token.expose()].concat())).or_else(header)
    }

    /// The `Authorization` header for a repository: that of its host and port before that of any, a header before a
    /// token.
    pub(crate) fn git(&self, remote: &str) -> Option<GitAuthorization> {
        if !(remote.starts_with("https://") || remote.starts_with("http://")) {
            return None;
        }
        let header = |name: &str| self.0.get(name).cloned();
        let token = |name: &str| {
            let password = [b"x-access-token:", self.0.get(name)?.expose()].concat();
            Some(Secret::new(format!("basic {}", STANDARD.encode(password)).into_bytes()))
        };
        let host = authority(remote)?;
        let header = header(&format!("GIT_AUTH_HEADER.{host}"))
            .or_else(|| token(&format!("GIT_AUTH_TOKEN.{host}")))
            .or_else(|| header("GIT_AUTH_HEADER"))
            .or_else(|| token("GIT_AUTH_TOKEN"))?;
        Some(GitAuthorization { header, scope: scope(remote).to_owned() })
    }
}

/// The URLs that a header for `remote` is for: its own, and at GitHub, whose submodules need the same, all.
fn scope(remote: &str) -> &str {
    let github = ["https://github.com/", "https://www.github.com/"];
    github.into_iter().find(|prefix| remote.starts_with(prefix)).unwrap_or(remote)
}

/// Host and port of a URL.
fn authority(url: &str) -> Option<&str> {
    let authority = url.split_once("://")?.1.split(['/', '?', '#', '\\']).next()?;
    authority.rsplit('@').next().filter(|host| !host.is_empty())
}

/// A host without its port, and an IPv6 address without its brackets.
fn host_name(authority: &str) -> &str {
    if let Some((address, _)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    authority.split(':').next().unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> HostCredentials {
        let secrets = [
            ("HTTP_AUTH_TOKEN_a.example", "t"),
            ("HTTP_AUTH_HEADER_a.example", "Basic x"),
            ("HTTP_AUTH_HEADER_b.example", "Basic b"),
            ("HTTP_AUTH_HEADER_::1", "Basic six"),
            ("GIT_AUTH_TOKEN", "any"),
            ("GIT_AUTH_TOKEN.git.example:444", "one"),
            ("GIT_AUTH_HEADER.git.example", "basic two"),
        ];
        let secrets = secrets.map(|(name, value)| (name.to_owned(), Secret::new(value.into())));
        HostCredentials::new(secrets.into())
    }

    #[test]
    fn files_have_those_of_their_host() {
        let check = |url: &str, expect: Option<&str>| {
            let found = credentials().web(url);
            assert_eq!(found.as_ref().map(Secret::expose), expect.map(str::as_bytes), "{url}");
        };
        check("https://a.example/x", Some("Bearer t"));
        check("http://a.example:8080?x", Some("Bearer t"));
        check("https://b.example/x", Some("Basic b"));
        check("https://u:p@b.example/x", Some("Basic b"));
        check("https://b.example@c.example/x", None);
        check("https://c.example/@b.example", None);
        check("https://sub.b.example/", None);
        check("http://[::1]:80/", Some("Basic six"));
    }

    #[test]
    fn repositories_have_those_of_their_host_or_any() {
        let check = |remote: &str, expect: Option<(&str, &str)>| {
            let found = credentials().git(remote);
            let found = found.as_ref().map(|found| (found.header.expose(), found.scope.as_str()));
            assert_eq!(found, expect.map(|(header, scope)| (header.as_bytes(), scope)), "{remote}");
        };
        let any = "basic eC1hY2Nlc3MtdG9rZW46YW55";
        check("https://h.example/r.git", Some((any, "https://h.example/r.git")));
        check("https://github.com/o/r.git", Some((any, "https://github.com/")));
        check(
            "https://git.example:444/r",
            Some(("basic eC1hY2Nlc3MtdG9rZW46b25l", "https://git.example:444/r")),
        );
        check("https://git.example/r", Some(("basic two", "https://git.example/r")));
        check("ssh://git@git.example/r", None);
        check("git@git.example:r", None);
    }
}
