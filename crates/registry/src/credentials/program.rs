//! External credential programs, `docker-credential-NAME`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::{Credential, CredentialsError};

/// How long a program that a file names may take. Cloud programs ask a metadata service over the network.
pub(super) const TIME_LIMIT: Duration = Duration::from_secs(30);

/// The longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// The longest message of a program that is shown, in characters.
const MAX_MESSAGE: usize = 500;

/// Why a program gave nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot be run: {0}")]
    Run(io::Error),
    #[error("refused: {0}")]
    Refused(String),
    #[error("answered no JSON with `Username` and `Secret`")]
    Answer,
}

impl Failure {
    /// Makes the error of a program that the file at `path` names.
    pub(super) fn named_by(self, path: &Path, program: &Path, server: &str) -> CredentialsError {
        let program = program.display().to_string();
        match self {
            Self::Run(source) => CredentialsError::Run { program, path: path.to_owned(), source },
            Self::Refused(message) => {
                CredentialsError::Refused { program, server: server.to_owned(), message }
            }
            Self::Answer => CredentialsError::Answer { program },
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Login<'a> {
    #[serde(rename = "ServerURL", default, skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// The program that a file calls `name`.
pub(super) fn path_of(name: &str) -> PathBuf {
    format!("docker-credential-{name}").into()
}

/// Asks a program for the credential of `server`; `None` when it does not know the server.
///
/// # References
/// <https://github.com/docker/docker-credential-helpers>, "Development".
pub(super) async fn ask(
    program: &Path,
    server: &str,
    limit: Duration,
) -> Result<Option<Credential>, Failure> {
    let (success, answer) = run(program, "get", server.as_bytes(), limit).await?;
    if !success {
        return refused(&answer).map(|()| None);
    }
    match serde_json::from_slice::<Login<'_>>(&answer) {
        Ok(Login { username, secret, .. }) => Ok(Some(Credential::basic(&username, &secret))),
        Err(_) => Err(Failure::Answer),
    }
}

/// Lets a program keep a user name and a password for `server`.
pub(super) async fn store(
    program: &Path,
    server: &str,
    username: &str,
    password: &str,
) -> Result<(), Failure> {
    let login = Login { server: Some(server), username: username.to_owned(), secret: password.to_owned() };
    let text = serde_json::to_vec(&login).map_err(|error| Failure::Run(error.into()))?;
    match run(program, "store", &text, TIME_LIMIT).await? {
        (true, _) => Ok(()),
        (false, answer) => Err(Failure::Refused(message(&answer))),
    }
}

/// Lets a program forget `server`; one that does not know it is content.
pub(super) async fn erase(program: &Path, server: &str) -> Result<(), Failure> {
    match run(program, "erase", server.as_bytes(), TIME_LIMIT).await? {
        (true, _) => Ok(()),
        (false, answer) => refused(&answer),
    }
}

/// The protocol knows no code for "not found", only these words of its reference implementation.
fn refused(answer: &[u8]) -> Result<(), Failure> {
    let message = message(answer);
    let unknown = message.contains("credentials not found") || message.contains("no credentials");
    if unknown { Ok(()) } else { Err(Failure::Refused(message)) }
}

/// What a program says ends up on terminals.
fn message(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    text.trim().chars().filter(|letter| !letter.is_control()).take(MAX_MESSAGE).collect()
}

async fn run(program: &Path, verb: &str, input: &[u8], limit: Duration) -> Result<(bool, Vec<u8>), Failure> {
    // A file names a program of PATH; it must not choose a path of its own.
    if !program.is_absolute() && program.components().count() != 1 {
        return Err(Failure::Run(io::Error::new(io::ErrorKind::InvalidInput, "a name with a slash")));
    }
    match tokio::time::timeout(limit, converse(program, verb, input)).await {
        Ok(outcome) => outcome.map_err(Failure::Run),
        Err(_) => {
            let late = format!("no answer within {} seconds", limit.as_secs());
            Err(Failure::Run(io::Error::new(io::ErrorKind::TimedOut, late)))
        }
    }
}

async fn converse(program: &Path, verb: &str, input: &[u8]) -> io::Result<(bool, Vec<u8>)> {
    let mut child = Command::new(program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that answers without reading closes the pipe; its answer counts.
        let _ = stdin.write_all(input).await;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER + 1).read_to_end(&mut answer).await?;
    }
    if answer.len() as u64 > MAX_ANSWER {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "an answer of more than 1 MiB"));
    }
    Ok((child.wait().await?.success(), answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals() {
        assert!(refused(b"credentials not found in native keychain\n").is_ok());
        assert!(matches!(refused(b"locked\x1b[0m\n"), Err(Failure::Refused(said)) if said == "locked[0m"));
    }

    /// One test for all that spawns: a script cannot be executed while a child of another thread still holds it open.
    #[tokio::test]
    async fn programs() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("docker-credential-test");
        let kept = directory.path().join("kept");
        let script = format!(
            "#!/bin/sh\ncase $1 in\nstore|erase) cat >{}; exit 0;;\nget) ;;\n*) exit 2;;\nesac\nread server\n\
             case $server in\n  known) echo '{{\"Username\":\"u\",\"Secret\":\"p\"}}';;\n\
             token) echo '{{\"ServerURL\":\"x\",\"Username\":\"<token>\",\"Secret\":\"p\"}}';;\n\
             slow) exec sleep 1000;;\n  endless) exec cat /dev/zero;;\n  odd) echo hello;;\n\
             *) echo credentials not found in native keychain; exit 1;;\nesac\n",
            kept.display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let basic = Credential::Basic { username: "u".into(), password: "p".into() };
        assert_eq!(ask(&program, "known", TIME_LIMIT).await.unwrap(), Some(basic));
        let token = Credential::IdentityToken("p".into());
        assert_eq!(ask(&program, "token", TIME_LIMIT).await.unwrap(), Some(token));
        assert_eq!(ask(&program, "unknown", TIME_LIMIT).await.unwrap(), None);
        assert!(matches!(ask(&program, "odd", TIME_LIMIT).await, Err(Failure::Answer)));
        let kind = |failure: Failure| match failure {
            Failure::Run(error) => error.kind(),
            other => panic!("{other}"),
        };
        let slow = ask(&program, "slow", Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(kind(slow), io::ErrorKind::TimedOut);
        let endless = ask(&program, "endless", TIME_LIMIT).await.unwrap_err();
        assert_eq!(kind(endless), io::ErrorKind::FileTooLarge);
        store(&program, "r.example", "u", "p\"q").await.unwrap();
        let login = r#"{"ServerURL":"r.example","Username":"u","Secret":"p\"q"}"#;
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), login);
        erase(&program, "r.example").await.unwrap();
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), "r.example");

        let missing = ask(&path_of("surely-not-installed"), "r", TIME_LIMIT).await.unwrap_err();
        assert_eq!(kind(missing), io::ErrorKind::NotFound);
        let evil = ask(&path_of("../evil"), "r", TIME_LIMIT).await.unwrap_err();
        assert_eq!(kind(evil), io::ErrorKind::InvalidInput);
    }
}
