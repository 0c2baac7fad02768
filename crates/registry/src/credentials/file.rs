//! The file format shared by Docker's `config.json` and podman's `auth.json`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::{Credential, CredentialEntry, CredentialsError};

/// Larger files are refused: Docker's own holds a few entries.
const MAX_SIZE: u64 = 4 << 20;

/// The key under which docker keeps Docker Hub, for historical reasons.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// # References
/// <https://docs.docker.com/reference/cli/docker/login/>, containers-auth.json(5).
#[derive(Debug, Default, Deserialize)]
pub(super) struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    programs: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Entry {
    auth: String,
    username: String,
    password: String,
    #[serde(rename = "identitytoken")]
    identity_token: String,
    #[serde(rename = "registrytoken")]
    registry_token: String,
}

/// A place in the file that may know a credential.
#[derive(Debug)]
pub(super) enum Candidate<'a> {
    Entry { key: &'a str, entry: &'a Entry },
    Program { name: &'a str, server: String },
}

impl AuthFile {
    pub(super) fn read(path: &Path) -> Result<Self, CredentialsError> {
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            File::open(path)?.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > MAX_SIZE {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 4 MiB"));
            }
            Ok(bytes)
        };
        let bytes = read().map_err(|source| CredentialsError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &bytes)
    }

    /// Parses the text of the file at `path`; a `.dockercfg` is what `auths` is in the others.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, CredentialsError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        let parsed: Self = serde_json::from_slice(bytes).map_err(|error| CredentialsError::Parse {
            path: path.to_owned(),
            line: error.line(),
            column: error.column(),
        })?;
        if parsed.auths.is_empty() && parsed.programs.is_empty() && parsed.store.is_empty() {
            let auths = serde_json::from_slice(bytes).unwrap_or_default();
            return Ok(Self { auths, ..Self::default() });
        }
        Ok(parsed)
    }

    /// Lists what the file names.
    pub(super) fn names(&self) -> Vec<CredentialEntry> {
        let filled = self.auths.iter().filter(|(_, entry)| !entry.is_empty());
        let entries = filled.map(|(name, _)| CredentialEntry { name: Some(name.clone()), program: None });
        let programs = self.programs.iter().map(|(name, program)| CredentialEntry {
            name: Some(name.clone()),
            program: Some(format!("docker-credential-{program}")),
        });
        let store = (!self.store.is_empty()).then(|| CredentialEntry {
            name: None,
            program: Some(format!("docker-credential-{}", self.store)),
        });
        entries.chain(programs).chain(store).collect()
    }

    /// Lists what may know a credential for the repository, the most specific first.
    pub(super) fn candidates(&self, registry: &str, repository: &str) -> Vec<Candidate<'_>> {
        let registry = registry_name(registry);
        let mut found = Vec::new();
        for scope in path_scopes(registry, repository) {
            found.extend(self.entry(&scope));
        }
        if let Some((key, name)) = self.programs.iter().find(|(key, _)| normalise(key) == registry) {
            found.push(Candidate::Program { name, server: key.clone() });
        }
        found.extend(self.entry(registry));
        found.extend(self.pattern(registry, repository));
        if !self.store.is_empty() {
            found.push(Candidate::Program { name: &self.store, server: server_name(registry).to_owned() });
        }
        found
    }

    /// The program that keeps what is logged in at a registry, if it is not the file itself.
    pub(super) fn keeper(&self, registry: &str) -> Option<(&str, String)> {
        let registry = registry_name(registry);
        let own = self.programs.iter().find(|(key, _)| normalise(key) == registry);
        match own {
            Some((key, name)) => Some((name, key.clone())),
            None if self.store.is_empty() => None,
            None => Some((&self.store, server_name(registry).to_owned())),
        }
    }

    /// With `credsStore` docker leaves empty entries behind; they say nothing.
    fn entry(&self, scope: &str) -> Option<Candidate<'_>> {
        let matching = self.auths.iter().filter(|(key, _)| normalise(key) == scope);
        let mut filled = matching.filter(|(_, entry)| !entry.is_empty());
        filled.next().map(|(key, entry)| Candidate::Entry { key, entry })
    }

    /// The entry with a `*` in its host that fits, the longest of several: pull secrets may have such.
    ///
    /// # References
    /// <https://kubernetes.io/docs/concepts/containers/images/#config-json>
    fn pattern(&self, registry: &str, repository: &str) -> Option<Candidate<'_>> {
        let fits = |key: &str| key.contains('*') && matches(key, registry, repository);
        let matching = self.auths.iter().filter(|(key, entry)| fits(key) && !entry.is_empty());
        matching.max_by_key(|(key, _)| key.len()).map(|(key, entry)| Candidate::Entry { key, entry })
    }
}

impl Candidate<'_> {
    /// Says what it is.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Entry { key, .. } => format!("entry `{key}`"),
            Self::Program { name, .. } => format!("docker-credential-{name}"),
        }
    }
}

impl Entry {
    fn is_empty(&self) -> bool {
        [&self.auth, &self.username, &self.identity_token, &self.registry_token]
            .iter()
            .all(|field| field.is_empty())
    }

    /// Decodes the entry; `None` when its `auth` is malformed.
    pub(super) fn credential(&self) -> Option<Credential> {
        if !self.registry_token.is_empty() {
            return Some(Credential::RegistryToken(self.registry_token.clone()));
        }
        if !self.identity_token.is_empty() {
            return Some(Credential::IdentityToken(self.identity_token.clone()));
        }
        if self.auth.is_empty() {
            return Some(Credential::Basic {
                username: self.username.clone(),
                password: self.password.clone(),
            });
        }
        let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let decoded = GeneralPurpose::new(&alphabet::STANDARD, config).decode(self.auth.trim()).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (username, password) = text.split_once(':')?;
        // Docker writes passwords with trailing NULs in some versions and cuts them off when reading.
        Some(Credential::basic(username, password.trim_end_matches('\0')))
    }
}

impl Credential {
    /// A user name and password; the name `<token>` marks the password as an identity token.
    pub(super) fn basic(username: &str, password: &str) -> Self {
        if username == "<token>" {
            return Self::IdentityToken(password.to_owned());
        }
        Self::Basic { username: username.to_owned(), password: password.to_owned() }
    }
}

/// The registry's name as references write it: Docker Hub is `docker.io` under all its names.
pub(super) fn registry_name(registry: &str) -> &str {
    match registry {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// The name under which docker keeps a registry.
pub(super) fn server_name(registry: &str) -> &str {
    if registry == "docker.io" { DOCKER_HUB_KEY } else { registry }
}

/// Tells whether a key is the registry, a path above the repository, or a pattern of either: a `*` stands for a part of
/// one label of the host.
pub(super) fn matches(key: &str, registry: &str, repository: &str) -> bool {
    let key = normalise(key);
    let (host, path) = key.split_once('/').unwrap_or((&key, ""));
    let registry = registry_name(registry);
    let labels = || host.split('.').zip(registry.split('.'));
    let is_host = host.split('.').count() == registry.split('.').count()
        && labels().all(|(pattern, label)| matches_label(pattern, label));
    let below = repository.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    is_host && (path.is_empty() || below)
}

fn matches_label(pattern: &str, label: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == label,
        Some((start, end)) => {
            // A second star is a letter like others: no host has one.
            label.len() >= start.len().saturating_add(end.len())
                && label.starts_with(start)
                && label.ends_with(end)
        }
    }
}

/// Brings a key to the form `host[:port][/path]`: `https://index.docker.io/v1/` is `docker.io`.
pub(super) fn normalise(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let path = bare.unwrap_or(key).trim_end_matches('/');
    let (host, path) = path.split_once('/').unwrap_or((path, ""));
    let host = registry_name(host);
    let is_api_root = matches!(path, "v1" | "v2") && (bare.is_some() || host == "docker.io");
    if path.is_empty() || is_api_root { host.to_owned() } else { format!("{host}/{path}") }
}

/// `registry/a/b`, `registry/a`: the repository and what stands above it, without the registry itself.
fn path_scopes(registry: &str, repository: &str) -> Vec<String> {
    let ends = repository.match_indices('/').map(|(index, _)| index).chain([repository.len()]);
    let mut scopes: Vec<String> =
        ends.filter_map(|end| repository.get(..end)).map(|path| format!("{registry}/{path}")).collect();
    scopes.reverse();
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for (key, expect) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("index.docker.io/v1/", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("docker.io/library", "docker.io/library"),
            ("https://registry.example:5000/v2/", "registry.example:5000"),
            ("http://registry.example/", "registry.example"),
            ("registry.example/v1", "registry.example/v1"),
            ("registry.example/a/b/", "registry.example/a/b"),
            ("[::1]:5000", "[::1]:5000"),
            ("", ""),
        ] {
            assert_eq!(normalise(key), expect, "{key:?}");
        }
    }

    #[test]
    fn patterns() {
        let check = |key: &str, registry: &str, repository: &str, expect: bool| {
            assert_eq!(matches(key, registry, repository), expect, "{key} {registry}/{repository}");
        };
        check("r.example", "r.example", "a", true);
        check("https://index.docker.io/v1/", "docker.io", "library/a", true);
        check("*.example", "r.example", "a", true);
        check("*.example", "a.r.example", "a", false);
        check("*.example", "example", "a", false);
        check("r*y.example", "registry.example", "a", true);
        check("*.example/team", "r.example", "team/app", true);
        check("*.example/team", "r.example", "teams", false);
        check("*.example:5000", "r.example:5000", "a", true);
        check("*.example", "r.example:5000", "a", false);
        check("aa*aa.example", "aaa.example", "a", false);
    }

    #[test]
    fn forms_of_files() {
        let check = |text: &str, expect: &[&str]| {
            let file = AuthFile::parse(Path::new("/f"), text.as_bytes()).unwrap();
            let found = file.candidates("r.example", "a").iter().map(Candidate::name).collect::<Vec<_>>();
            assert_eq!(found, expect, "{text}");
        };
        check(r#"{"r.example": {"auth": "dTpw", "email": "x@y"}}"#, &["entry `r.example`"]);
        check(r#"{"https://r.example/v1/": {"username": "u"}}"#, &["entry `https://r.example/v1/`"]);
        check(r#"{"auths": {"*.example": {"auth": "dTpw"}}, "psFormat": "x"}"#, &["entry `*.example`"]);
        check(r#"{"HttpHeaders": {"a": "b"}, "psFormat": "x"}"#, &[]);
        check("{}", &[]);
        check(" ", &[]);
        assert!(AuthFile::parse(Path::new("/f"), b"[]x").is_err());
    }

    #[test]
    fn candidates_from_specific_to_general() {
        let file: AuthFile = serde_json::from_str(
            r#"{"auths": {
                "r.example": {"auth": "dTpw"}, "r.example/a": {"auth": "dTpw"}, "r.example/a/b": {"auth": "dTpw"},
                "r.example/ab": {"auth": "dTpw"}, "empty.example": {}, "https://index.docker.io/v1/": {"auth": "dTpw"}},
               "credHelpers": {"helped.example": "ecr-login", "r.example": "gcr"}, "credsStore": "pass", "psFormat": 1}"#,
        )
        .unwrap();
        let check = |registry: &str, repository: &str, expect: &[&str]| {
            let found = file.candidates(registry, repository).into_iter().map(|candidate| match candidate {
                Candidate::Entry { key, .. } => key.to_owned(),
                Candidate::Program { name, server } => format!("{name} {server}"),
            });
            assert_eq!(found.collect::<Vec<_>>(), expect, "{registry}/{repository}");
        };
        check(
            "r.example",
            "a/b/c",
            &["r.example/a/b", "r.example/a", "gcr r.example", "r.example", "pass r.example"],
        );
        check("r.example", "a/bc", &["r.example/a", "gcr r.example", "r.example", "pass r.example"]);
        check("r.example", "ab", &["r.example/ab", "gcr r.example", "r.example", "pass r.example"]);
        check("helped.example", "x", &["ecr-login helped.example", "pass helped.example"]);
        check("empty.example", "x", &["pass empty.example"]);
        check("docker.io", "library/x", &["https://index.docker.io/v1/", "pass https://index.docker.io/v1/"]);
    }

    #[test]
    fn entries() {
        let check = |json: &str, expect: Option<Credential>| {
            let entry: Entry = serde_json::from_str(json).unwrap();
            assert_eq!(entry.credential(), expect, "{json}");
        };
        let basic = |username: &str, password: &str| {
            Some(Credential::Basic { username: username.into(), password: password.into() })
        };
        check(r#"{"auth": "dTpw"}"#, basic("u", "p"));
        check(r#"{"auth": "dTpwOnE"}"#, basic("u", "p:q"));
        check(r#"{"auth": "dTpwAAA="}"#, basic("u", "p"));
        check(r#"{"auth": "PHRva2VuPjp0"}"#, Some(Credential::IdentityToken("t".into())));
        check(r#"{"username": "u", "password": "p"}"#, basic("u", "p"));
        check(r#"{"auth": "dTpw", "identitytoken": "i"}"#, Some(Credential::IdentityToken("i".into())));
        check(r#"{"registrytoken": "r"}"#, Some(Credential::RegistryToken("r".into())));
        check(r#"{"auth": "not base64"}"#, None);
        check(r#"{"auth": "bm9jb2xvbg=="}"#, None);
    }
}
