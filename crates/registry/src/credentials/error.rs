//! Why credentials could not be had.

use std::io;
use std::path::PathBuf;

/// A reason why credentials could not be had. Not having any is none.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file of credentials cannot be read. In all variants `$DOCKER_AUTH_CONFIG` stands for the text of that variable.
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
    /// A directory of pull secrets holds none.
    #[error("neither .dockerconfigjson nor .dockercfg nor config.json is in {} or a directory in it", path.display())]
    NoSecrets {
        /// The directory.
        path: PathBuf,
    },
    /// A file of credentials cannot be written.
    #[error("cannot write credentials to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
