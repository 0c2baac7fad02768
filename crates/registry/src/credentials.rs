//! Who we are at which registry: Docker's `config.json`, podman's `auth.json` and credential programs.
//!
//! Nothing is cached here and files are read at each lookup, so that a credential renewed during a long build is seen.

mod file;
mod program;
mod survey;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use file::{AuthFile, Candidate};
pub use survey::{CredentialEntry, CredentialSource};

/// A way to prove who we are. Its `Debug` form hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user name and a password.
    Basic {
        /// The user name.
        username: String,
        /// The password, or what a cloud calls so.
        password: String,
    },
    /// An OAuth2 refresh token, exchanged at the token service for access tokens.
    IdentityToken(String),
    /// An access token, sent to the registry as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => {
                f.debug_struct("Basic").field("username", username).finish_non_exhaustive()
            }
            Self::IdentityToken(_) => f.write_str("IdentityToken(..)"),
            Self::RegistryToken(_) => f.write_str("RegistryToken(..)"),
        }
    }
}

/// A reason why credentials could not be had. Not having any is none.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file of credentials cannot be read.
    #[error("cannot read credentials from {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of credentials is not JSON of the expected shape.
    ///
    /// The parser's own message is left out: it quotes values, which may be secrets.
    #[error("cannot parse credentials in {} at line {line} column {column}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// The `auth` of an entry is not the base64 of `user:password`.
    #[error("entry `{key}` of {} holds no `user:password` in base64", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry's key as it is written.
        key: String,
    },
    /// A credential program cannot be run, or did not end in time.
    #[error("cannot run credential program `{program}`, which {} names", path.display())]
    Run {
        /// The program.
        program: String,
        /// The file that names it.
        path: PathBuf,
        /// What the system said; `TimedOut` when the program took too long.
        source: io::Error,
    },
    /// A credential program refused.
    #[error("credential program `{program}` has nothing for {server}: {message}")]
    Refused {
        /// The program.
        program: String,
        /// The registry it was asked about.
        server: String,
        /// The program's own words.
        message: String,
    },
    /// A credential program answered something else than the protocol's JSON.
    #[error("credential program `{program}` answered no JSON with `Username` and `Secret`")]
    Answer {
        /// The program.
        program: String,
    },
}

/// The places credentials are looked for, in order; the first that has one for a registry is used.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    places: Vec<Place>,
}

#[derive(Clone, Debug)]
enum Place {
    File { path: PathBuf, missing: Missing },
    Given { registry: String, credential: Credential },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    IsFine,
    IsAnError,
}

impl Credentials {
    /// No credentials: every request is anonymous.
    pub fn none() -> Self {
        Self::default()
    }

    /// Looks where docker and podman do: files named by a variable first, then the usual ones.
    ///
    /// In order: `$DOCKER_CONFIG/config.json`, `$REGISTRY_AUTH_FILE`, `$HOME/.docker/config.json` (unless `DOCKER_CONFIG` is
    /// set), `$XDG_RUNTIME_DIR/containers/auth.json`, `$XDG_CONFIG_HOME/containers/auth.json` (by default
    /// `$HOME/.config/containers/auth.json`). A file that does not exist holds nothing.
    #[expect(clippy::disallowed_methods, reason = "a constructor named from_env")]
    pub fn from_env() -> Self {
        Self::from_variables(|name| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        })
    }

    fn from_variables(variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let home = variable("HOME");
        let docker = variable("DOCKER_CONFIG");
        let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let paths = [
            docker.as_ref().map(|directory| directory.join("config.json")),
            variable("REGISTRY_AUTH_FILE"),
            docker.is_none().then(|| below_home(".docker/config.json")).flatten(),
            variable("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json")),
            variable("XDG_CONFIG_HOME")
                .or_else(|| below_home(".config"))
                .map(|d| d.join("containers/auth.json")),
        ];
        let file = |path| Place::File { path, missing: Missing::IsFine };
        Self { places: paths.into_iter().flatten().map(file).collect() }
    }

    /// Reads one file in the form of Docker's `config.json` or podman's `auth.json`.
    ///
    /// The file is parsed here once to report mistakes early, and read again at each lookup.
    ///
    /// # Errors
    /// When the file does not exist, cannot be read, or is not JSON.
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self, CredentialsError> {
        let path = path.into();
        AuthFile::read(&path)?;
        Ok(Self { places: vec![Place::File { path, missing: Missing::IsAnError }] })
    }

    /// Puts a credential for one registry (`host[:port]`) before everything else.
    #[must_use]
    pub fn with(mut self, registry: impl Into<String>, credential: Credential) -> Self {
        self.places.insert(0, Place::Given { registry: registry.into(), credential });
        self
    }

    /// Finds the credential for a repository of a registry, `None` when there is none.
    ///
    /// Within one file an entry for a path (`registry.example/team`) goes before one for the registry, and at the registry
    /// `credHelpers` goes before an entry with content, which goes before `credsStore`. Credential programs are run
    /// without a shell and have 30 seconds.
    ///
    /// # Errors
    /// When a file that exists cannot be read or parsed, or a credential program fails otherwise than by not knowing
    /// the registry.
    pub async fn lookup(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialsError> {
        for place in &self.places {
            let found = match place {
                Place::Given { registry: known, credential } => {
                    (file::registry_name(known) == file::registry_name(registry)).then(|| credential.clone())
                }
                Place::File { path, missing } => lookup_in(path, *missing, registry, repository).await?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The files that are searched, in order.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.places.iter().filter_map(|place| match place {
            Place::File { path, .. } => Some(path.as_path()),
            Place::Given { .. } => None,
        })
    }
}

async fn lookup_in(
    path: &Path,
    missing: Missing,
    registry: &str,
    repository: &str,
) -> Result<Option<Credential>, CredentialsError> {
    // A few kilobytes: handing them to a blocking thread would cost more than reading them.
    let file = match AuthFile::read(path) {
        Err(CredentialsError::Read { source, .. })
            if missing == Missing::IsFine && source.kind() == io::ErrorKind::NotFound =>
        {
            return Ok(None);
        }
        other => other?,
    };
    for candidate in file.candidates(registry, repository) {
        let found = match candidate {
            Candidate::Entry { key, entry } => Some(
                entry
                    .credential()
                    .ok_or_else(|| CredentialsError::Entry { path: path.to_owned(), key: key.to_owned() })?,
            ),
            Candidate::Program { name, server } => program::get(path, name, &server).await?,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn order_of_places() {
        #[track_caller]
        fn check(variables: &[(&str, &str)], expect: &[&str]) {
            let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
            let found = Credentials::from_variables(|name| variables.get(name).map(PathBuf::from));
            assert_eq!(found.files().collect::<Vec<_>>(), expect.iter().map(Path::new).collect::<Vec<_>>());
        }
        check(&[], &[]);
        check(&[("HOME", "/h")], &["/h/.docker/config.json", "/h/.config/containers/auth.json"]);
        check(
            &[("HOME", "/h"), ("DOCKER_CONFIG", "/d"), ("REGISTRY_AUTH_FILE", "/r.json")],
            &["/d/config.json", "/r.json", "/h/.config/containers/auth.json"],
        );
        check(
            &[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/1"), ("XDG_CONFIG_HOME", "/c")],
            &["/h/.docker/config.json", "/run/user/1/containers/auth.json", "/c/containers/auth.json"],
        );
    }

    #[tokio::test]
    async fn the_first_place_that_knows_the_registry_wins() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let docker =
            write("config.json", r#"{"auths": {"a.example": {"username": "docker", "password": "p"}}}"#);
        let podman = write(
            "auth.json",
            r#"{"auths": {"a.example": {"username": "podman"}, "b.example": {"auth": "dTpw"}}}"#,
        );
        let all = Credentials::from_variables(|name| match name {
            "DOCKER_CONFIG" => docker.parent().map(Path::to_owned),
            "REGISTRY_AUTH_FILE" => Some(podman.clone()),
            _ => Some(directory.path().join("missing")),
        });
        let basic = |user: &str| Some(Credential::Basic { username: user.into(), password: "p".into() });
        assert_eq!(all.lookup("a.example", "x").await.unwrap(), basic("docker"));
        assert_eq!(all.lookup("b.example", "x").await.unwrap(), basic("u"));
        assert_eq!(all.lookup("c.example", "x").await.unwrap(), None);
        let token = Credential::RegistryToken("t".into());
        let with = all.with("docker.io", token.clone()).with("a.example", token.clone());
        assert_eq!(with.lookup("a.example", "x").await.unwrap(), Some(token.clone()));
        assert_eq!(with.lookup("docker.io", "library/x").await.unwrap(), Some(token));
    }

    #[tokio::test]
    async fn broken_files_are_errors_and_name_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        assert!(matches!(Credentials::from_file(&path), Err(CredentialsError::Read { .. })));
        std::fs::write(&path, "{").unwrap();
        let error = Credentials::from_file(&path).unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
        std::fs::write(&path, r#"{"auths": {"r": {"auth": "!!"}, "s": {}}}"#).unwrap();
        let credentials = Credentials::from_file(&path).unwrap();
        let error = credentials.lookup("r", "x").await.unwrap_err();
        assert!(matches!(&error, CredentialsError::Entry { key, .. } if key == "r"), "{error}");
        assert_eq!(credentials.lookup("s", "x").await.unwrap(), None);
        std::fs::remove_file(&path).unwrap();
        assert!(credentials.lookup("r", "x").await.is_err(), "a file that was named must be there");
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = "s3cret".to_owned();
        for credential in [
            Credential::Basic { username: "user".into(), password: secret.clone() },
            Credential::IdentityToken(secret.clone()),
            Credential::RegistryToken(secret.clone()),
        ] {
            let shown = format!("{:?}", Credentials::none().with("r", credential));
            assert!(!shown.contains(&secret), "{shown}");
        }
    }
}
