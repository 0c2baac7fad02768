//! Credentials that are kept: what `login` and `logout` change.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::file::{AuthFile, normalise, registry_name, server_name};
use super::{Credential, CredentialsError, program};

/// A file in the form of Docker's `config.json` that credentials are written to.
///
/// What else stands in the file stays as it is. It is replaced at once, never half-written, and only its owner may read
/// it afterwards.
#[derive(Clone, Debug)]
pub struct CredentialFile {
    path: PathBuf,
}

/// Where a credential was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// In the file, encoded but not encrypted.
    InFile,
    /// In the keeping of a program that the file names.
    ByProgram(String),
}

impl CredentialFile {
    /// Speaks for the file at `path`, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The first of `$DOCKER_CONFIG/config.json`, `$REGISTRY_AUTH_FILE` and `$HOME/.docker/config.json` whose variable is
    /// set; `None` when none is.
    #[expect(clippy::disallowed_methods, reason = "a constructor named from_env")]
    pub fn from_env() -> Option<Self> {
        Self::from_variables(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let path = |name: &str| variable(name).map(PathBuf::from);
        let docker = path("DOCKER_CONFIG").map(|directory| directory.join("config.json"));
        let home = || path("HOME").map(|home| home.join(".docker/config.json"));
        docker.or_else(|| path("REGISTRY_AUTH_FILE")).or_else(home).map(Self::new)
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps a credential for `scope`: `HOST[:PORT]`, or a path below it (`registry.example/team`).
    ///
    /// For a whole registry the file's `credHelpers` and `credsStore` decide whether a program keeps it, as with docker;
    /// what belongs to a path stands in the file, because programs know hosts only.
    ///
    /// # Errors
    /// The file cannot be read, parsed or written, or the program refuses.
    pub async fn save(&self, scope: &str, credential: &Credential) -> Result<Kept, CredentialsError> {
        let file = self.read()?;
        let (username, password) = credential.pair();
        let keeper = if scope.contains('/') { None } else { file.keeper(scope) };
        if let Some((name, server)) = keeper {
            let program = program::path_of(name);
            let stored = program::store(&program, &server, username, password).await;
            stored.map_err(|failure| failure.named_by(&self.path, &program, &server))?;
            // As docker does: an empty entry says that the program has something.
            self.change(|auths| {
                auths.insert(server, json!({}));
            })?;
            return Ok(Kept::ByProgram(program.display().to_string()));
        }
        let entry = match credential {
            Credential::RegistryToken(token) => json!({ "registrytoken": token }),
            Credential::IdentityToken(token) => json!({ "identitytoken": token }),
            Credential::Basic { .. } => {
                json!({ "auth": BASE64_STANDARD.encode(format!("{username}:{password}")) })
            }
        };
        let key =
            if scope.contains('/') { normalise(scope) } else { server_name(registry_name(scope)).to_owned() };
        self.change(|auths| {
            // The same registry under another of its names would be found beside the new one.
            auths.retain(|known, _| normalise(known) != normalise(&key));
            auths.insert(key, entry);
        })?;
        Ok(Kept::InFile)
    }

    /// Forgets what is kept for `scope`, and tells whether anything was.
    ///
    /// # Errors
    /// The file cannot be read, parsed or written, or the program refuses.
    pub async fn remove(&self, scope: &str) -> Result<bool, CredentialsError> {
        let file = self.read()?;
        let keeper = if scope.contains('/') { None } else { file.keeper(scope) };
        let asked = keeper.is_some();
        if let Some((name, server)) = keeper {
            let program = program::path_of(name);
            let erased = program::erase(&program, &server).await;
            erased.map_err(|failure| failure.named_by(&self.path, &program, &server))?;
        }
        let mut removed = false;
        if self.path.exists() {
            self.change(|auths| {
                let before = auths.len();
                auths.retain(|known, _| normalise(known) != normalise(scope));
                removed = auths.len() < before;
            })?;
        }
        Ok(asked || removed)
    }

    fn read(&self) -> Result<AuthFile, CredentialsError> {
        match AuthFile::read(&self.path) {
            Err(CredentialsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(AuthFile::default())
            }
            other => other,
        }
    }

    /// Changes the file's `auths` and nothing else.
    fn change(&self, edit: impl FnOnce(&mut Map<String, Value>)) -> Result<(), CredentialsError> {
        let failed = |source| CredentialsError::Write { path: self.path.clone(), source };
        let text = match std::fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(failed)?,
        };
        let is_empty = text.iter().all(u8::is_ascii_whitespace);
        let document = if is_empty { Ok(json!({})) } else { serde_json::from_slice(&text) };
        let shape = || failed(io::Error::new(io::ErrorKind::InvalidData, "not a JSON object with `auths`"));
        let mut document: Value = document.map_err(|_| shape())?;
        let auths = document.as_object_mut().ok_or_else(shape)?.entry("auths").or_insert_with(|| json!({}));
        edit(auths.as_object_mut().ok_or_else(shape)?);
        let mut text = serde_json::to_vec_pretty(&document).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        replace(&self.path, &text).map_err(failed)
    }
}

impl Credential {
    /// The form programs keep: a name and a secret.
    fn pair(&self) -> (&str, &str) {
        match self {
            Self::Basic { username, password } => (username, password),
            Self::IdentityToken(token) | Self::RegistryToken(token) => ("<token>", token),
        }
    }
}

/// Writes a file that only its owner may read, in place of what is there; a symbolic link stays one.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    // tempfile makes files of mode 0600; a umask takes from that at most.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.as_file().sync_all()?;
    file.persist(&path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Credentials;
    use super::*;

    fn basic(username: &str, password: &str) -> Credential {
        Credential::Basic { username: username.into(), password: password.into() }
    }

    #[test]
    fn the_file_is_the_first_one_named() {
        let check = |variables: &[(&str, &str)], expect: Option<&str>| {
            let found = CredentialFile::from_variables(|name| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
            });
            assert_eq!(found.as_ref().map(CredentialFile::path), expect.map(Path::new));
        };
        check(&[], None);
        check(&[("HOME", "/h")], Some("/h/.docker/config.json"));
        check(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/r")], Some("/r"));
        check(
            &[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/r"), ("DOCKER_CONFIG", "/d")],
            Some("/d/config.json"),
        );
    }

    #[tokio::test]
    async fn what_is_saved_is_found_and_the_rest_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/config.json");
        let file = CredentialFile::new(&path);
        assert_eq!(file.save("r.example", &basic("u", "p:q")).await.unwrap(), Kept::InFile);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));

        let real = directory.path().join("real.json");
        let text = r#"{"HttpHeaders": {"X": "y"}, "auths": {"docker.io": {"auth": "b2xkOm9sZA=="},
                       "other.example": {"auth": "dTpw", "email": "e"}}, "unknown": [1]}"#;
        std::fs::write(&real, text).unwrap();
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o644)).unwrap();
        let link = directory.path().join("link.json");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let file = CredentialFile::new(&link);
        for (scope, credential) in [
            ("docker.io", basic("hub", "new")),
            ("r.example:5000", basic("<token>", "t")),
            ("r.example/team", basic("team", "t")),
            ("id.example", Credential::IdentityToken("id".into())),
            ("tok.example", Credential::RegistryToken("tok".into())),
        ] {
            file.save(scope, &credential).await.unwrap();
        }
        assert!(link.is_symlink());
        assert_eq!(mode(&real), 0o600);
        let saved: Value = serde_json::from_slice(&std::fs::read(&real).unwrap()).unwrap();
        assert_eq!(saved["HttpHeaders"]["X"], "y");
        assert_eq!(saved["unknown"], json!([1]));
        assert_eq!(saved["auths"]["other.example"]["email"], "e");
        assert!(saved["auths"].get("docker.io").is_none(), "replaced by the key docker reads: {saved}");
        let found = Credentials::from_file(&link).unwrap();
        for (registry, repository, expect) in [
            ("docker.io", "library/a", basic("hub", "new")),
            ("other.example", "a", basic("u", "p")),
            ("r.example", "team/app", basic("team", "t")),
            ("r.example:5000", "a", Credential::IdentityToken("t".into())),
            ("id.example", "a", Credential::IdentityToken("id".into())),
            ("tok.example", "a", Credential::RegistryToken("tok".into())),
        ] {
            assert_eq!(found.lookup(registry, repository).await.unwrap(), Some(expect), "{registry}");
        }
        assert!(file.remove("index.docker.io").await.unwrap());
        assert!(!file.remove("docker.io").await.unwrap());
        assert_eq!(found.lookup("docker.io", "library/a").await.unwrap(), None);
        assert_eq!(found.lookup("other.example", "a").await.unwrap(), Some(basic("u", "p")));
    }

    #[tokio::test]
    async fn other_files_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let file = CredentialFile::new(&path);
        assert!(!file.remove("r.example").await.unwrap());
        assert!(!path.exists(), "nothing to forget, nothing to write");
        for text in [r#"{"auths": []}"#, "{", "[]"] {
            std::fs::write(&path, text).unwrap();
            file.save("r.example", &basic("u", "p")).await.unwrap_err();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
