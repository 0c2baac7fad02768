//! The search for one credential, and what it passed on its way.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::cloud::Asked;
use super::file::{AuthFile, Candidate, matches, registry_name};
use super::helpers::Answer;
use super::{Credential, Credentials, CredentialsError, DOCKER_AUTH_CONFIG, Missing, Place, program};

/// What a search brought, and where it looked.
#[derive(Debug)]
pub struct Found {
    /// The credential; `None` when no place has one.
    pub credential: Option<Credential>,
    /// The places that were looked at, in order; the last one had the credential, if there is one.
    pub tried: Vec<Tried>,
}

/// One place that was looked at. Its `Display` form is a line for people; nothing of it is secret.
#[derive(Debug)]
pub struct Tried {
    /// The place: the path of a file, `$DOCKER_AUTH_CONFIG` or words.
    pub place: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of looking at one place.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It has the credential.
    Used {
        /// The entry or the program that has it.
        by: String,
        /// What kind of credential it is, and for which user name.
        kind: String,
    },
    /// The file does not exist.
    Absent,
    /// It says nothing about this registry.
    NoEntry,
    /// Programs were asked and have none.
    Unknown {
        /// The programs, and what they said.
        programs: Vec<String>,
    },
    /// It might have a credential, but an earlier place has one.
    NotNeeded {
        /// The entry or the program that would be used.
        by: String,
    },
    /// It cannot be read, or its program failed. The search ends here.
    Failed(CredentialsError),
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        match &self.outcome {
            Outcome::Used { by, kind } => write!(f, "{kind}, of {by}"),
            Outcome::Absent => f.write_str("no such file"),
            Outcome::NoEntry => f.write_str("no entry"),
            Outcome::Unknown { programs } => f.write_str(&programs.join(", ")),
            Outcome::NotNeeded { by } => write!(f, "not needed; has {by}"),
            Outcome::Failed(error) => {
                write!(f, "{error}")?;
                std::error::Error::source(error).map_or(Ok(()), |cause| write!(f, ": {cause}"))
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given { scope, .. } => write!(f, "given for {scope}"),
            Self::File { path, .. } => write!(f, "{}", path.display()),
            Self::Text(_) => write!(f, "${DOCKER_AUTH_CONFIG}"),
            Self::Helpers(helpers) => helpers.fmt(f),
            Self::Cloud(cloud) => cloud.fmt(f),
        }
    }
}

impl Credential {
    /// Says what it is without the secret.
    fn kind(&self) -> String {
        match self {
            Self::Basic { username, .. } => format!("user name `{username}` and a password"),
            Self::IdentityToken(_) => "an identity token".to_owned(),
            Self::RegistryToken(_) => "a registry token".to_owned(),
        }
    }
}

impl Credentials {
    /// Finds the credential for a repository of a registry, and tells where it looked.
    ///
    /// # Errors
    /// As [`Credentials::lookup`].
    pub async fn find(&self, registry: &str, repository: &str) -> Result<Found, CredentialsError> {
        let mut tried = Vec::new();
        for place in &self.places {
            let (outcome, credential) = place.look(registry, repository).await;
            if let Outcome::Failed(error) = outcome {
                return Err(error);
            }
            tried.push(Tried { place: place.to_string(), outcome });
            if credential.is_some() {
                return Ok(Found { credential, tried });
            }
        }
        Ok(Found { credential: None, tried })
    }

    /// Tells for every place what it has for a repository of a registry. Programs are run as in a search; those of
    /// places behind the one that is used are not.
    pub async fn explain(&self, registry: &str, repository: &str) -> Vec<Tried> {
        let (mut tried, mut ended) = (Vec::new(), false);
        for place in &self.places {
            let outcome = if ended {
                place.glance(registry, repository)
            } else {
                place.look(registry, repository).await.0
            };
            ended = ended || matches!(outcome, Outcome::Used { .. } | Outcome::Failed(_));
            tried.push(Tried { place: place.to_string(), outcome });
        }
        tried
    }
}

impl Place {
    async fn look(&self, registry: &str, repository: &str) -> (Outcome, Option<Credential>) {
        match self {
            Self::Given { scope, credential } if matches(scope, registry, repository) => {
                let used = Outcome::Used { by: format!("`{scope}`"), kind: credential.kind() };
                (used, Some(credential.clone()))
            }
            Self::Given { .. } => (Outcome::NoEntry, None),
            Self::Helpers(helpers) => match helpers.ask(registry_name(registry)).await {
                Err(error) => (Outcome::Failed(error), None),
                Ok(Answer::Has { program, credential }) => {
                    let used = Outcome::Used { by: program.display().to_string(), kind: credential.kind() };
                    (used, Some(credential))
                }
                Ok(Answer::HaveNone(programs)) if programs.is_empty() => (Outcome::NoEntry, None),
                Ok(Answer::HaveNone(programs)) => {
                    let programs = programs.iter().map(|program| format!("{} has none", program.display()));
                    (Outcome::Unknown { programs: programs.collect() }, None)
                }
            },
            Self::Cloud(cloud) => match cloud.ask(registry_name(registry)).await {
                Asked::NotACloud => (Outcome::NoEntry, None),
                Asked::NotInstalled(names) => {
                    let programs = vec![format!("{} is not installed", names.join(" or "))];
                    (Outcome::Unknown { programs }, None)
                }
                Asked::Refused { program, why } => {
                    let programs = vec![format!("{} {why}", program.display())];
                    (Outcome::Unknown { programs }, None)
                }
                Asked::Answered { program, credential } => {
                    let used = Outcome::Used { by: program.display().to_string(), kind: credential.kind() };
                    (used, Some(credential))
                }
            },
            Self::File { .. } | Self::Text(_) => match self.look_in_file(registry, repository).await {
                Ok(found) => found,
                Err(error) => (Outcome::Failed(error), None),
            },
        }
    }

    /// Tells what the place would be asked, without asking.
    fn glance(&self, registry: &str, repository: &str) -> Outcome {
        let by = match self {
            Self::Given { scope, .. } => matches(scope, registry, repository).then(|| format!("`{scope}`")),
            Self::Helpers(helpers) => helpers.programs().first().map(|program| program.display().to_string()),
            Self::Cloud(_) => None,
            Self::File { .. } | Self::Text(_) => match self.read() {
                Ok(None) => return Outcome::Absent,
                Ok(Some(file)) => file.candidates(registry, repository).first().map(Candidate::name),
                Err(error) => return Outcome::Failed(error),
            },
        };
        by.map_or(Outcome::NoEntry, |by| Outcome::NotNeeded { by })
    }

    async fn look_in_file(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<(Outcome, Option<Credential>), CredentialsError> {
        let Some(file) = self.read()? else { return Ok((Outcome::Absent, None)) };
        let (path, mut asked) = (self.path(), Vec::new());
        for candidate in file.candidates(registry, repository) {
            let by = candidate.name();
            let found =
                match candidate {
                    Candidate::Entry { key, entry } => {
                        let credential = entry.credential();
                        Some(credential.ok_or_else(|| CredentialsError::Entry {
                            path: path.clone(),
                            key: key.to_owned(),
                        })?)
                    }
                    Candidate::Program { name, server } => {
                        let program = program::path_of(name);
                        let answer = program::ask(&program, &server, program::TIME_LIMIT).await;
                        answer.map_err(|failure| failure.named_by(&path, &program, &server))?
                    }
                };
            match found {
                Some(credential) => {
                    return Ok((Outcome::Used { by, kind: credential.kind() }, Some(credential)));
                }
                None => asked.push(format!("{by} has none")),
            }
        }
        let outcome = if asked.is_empty() { Outcome::NoEntry } else { Outcome::Unknown { programs: asked } };
        Ok((outcome, None))
    }

    /// Reads the file; `None` when it need not exist and does not.
    pub(super) fn read(&self) -> Result<Option<AuthFile>, CredentialsError> {
        match self {
            Self::Text(text) => AuthFile::parse(&self.path(), text.0.as_bytes()).map(Some),
            // A few kilobytes: handing them to a blocking thread would cost more than reading them.
            Self::File { path, missing } => match AuthFile::read(path) {
                Err(CredentialsError::Read { source, .. })
                    if *missing == Missing::IsFine && is_absent(path, source.kind()) =>
                {
                    Ok(None)
                }
                other => other.map(Some),
            },
            Self::Given { .. } | Self::Helpers(_) | Self::Cloud(_) => Ok(None),
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::File { path, .. } => path.clone(),
            other => Path::new(&other.to_string()).to_owned(),
        }
    }
}

/// A usual place that this user may not even look at, as root's home is to others, is none.
fn is_absent(path: &Path, kind: io::ErrorKind) -> bool {
    match kind {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => true,
        io::ErrorKind::PermissionDenied => path.symlink_metadata().is_err(),
        _ => false,
    }
}
