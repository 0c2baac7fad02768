//! How a git repository is written in a Dockerfile and on the command line.

use std::fmt;

use thiserror::Error;

/// A repository and what of it is wanted.
///
/// # References
/// BuildKit, frontend/dockerfile/dfgitutil and util/gitutil: `ParseGitRef`, `ParseURL`
#[derive(Clone, PartialEq, Eq, Default)]
pub struct GitRef {
    /// The repository, without fragment and query; may hold credentials.
    pub remote: String,
    /// The last component of the path, without `.git`.
    pub short_name: String,
    /// Branch, tag, full reference or commit; `None` is the remote's `HEAD`.
    pub reference: Option<String>,
    /// How the commit's id must begin.
    pub checksum: Option<String>,
    /// The directory that is wanted; `None` is the whole tree.
    pub subdir: Option<String>,
    /// Whether `.git` stays, where the text says so.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are checked out, where the text says so.
    pub submodules: Option<bool>,
    /// The times of the files.
    pub mtime: Option<CheckoutTime>,
    /// Whether the commit of `checksum` is fetched rather than the reference.
    pub fetch_by_commit: bool,
    /// Whether the text could be a local path as well.
    pub is_ambiguous: bool,
    /// Whether the connection is neither encrypted nor authenticated.
    pub is_unencrypted: bool,
}

/// The times of files of a checkout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckoutTime {
    /// When they were checked out.
    Checkout,
    /// When the commit was made.
    Commit,
}

/// A text that means a repository and says something wrong of it.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{0}")]
pub struct GitRefError(String);

/// Who wrote a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenIn {
    /// A Dockerfile, which must not reach repositories of this host.
    Dockerfile,
    /// The command line, where `file://` names one of this host.
    CommandLine,
}

/// Credentials are not shown.
impl fmt::Debug for GitRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitRef")
            .field("remote", &self.redacted())
            .field("reference", &self.reference)
            .field("checksum", &self.checksum)
            .field("subdir", &self.subdir)
            .finish_non_exhaustive()
    }
}

impl GitRef {
    /// Reads a reference; `None` when the text means no repository.
    ///
    /// # Errors
    /// It means one, and its query is malformed or contradicts itself.
    pub fn parse(text: &str, written: WrittenIn) -> Result<Option<Self>, GitRefError> {
        if text.starts_with("./") || text.starts_with("../") {
            return Ok(None);
        }
        let (rest, fragment) = split(text, '#');
        let (remote, query) = split(rest, '?');
        let mut found = Self { remote: remote.to_owned(), ..Self::default() };
        if let Some((scheme, rest)) = scheme(remote) {
            found.remote = format!("{scheme}://{rest}");
            match scheme.as_str() {
                "git" => found.is_unencrypted = true,
                "ssh" => {}
                "http" | "https" if is_repository_path(rest) => found.is_unencrypted = scheme == "http",
                "file" if written == WrittenIn::CommandLine => {}
                _ => return Ok(None),
            }
            found.read_fragment(&percent_decoded(fragment.unwrap_or_default(), Plus::Stays));
        } else if text.starts_with("github.com/") {
            found.is_ambiguous = true;
            found.read_fragment(&percent_decoded(fragment.unwrap_or_default(), Plus::Stays));
        } else if is_scp_form(remote) {
            found.read_fragment(fragment.unwrap_or_default());
        } else {
            return Ok(None);
        }
        let name = found.remote.rsplit('/').next().unwrap_or_default();
        found.short_name = name.strip_suffix(".git").unwrap_or(name).to_owned();
        found.read_query(query.unwrap_or_default())?;
        Ok(Some(found))
    }

    /// The URL that git is given.
    pub(crate) fn url(&self) -> String {
        if self.is_ambiguous { format!("https://{}", self.remote) } else { self.remote.clone() }
    }

    /// The repository as it may be shown: without a password or token.
    pub fn redacted(&self) -> String {
        let (scheme, rest) = self.remote.split_once("://").unwrap_or(("", &self.remote));
        let authority = rest.split('/').next().unwrap_or_default();
        match authority.rsplit_once('@') {
            Some((user, _)) if !scheme.is_empty() && scheme != "ssh" => {
                let after = rest.get(user.len()..).unwrap_or_default();
                format!("{scheme}://xxxxx{after}")
            }
            _ => self.remote.clone(),
        }
    }

    fn read_fragment(&mut self, fragment: &str) {
        let (reference, subdir) = split(fragment, ':');
        self.reference = Some(reference.to_owned()).filter(|reference| !reference.is_empty());
        self.subdir = subdir.filter(|subdir| !subdir.is_empty()).map(str::to_owned);
    }

    fn read_query(&mut self, query: &str) -> Result<(), GitRefError> {
        let error = |message: String| Err(GitRefError(message));
        let (mut tag, mut branch) = (None, None);
        let mut seen = std::collections::BTreeSet::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = split(pair, '=');
            let name = percent_decoded(name, Plus::IsSpace);
            let value = percent_decoded(value.unwrap_or_default(), Plus::IsSpace);
            if value.is_empty() {
                return error(format!("query {name:?} has no value"));
            }
            if !seen.insert(name.clone()) {
                return error(format!("query {name:?} has multiple values"));
            }
            match name.as_str() {
                "ref" => agree("ref", &mut self.reference, value)?,
                "tag" => tag = Some(prefixed("refs/tags/", value)),
                "branch" => branch = Some(prefixed("refs/heads/", value)),
                "subdir" => agree("subdir", &mut self.subdir, value)?,
                "checksum" | "commit" => agree("checksum", &mut self.checksum, value)?,
                "keep-git-dir" => self.keep_git_dir = Some(boolean(&name, &value)?),
                "submodules" => self.submodules = Some(boolean(&name, &value)?),
                "fetch-by-commit" => self.fetch_by_commit = boolean(&name, &value)?,
                "mtime" => {
                    self.mtime = Some(match value.as_str() {
                        "checkout" => CheckoutTime::Checkout,
                        "commit" => CheckoutTime::Commit,
                        _ => {
                            return error(format!(
                                "invalid mtime value: {value:?} (must be \"checkout\" or \"commit\")"
                            ));
                        }
                    });
                }
                _ => return error(format!("unexpected query {name:?}")),
            }
        }
        if tag.is_some() && branch.is_some() {
            return error("branch conflicts with tag".to_owned());
        }
        if let Some(reference) = tag.or(branch) {
            agree("ref", &mut self.reference, reference)?;
        }
        if self.reference.is_none() {
            self.reference.clone_from(&self.checksum);
        }
        Ok(())
    }
}

/// Sets a value that must not say something else already.
fn agree(name: &str, known: &mut Option<String>, value: String) -> Result<(), GitRefError> {
    match known {
        Some(known) if *known != value => {
            Err(GitRefError(format!("{name} conflicts: {known:?} vs {value:?}")))
        }
        _ => {
            *known = Some(value);
            Ok(())
        }
    }
}

fn prefixed(prefix: &str, value: String) -> String {
    if value.starts_with(prefix) { value } else { format!("{prefix}{value}") }
}

/// The words of Go's `strconv.ParseBool`.
fn boolean(name: &str, value: &str) -> Result<bool, GitRefError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(GitRefError(format!("invalid {name} value: {value:?}"))),
    }
}

fn split(text: &str, separator: char) -> (&str, Option<&str>) {
    text.split_once(separator).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// The scheme in lower case, and what follows `://`.
fn scheme(text: &str) -> Option<(String, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let named = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    named.then(|| (scheme.to_ascii_lowercase(), rest))
}

/// Tells whether the path after the authority ends in `.git` once it is cleaned as Go's `path.Clean` does.
fn is_repository_path(rest: &str) -> bool {
    let Some((_, path)) = rest.split_once('/') else { return false };
    let path = percent_decoded(path, Plus::Stays);
    let mut components: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(components.pop()),
            name => components.push(name),
        }
    }
    components.last().is_some_and(|name| name.ends_with(".git"))
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

/// What `+` means in a percent-encoded text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plus {
    Stays,
    IsSpace,
}

/// Decodes `%XX`; what is no such sequence stays.
pub(crate) fn percent_decoded(text: &str, plus: Plus) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        rest = after;
        match (byte, digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(decoded)) => {
                out.push(decoded);
                rest = after.get(2..).unwrap_or_default();
            }
            (b'+', _) if plus == Plus::IsSpace => out.push(b' '),
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn parsed(text: &str) -> GitRef {
        GitRef::parse(text, WrittenIn::Dockerfile).expect(text).expect(text)
    }

    #[test]
    fn reads_references() {
        let check = |text: &str, remote: &str, reference: Option<&str>, subdir: Option<&str>| {
            let got = parsed(text);
            let got = (got.remote.as_str(), got.reference.as_deref(), got.subdir.as_deref());
            assert_eq!(got, (remote, reference, subdir), "{text}");
        };
        check("git://h/foo", "git://h/foo", None, None);
        check("HTTPS://h/x.git", "https://h/x.git", None, None);
        check("https://h/x.git/", "https://h/x.git/", None, None);
        check("https://h/x.git#a/b:c/d", "https://h/x.git", Some("a/b"), Some("c/d"));
        check("https://h/x.git#:c", "https://h/x.git", None, Some("c"));
        check("https://h/x.git#a%20b", "https://h/x.git", Some("a b"), None);
        check("git@h:a/x.git#v1:d", "git@h:a/x.git", Some("v1"), Some("d"));
        check("git@h:a/x.git?branch=b", "git@h:a/x.git", Some("refs/heads/b"), None);
        check("github.com/a/b#m", "github.com/a/b", Some("m"), None);
        check("ssh://git@h:22/x?tag=v1&subdir=d%2Fe", "ssh://git@h:22/x", Some("refs/tags/v1"), Some("d/e"));
        check("https://h/x.git?tag=refs/tags/v1", "https://h/x.git", Some("refs/tags/v1"), None);
        check("https://h/x.git?ref=a#a", "https://h/x.git", Some("a"), None);
        check("https://h/x.git?commit=abc", "https://h/x.git", Some("abc"), None);
    }

    #[test]
    fn reads_switches() {
        let url = "https://h/x.git?keep-git-dir=1&submodules=false&mtime=commit&fetch-by-commit=t&checksum=ab&ref=m";
        let got = parsed(url);
        assert_eq!((got.keep_git_dir, got.submodules), (Some(true), Some(false)));
        assert_eq!((got.mtime, got.fetch_by_commit), (Some(CheckoutTime::Commit), true));
        assert_eq!((got.checksum.as_deref(), got.reference.as_deref()), (Some("ab"), Some("m")));
        assert!(parsed("github.com/a/b").is_ambiguous);
        assert!(parsed("http://h/x.git").is_unencrypted && !parsed("https://h/x.git").is_unencrypted);
    }

    #[test]
    fn tells_mistakes_from_other_texts() {
        let other = |text: &str| assert_eq!(GitRef::parse(text, WrittenIn::Dockerfile), Ok(None), "{text}");
        for text in ["./x.git", "../git@h:x", ".git", "https://h/x", "https://h.git", "http://h/x.git/y"] {
            other(text);
        }
        other("file:///x.git");
        other("ftp://h/x.git");
        other("a/b@c:d");
        assert!(GitRef::parse("file:///x", WrittenIn::CommandLine).is_ok_and(|found| found.is_some()));
        let wrong = |query: &str, expect: &str| {
            let error = GitRef::parse(&format!("https://h/x.git?{query}"), WrittenIn::Dockerfile);
            assert_eq!(error.expect_err(query).to_string(), expect);
        };
        wrong("ref=a&tag=b", "ref conflicts: \"a\" vs \"refs/tags/b\"");
        wrong("tag=a&branch=b", "branch conflicts with tag");
        wrong("subdir=a#:b", "subdir conflicts: \"b\" vs \"a\"");
        wrong("ref=", "query \"ref\" has no value");
        wrong("ref=a&ref=a", "query \"ref\" has multiple values");
        wrong("depth=1", "unexpected query \"depth\"");
        wrong("submodules=maybe", "invalid submodules value: \"maybe\"");
        wrong("mtime=x", "invalid mtime value: \"x\" (must be \"checkout\" or \"commit\")");
    }

    #[test]
    fn shows_no_credentials() {
        let check = |text: &str, expect: &str| assert_eq!(parsed(text).redacted(), expect);
        check("https://user:token@h/x.git", "https://xxxxx@h/x.git");
        check("https://h/x.git", "https://h/x.git");
        check("ssh://git@h/x", "ssh://git@h/x");
        check("git@h:x", "git@h:x");
        assert!(!format!("{:?}", parsed("https://user:token@h/x.git")).contains("token"));
    }
}
