//! External credential programs, `docker-credential-NAME`.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::{Credential, CredentialsError};

/// How long a program may take. Cloud programs ask a metadata service over the network.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// The longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// Asks program `name` for the credential of `server`; `None` when the program does not know the server.
///
/// # References
/// <https://github.com/docker/docker-credential-helpers>, "Development".
pub(super) async fn get(
    path: &Path,
    name: &str,
    server: &str,
) -> Result<Option<Credential>, CredentialsError> {
    let program = format!("docker-credential-{name}");
    let failed = |source| CredentialsError::Run { program: program.clone(), path: path.to_owned(), source };
    if name.contains('/') {
        // The file names a program of PATH; it must not choose a path of its own.
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "a name with a slash")));
    }
    let (success, answer) = match tokio::time::timeout(TIME_LIMIT, run(&program, server)).await {
        Ok(outcome) => outcome.map_err(failed)?,
        Err(_) => return Err(failed(io::Error::new(io::ErrorKind::TimedOut, "no answer within 30 seconds"))),
    };
    if !success {
        return refused(program, server, &answer);
    }
    match serde_json::from_slice::<Answer>(&answer) {
        Ok(answer) => Ok(Some(Credential::basic(&answer.username, &answer.secret))),
        Err(_) => Err(CredentialsError::Answer { program }),
    }
}

/// The protocol knows no code for "not found", only these words of its reference implementation.
fn refused(program: String, server: &str, answer: &[u8]) -> Result<Option<Credential>, CredentialsError> {
    let message = String::from_utf8_lossy(answer).trim().to_owned();
    if message.contains("credentials not found") || message.contains("no credentials") {
        return Ok(None);
    }
    Err(CredentialsError::Refused { program, server: server.to_owned(), message })
}

async fn run(program: &str, server: &str) -> io::Result<(bool, Vec<u8>)> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that answers without reading closes the pipe; its answer counts.
        let _ = stdin.write_all(server.as_bytes()).await;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    }
    Ok((child.wait().await?.success(), answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals() {
        let check = |answer: &[u8]| refused("p".into(), "r", answer);
        assert!(matches!(check(b"credentials not found in native keychain\n"), Ok(None)));
        assert!(
            matches!(check(b"locked"), Err(CredentialsError::Refused { message, .. }) if message == "locked")
        );
    }

    /// One test for all that spawns: a script cannot be executed while a child of another thread still holds it open.
    #[tokio::test]
    async fn programs() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("docker-credential-test");
        let script = "#!/bin/sh\nread server\n[ \"$1\" = get ] || exit 2\n\
                      case $server in\n  known) echo '{\"Username\":\"u\",\"Secret\":\"p\"}';;\n\
                      *) echo credentials not found in native keychain; exit 1;;\nesac\n";
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = program.to_str().unwrap();
        let (success, answer) = run(program, "known").await.unwrap();
        assert!(success);
        let answer: Answer = serde_json::from_slice(&answer).unwrap();
        assert_eq!((answer.username.as_str(), answer.secret.as_str()), ("u", "p"));
        let (success, answer) = run(program, "unknown").await.unwrap();
        assert!(!success);
        assert!(matches!(refused(program.into(), "unknown", &answer), Ok(None)));

        let error = get(Path::new("/config.json"), "surely-not-installed", "r").await.unwrap_err();
        assert!(error.to_string().contains("docker-credential-surely-not-installed"), "{error}");
        let error = get(Path::new("/config.json"), "../evil", "r").await.unwrap_err();
        assert!(
            matches!(error, CredentialsError::Run { source, .. } if source.kind() == io::ErrorKind::InvalidInput)
        );
    }
}
