//! Who we are at which registry: Docker's `config.json`, podman's `auth.json`, pull secrets and credential programs.
//!
//! Nothing is cached here and files are read at each lookup, so that a credential renewed during a long build is seen.

mod cloud;
mod error;
mod file;
mod helpers;
mod login;
mod program;
mod search;
mod secrets;
mod survey;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use crate::hosts::Hosts;
use cloud::Cloud;
pub use error::CredentialsError;
use file::AuthFile;
use helpers::Helpers;
pub use login::{CredentialFile, Kept};
pub use search::{Found, Outcome, Tried};
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

/// The places credentials are looked for, in order; the first that has one for a registry is used.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    places: Vec<Place>,
}

#[derive(Clone, Debug)]
enum Place {
    /// For `HOST[:PORT][/PATH]`.
    Given {
        scope: String,
        credential: Credential,
    },
    File {
        path: PathBuf,
        missing: Missing,
    },
    Text(Hidden),
    Helpers(Helpers),
    Cloud(Cloud),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    IsFine,
    IsAnError,
}

/// What `$DOCKER_AUTH_CONFIG` holds: a `config.json` with everything in it.
#[derive(Clone)]
struct Hidden(String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

/// The variable whose text is a `config.json`.
const DOCKER_AUTH_CONFIG: &str = "DOCKER_AUTH_CONFIG";

impl Credentials {
    /// No credentials: every request is anonymous.
    pub fn none() -> Self {
        Self::default()
    }

    /// Looks where docker, podman and kaniko do, and asks the credential programs of clouds.
    ///
    /// In order: the text of `$DOCKER_AUTH_CONFIG`; `$DOCKER_CONFIG/config.json`; `$REGISTRY_AUTH_FILE`;
    /// `$XDG_RUNTIME_DIR/containers/auth.json` (without the variable `/run/containers/UID/auth.json`);
    /// `$XDG_CONFIG_HOME/containers/auth.json` (without it `$HOME/.config/containers/auth.json`);
    /// `$HOME/.docker/config.json`, unless `DOCKER_CONFIG` is set; `$HOME/.dockercfg`; `/kaniko/.docker/config.json`.
    /// A file that does not exist holds nothing. Last, for hosts of Amazon ECR, Google and Azure only, their
    /// credential programs on `$PATH`: the identity that the machine or the pod has.
    #[expect(clippy::disallowed_methods, reason = "a constructor named from_env")]
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| variable(name).map(PathBuf::from);
        let below_home = |below: &str| path("HOME").map(|home| home.join(below));
        let docker = path("DOCKER_CONFIG");
        let uid = rustix::process::geteuid().as_raw();
        let runtime = path("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json"));
        let config = path("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
        let paths = [
            docker.as_ref().map(|directory| directory.join("config.json")),
            path("REGISTRY_AUTH_FILE"),
            Some(runtime.unwrap_or_else(|| format!("/run/containers/{uid}/auth.json").into())),
            config.map(|directory| directory.join("containers/auth.json")),
            docker.is_none().then(|| below_home(".docker/config.json")).flatten(),
            below_home(".dockercfg"),
            Some("/kaniko/.docker/config.json".into()),
        ];
        let text = variable(DOCKER_AUTH_CONFIG).and_then(|text| text.into_string().ok());
        let text = text.map(|text| Place::Text(Hidden(text)));
        let files = paths.into_iter().flatten().map(|path| Place::File { path, missing: Missing::IsFine });
        let cloud = variable("PATH").map(|path| Place::Cloud(Cloud::new(&path)));
        Self { places: text.into_iter().chain(files).chain(cloud).collect() }
    }

    /// Reads one file in the form of Docker's `config.json`, podman's `auth.json` or the older `.dockercfg`.
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

    /// Reads Kubernetes pull secrets: a file, or a directory as a volume of type `secret` makes it, with
    /// `.dockerconfigjson`, `.dockercfg` or `config.json` in it or in directories directly below.
    ///
    /// # Errors
    /// When there is nothing of the kind, or it cannot be read or parsed.
    pub fn from_pull_secret(path: impl Into<PathBuf>) -> Result<Self, CredentialsError> {
        let files = secrets::files(&path.into())?;
        let read = files.into_iter().map(Self::from_file);
        read.collect::<Result<Vec<_>, _>>().map(|all| all.into_iter().fold(Self::none(), Self::then))
    }

    /// Puts a credential for one registry, or for what is below a path of it (`host[:port][/path]`), before everything
    /// else.
    #[must_use]
    pub fn with(mut self, scope: impl Into<String>, credential: Credential) -> Self {
        self.places.insert(0, Place::Given { scope: scope.into(), credential });
        self
    }

    /// Looks in the places of `others` when none of these has a credential.
    #[must_use]
    pub fn then(mut self, others: Self) -> Self {
        self.places.extend(others.places);
        self
    }

    /// Asks the programs that `registries.conf` names as `credential-helpers`, too: after all files, before the programs of
    /// clouds.
    #[must_use]
    pub fn with_helpers_of(mut self, hosts: &Hosts) -> Self {
        let is_cloud = |place: &Place| matches!(place, Place::Cloud(_));
        let end = self.places.iter().position(is_cloud).unwrap_or(self.places.len());
        self.places.insert(end, Place::Helpers(Helpers::new(hosts)));
        self
    }

    /// Finds the credential for a repository of a registry, `None` when there is none.
    ///
    /// Within one file an entry for a path (`registry.example/team`) goes before one for the registry, and at the registry
    /// `credHelpers` goes before an entry with content, which goes before `credsStore`. Credential programs are run
    /// without a shell and have 30 seconds.
    ///
    /// # Errors
    /// When a file that exists cannot be read or parsed, or a credential program that a file names fails otherwise than
    /// by not knowing the registry.
    pub async fn lookup(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialsError> {
        Ok(self.find(registry, repository).await?.credential)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn order_of_places() {
        let run = format!("/run/containers/{}/auth.json", rustix::process::geteuid().as_raw());
        #[track_caller]
        fn check(variables: &[(&str, &str)], expect: &[&str]) {
            let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
            let found = Credentials::from_variables(|name| variables.get(name).map(OsString::from));
            let names: Vec<String> = found.places.iter().map(ToString::to_string).collect();
            assert_eq!(names, expect);
        }
        let kaniko = "/kaniko/.docker/config.json";
        check(&[], &[&run, kaniko]);
        let (docker, podman, old) =
            ("/h/.docker/config.json", "/h/.config/containers/auth.json", "/h/.dockercfg");
        check(&[("HOME", "/h")], &[&run, podman, docker, old, kaniko]);
        check(
            &[("HOME", "/h"), ("DOCKER_CONFIG", "/d"), ("REGISTRY_AUTH_FILE", "/r.json"), ("PATH", "/bin")],
            &[
                "/d/config.json",
                "/r.json",
                &run,
                podman,
                old,
                kaniko,
                "credential programs of clouds on $PATH",
            ],
        );
        check(
            &[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/1"), ("XDG_CONFIG_HOME", "/c")],
            &["/run/user/1/containers/auth.json", "/c/containers/auth.json", docker, old, kaniko],
        );
        check(&[("DOCKER_AUTH_CONFIG", "{}")], &["$DOCKER_AUTH_CONFIG", &run, kaniko]);
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
            "DOCKER_CONFIG" => docker.parent().map(|parent| parent.into()),
            "REGISTRY_AUTH_FILE" => Some(podman.clone().into()),
            "DOCKER_AUTH_CONFIG" => None,
            _ => Some(directory.path().join("missing").into()),
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
