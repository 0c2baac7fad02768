//! Credential programs that `registries.conf` names for every registry.

use std::fmt;
use std::path::PathBuf;

use super::file::server_name;
use super::{Credential, CredentialsError, program};
use crate::hosts::Hosts;

/// The programs of `credential-helpers`; the file is read at each lookup.
///
/// # References
/// containers-registries.conf(5), "credential-helpers"
#[derive(Clone, Debug)]
pub(super) struct Helpers(Hosts);

impl fmt::Display for Helpers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("credential programs of registries.conf")
    }
}

impl Helpers {
    pub(super) fn new(hosts: &Hosts) -> Self {
        Self(hosts.clone())
    }

    /// Names the programs. Of a file that cannot be read there are none: no request gets past it anyway, and says why.
    pub(super) fn programs(&self) -> Vec<PathBuf> {
        let names = self.0.credential_helpers().unwrap_or_default();
        names.iter().map(|name| program::path_of(name)).collect()
    }

    /// Asks one after the other; returns who knew the registry and what it said, or those who did not.
    pub(super) async fn ask(&self, registry: &str) -> Result<Answer, CredentialsError> {
        let (server, mut without) = (server_name(registry), Vec::new());
        for program in self.programs() {
            let answer = program::ask(&program, server, program::TIME_LIMIT).await;
            match answer.map_err(|failure| failure.named_by(&self.path(), &program, server))? {
                Some(credential) => return Ok(Answer::Has { program, credential }),
                None => without.push(program),
            }
        }
        Ok(Answer::HaveNone(without))
    }

    fn path(&self) -> PathBuf {
        self.0.registries_conf.clone().unwrap_or_else(|| "registries.conf".into())
    }
}

/// What came of asking.
pub(super) enum Answer {
    Has { program: PathBuf, credential: Credential },
    HaveNone(Vec<PathBuf>),
}
