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
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        serde_json::from_slice(&bytes).map_err(|error| CredentialsError::Parse {
            path: path.to_owned(),
            line: error.line(),
            column: error.column(),
        })
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
        if !self.store.is_empty() {
            let server = if registry == "docker.io" { DOCKER_HUB_KEY } else { registry };
            found.push(Candidate::Program { name: &self.store, server: server.to_owned() });
        }
        found
    }

    /// With `credsStore` docker leaves empty entries behind; they say nothing.
    fn entry(&self, scope: &str) -> Option<Candidate<'_>> {
        let matching = self.auths.iter().filter(|(key, _)| normalise(key) == scope);
        let mut filled = matching.filter(|(_, entry)| !entry.is_empty());
        filled.next().map(|(key, entry)| Candidate::Entry { key, entry })
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

/// Brings a key to the form `host[:port][/path]`: `https://index.docker.io/v1/` is `docker.io`.
fn normalise(key: &str) -> String {
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
