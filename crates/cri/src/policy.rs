//! `policy.json`: which images this node takes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rbuild_image::Reference;
use serde::Deserialize;

/// Larger files are refused.
const MAX_FILE: u64 = 1 << 20;

/// Why an image is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not JSON of the expected shape.
    #[error("cannot parse {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The file rejects the image.
    #[error("{name} is rejected by the policy for `{scope}`")]
    Rejected {
        /// The image.
        name: String,
        /// What the requirement is for.
        scope: String,
    },
    /// The file demands what cannot be checked here.
    #[error("the policy for `{scope}` demands `{requirement}` of {name}, which cannot be checked here")]
    Unsupported {
        /// The image.
        name: String,
        /// What the requirement is for.
        scope: String,
        /// The type of the requirement.
        requirement: String,
    },
}

/// Requirements by scope.
///
/// `reject` and `insecureAcceptAnything` are understood; whatever asks for a signature is refused, as signatures are not
/// checked.
///
/// # References
/// containers-policy.json(5)
#[derive(Debug, Deserialize)]
pub struct Policy {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

#[derive(Debug, Deserialize)]
struct Requirement {
    #[serde(rename = "type")]
    kind: String,
}

impl Policy {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read or parsed; a policy that is not understood lets nothing in.
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        let mut text = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text));
        read.map_err(|source| PolicyError::Read { path: path.to_owned(), source })?;
        serde_json::from_slice(&text).map_err(|source| PolicyError::Parse { path: path.to_owned(), source })
    }

    /// Tells whether an image may come from its registry.
    ///
    /// # Errors
    /// The most specific requirements that there are for it do not let it in.
    pub fn check(&self, name: &Reference) -> Result<(), PolicyError> {
        let (scope, requirements) = self.requirements(name);
        let rejected = || PolicyError::Rejected { name: name.to_string(), scope: scope.clone() };
        if requirements.is_empty() {
            return Err(rejected());
        }
        for requirement in requirements {
            match requirement.kind.as_str() {
                "insecureAcceptAnything" => {}
                "reject" => return Err(rejected()),
                kind => {
                    let requirement = kind.chars().take(100).collect();
                    return Err(PolicyError::Unsupported { name: name.to_string(), scope, requirement });
                }
            }
        }
        Ok(())
    }

    fn requirements(&self, name: &Reference) -> (String, &[Requirement]) {
        if let Some(docker) = self.transports.get("docker") {
            let found = scopes(name).into_iter().find_map(|scope| docker.get_key_value(&scope));
            if let Some((scope, requirements)) = found {
                return (scope.clone(), requirements);
            }
        }
        ("default".to_owned(), &self.default)
    }
}

/// The scopes an image is in, most specific first.
fn scopes(name: &Reference) -> Vec<String> {
    let mut scopes = vec![name.to_string()];
    let repository = format!("{}/{}", name.registry(), name.repository());
    let mut rest = repository.as_str();
    scopes.push(rest.to_owned());
    while let Some((parent, _)) = rest.rsplit_once('/') {
        scopes.push(parent.to_owned());
        rest = parent;
    }
    let mut domain = name.registry().split(':').next().unwrap_or_default();
    while let Some((_, parent)) = domain.split_once('.') {
        scopes.push(format!("*.{parent}"));
        domain = parent;
    }
    scopes.push(String::new());
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_scope_decides() {
        let policy: Policy = serde_json::from_str(
            r#"{"default": [{"type": "reject"}], "transports": {"docker": {
                "r.example/team": [{"type": "insecureAcceptAnything"}],
                "r.example/team/secret": [{"type": "reject"}],
                "r.example/signed": [{"type": "insecureAcceptAnything"}, {"type": "sigstoreSigned", "keyPath": "/k"}],
                "*.corp.example": [{"type": "insecureAcceptAnything"}],
                "r.example/empty": []
            }}}"#,
        )
        .unwrap();
        let check = |name: &str, expect: Result<(), &str>| {
            let got = policy.check(&name.parse().unwrap()).map_err(|error| error.to_string());
            assert_eq!(got, expect.map_err(str::to_owned));
        };
        check("r.example/team/app:1", Ok(()));
        check("a.corp.example:5000/x", Ok(()));
        check(
            "r.example/team/secret:1",
            Err("r.example/team/secret:1 is rejected by the policy for `r.example/team/secret`"),
        );
        check("debian", Err("docker.io/library/debian:latest is rejected by the policy for `default`"));
        check(
            "r.example/empty",
            Err("r.example/empty:latest is rejected by the policy for `r.example/empty`"),
        );
        check(
            "r.example/signed",
            Err("the policy for `r.example/signed` demands `sigstoreSigned` of r.example/signed:latest, \
                 which cannot be checked here"),
        );
    }

    #[test]
    fn a_policy_that_is_not_understood_lets_nothing_in() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.json");
        assert!(matches!(Policy::read(&path), Err(PolicyError::Read { .. })));
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(Policy::read(&path), Err(PolicyError::Parse { .. })));
    }
}
