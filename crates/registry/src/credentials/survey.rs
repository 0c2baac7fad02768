//! What the places of credentials hold, by name.

use std::path::PathBuf;

use super::file::AuthFile;
use super::{Credentials, CredentialsError, Place};

/// A place of credentials and the names in it; never a value.
#[derive(Debug)]
#[non_exhaustive]
pub struct CredentialSource {
    /// The path of a file, `$DOCKER_AUTH_CONFIG`, or words.
    pub place: String,
    /// The registries it names, in order.
    ///
    /// # Errors
    /// The file is missing, cannot be read or is not JSON.
    pub entries: Result<Vec<CredentialEntry>, CredentialsError>,
}

/// A registry that a place of credentials names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CredentialEntry {
    /// The registry, or the repository below it, as it is written; `None` for every registry.
    pub name: Option<String>,
    /// The program that is asked; `None` when the credential stands in the place itself.
    pub program: Option<String>,
}

impl Credentials {
    /// Lists the places in the order they are searched, with what they name. No program is run.
    pub fn survey(&self) -> Vec<CredentialSource> {
        let look = |place: &Place| match place {
            Place::File { path, .. } => CredentialSource {
                place: path.display().to_string(),
                entries: AuthFile::read(path).map(|file| file.names()),
            },
            Place::Text(_) => CredentialSource {
                place: place.to_string(),
                entries: place.read().map(|file| file.map(|file| file.names()).unwrap_or_default()),
            },
            Place::Given { scope, .. } => {
                let entry = CredentialEntry { name: Some(scope.clone()), program: None };
                CredentialSource { place: place.to_string(), entries: Ok(vec![entry]) }
            }
            Place::Helpers(helpers) => {
                let entry = |program: PathBuf| CredentialEntry {
                    name: None,
                    program: Some(program.display().to_string()),
                };
                let entries = Ok(helpers.programs().into_iter().map(entry).collect());
                CredentialSource { place: place.to_string(), entries }
            }
            Place::Cloud(cloud) => {
                let entry = |(name, program): (String, PathBuf)| CredentialEntry {
                    name: Some(name),
                    program: Some(program.display().to_string()),
                };
                let entries = Ok(cloud.all_installed().into_iter().map(entry).collect());
                CredentialSource { place: place.to_string(), entries }
            }
        };
        self.places.iter().map(look).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Credential;
    use super::*;

    #[test]
    fn names_are_told_and_values_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let text = r#"{"auths": {"reg.local": {"auth": "aHVudGVyOjI="}, "empty.local": {}},
                       "credHelpers": {"aws.local": "ecr-login"}, "credsStore": "pass"}"#;
        std::fs::write(&path, text).unwrap();
        let given = Credential::Basic { username: "u".into(), password: "hunter2".into() };
        let sources = Credentials::from_file(&path).unwrap().with("given.local", given).survey();
        let entry = |name: Option<&str>, program: Option<&str>| CredentialEntry {
            name: name.map(str::to_owned),
            program: program.map(str::to_owned),
        };
        let found: Vec<_> = sources
            .iter()
            .map(|source| (source.place.clone(), source.entries.as_ref().unwrap().clone()))
            .collect();
        let expect = [
            ("given for given.local".to_owned(), vec![entry(Some("given.local"), None)]),
            (
                path.display().to_string(),
                vec![
                    entry(Some("reg.local"), None),
                    entry(Some("aws.local"), Some("docker-credential-ecr-login")),
                    entry(None, Some("docker-credential-pass")),
                ],
            ),
        ];
        assert_eq!(found, expect);
        let shown = format!("{sources:?}");
        assert!(!shown.contains("hunter") && !shown.contains("aHVudGVy"), "{shown}");
    }

    #[test]
    fn missing_files_are_named() {
        let path = PathBuf::from("/none/config.json");
        let place = Place::File { path: path.clone(), missing: super::super::Missing::IsFine };
        let sources = Credentials { places: vec![place] }.survey();
        assert_eq!(sources[0].place, path.display().to_string());
        assert!(matches!(sources[0].entries, Err(CredentialsError::Read { .. })));
    }
}
