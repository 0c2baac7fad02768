//! Credential programs of clouds, which find the identity of the machine or the pod by themselves.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Credential, program};

/// They ask a metadata service that answers within milliseconds where there is one. Where there is none a public image
/// of that cloud should not have to wait long.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Programs on the search path, for hosts of their cloud alone.
///
/// They are asked without being configured, as kaniko does: such a host was named by the user, the program was installed
/// for this one purpose, and what it gives is good at that host only. One that fails is not asked about that
/// registry again, and the request goes on without credentials: the image may be public.
#[derive(Clone, Debug)]
pub(super) struct Cloud {
    directories: Vec<PathBuf>,
    refused: Arc<Mutex<BTreeSet<(PathBuf, String)>>>,
}

/// What came of asking.
#[derive(Debug)]
pub(super) enum Asked {
    /// No cloud has such a host.
    NotACloud,
    /// The programs that would know are not installed.
    NotInstalled(&'static [&'static str]),
    Refused {
        program: PathBuf,
        why: String,
    },
    Answered {
        program: PathBuf,
        credential: Credential,
    },
}

impl fmt::Display for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("credential programs of clouds on $PATH")
    }
}

impl Cloud {
    pub(super) fn new(path: &OsStr) -> Self {
        // An empty entry is the working directory, which may be somebody else's build context.
        let directories = std::env::split_paths(path).filter(|path| path.is_absolute()).collect();
        Self { directories, refused: Arc::default() }
    }

    pub(super) async fn ask(&self, registry: &str) -> Asked {
        let Some(names) = programs(registry) else { return Asked::NotACloud };
        let Some(program) = names.iter().find_map(|name| self.installed(name)) else {
            return Asked::NotInstalled(names);
        };
        let key = (program.clone(), registry.to_owned());
        if self.refused().contains(&key) {
            return Asked::Refused { program, why: "failed before".to_owned() };
        }
        let why = match program::ask(&program, registry, TIME_LIMIT).await {
            Ok(Some(credential)) => return Asked::Answered { program, credential },
            Ok(None) => "has none".to_owned(),
            Err(error) => error.to_string(),
        };
        self.refused().insert(key);
        Asked::Refused { program, why }
    }

    /// Names the programs that are installed, for those who ask what would be asked.
    pub(super) fn all_installed(&self) -> Vec<(String, PathBuf)> {
        let hosts = [ECR, GOOGLE, AZURE].into_iter();
        let found = hosts.filter_map(|(host, names)| {
            Some((host.to_owned(), names.iter().find_map(|name| self.installed(name))?))
        });
        found.collect()
    }

    fn installed(&self, name: &str) -> Option<PathBuf> {
        let is_program = |path: &PathBuf| {
            path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        self.directories.iter().map(|directory| directory.join(name)).find(is_program)
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, BTreeSet<(PathBuf, String)>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Programs = (&'static str, &'static [&'static str]);

const ECR: Programs = ("Amazon ECR", &["docker-credential-ecr-login"]);
const GOOGLE: Programs = ("Google", &["docker-credential-gcr", "docker-credential-gcloud"]);
const AZURE: Programs = ("Azure", &["docker-credential-acr-env"]);

/// The programs that know a registry, the first installed one counts.
///
/// # References
/// amazon-ecr-credential-helper, docker-credential-gcr, docker-credential-acr-env: the hosts each of them serves.
fn programs(registry: &str) -> Option<&'static [&'static str]> {
    let below = |domain: &str| registry.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    let is_ecr = registry.contains(".dkr.ecr")
        && ["amazonaws.com", "amazonaws.com.cn", "on.aws"].iter().any(|d| below(d));
    if is_ecr || registry == "public.ecr.aws" {
        return Some(ECR.1);
    }
    if registry == "gcr.io" || below("gcr.io") || below("pkg.dev") {
        return Some(GOOGLE.1);
    }
    if ["azurecr.io", "azurecr.cn", "azurecr.us"].iter().any(|domain| below(domain)) {
        return Some(AZURE.1);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_clouds() {
        let check = |registry: &str, expect: Option<&str>| {
            assert_eq!(programs(registry).map(|names| names[0]), expect, "{registry}");
        };
        let (ecr, gcr, acr) = (
            Some("docker-credential-ecr-login"),
            Some("docker-credential-gcr"),
            Some("docker-credential-acr-env"),
        );
        check("123456789012.dkr.ecr.eu-central-1.amazonaws.com", ecr);
        check("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", ecr);
        check("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", ecr);
        check("public.ecr.aws", ecr);
        check("gcr.io", gcr);
        check("eu.gcr.io", gcr);
        check("europe-docker.pkg.dev", gcr);
        check("team.azurecr.io", acr);
        for other in [
            "docker.io",
            "evilgcr.io",
            "gcr.io.evil.example",
            "x.dkr.ecr.amazonaws.com.evil.example",
            "azurecr.io",
            "gcr.io:5000",
            "team.azurecr.io:443",
        ] {
            check(other, None);
        }
    }

    #[test]
    fn programs_are_never_taken_from_the_working_directory() {
        assert_eq!(Cloud::new(OsStr::new(":.:bin:/usr/bin")).directories, [PathBuf::from("/usr/bin")]);
    }
}
