//! `rbuild login` and `rbuild logout`: credentials that are kept, and why one is used.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;

use anyhow::Context as _;
use rbuild_registry::{Credential, CredentialFile, Credentials, Kept, Login, Outcome};

use super::{print, remark};
use crate::args::{LoginArgs, LogoutArgs};
use crate::settings::{self, Usage};

/// The longest password, in bytes: tokens of clouds have some thousand.
const MAX_PASSWORD: u64 = 64 << 10;

/// Keeps credentials that the registry accepts, or explains which are found.
pub(crate) async fn login(args: LoginArgs) -> anyhow::Result<()> {
    if args.explain {
        return explain(&args).await;
    }
    let scope = scope(args.name.as_deref())?;
    let username = args.username.clone().filter(|name| !name.is_empty() && !name.contains(':'));
    let username = username.ok_or_else(|| Usage::new("--username is a name without a colon"))?;
    let credential = Credential::Basic { username, password: password()? };
    let file = file(args.registry.credentials.authfile.as_deref())?;

    let registry = scope.split('/').next().unwrap_or_default();
    let mine = Credentials::none().with(registry, credential.clone());
    let answer = settings::client_as(&args.registry, mine)?.check_login(registry).await;
    let answer = answer.with_context(|| format!("cannot log in to {registry}"))?;
    if answer == Login::NotAsked {
        remark(&format!("{registry} does not ask for credentials; they were not verified"));
    }
    let kept = file.save(&scope, &credential).await?;
    match kept {
        Kept::InFile => remark(&format!("kept in {}, not encrypted", file.path().display())),
        Kept::ByProgram(program) => remark(&format!("kept by {program}")),
    }
    let (registry, repository) = scope.split_once('/').unwrap_or((&scope, ""));
    let tried = settings::credentials(&args.registry)?.explain(registry, repository).await;
    let used = tried.iter().find(|tried| matches!(tried.outcome, Outcome::Used { .. }));
    if let Some(used) = used.filter(|used| used.place != file.path().display().to_string()) {
        remark(&format!("warning: another place goes before it: {used}"));
    }
    print(&format!("logged in to {scope}\n"))
}

/// Prints every place that is searched, one on a line.
async fn explain(args: &LoginArgs) -> anyhow::Result<()> {
    let name = args.name.as_deref().unwrap_or_default();
    // A bare host is meant as a registry: `explain registry.example` is not an image of Docker Hub.
    let (registry, repository) = match scope(args.name.as_deref()) {
        Ok(scope) if !scope.contains('/') => (scope, String::new()),
        _ => {
            let name = settings::reference(name)?;
            (name.registry().to_owned(), name.repository().to_owned())
        }
    };
    let credentials = settings::credentials(&args.registry)?;
    let tried = credentials.explain(&registry, &repository).await;
    let mut page = format!("{}/{repository}\n", registry).replace("/\n", "\n");
    for tried in &tried {
        let sign = match tried.outcome {
            Outcome::Used { .. } => "->",
            Outcome::Failed(_) => "!!",
            _ => "  ",
        };
        page.push_str(&format!("{sign} {}\n", crate::render::printable(&tried.to_string())));
    }
    let (failed, used) = tried.into_iter().fold((None, false), |(failed, used), tried| match tried.outcome {
        Outcome::Failed(error) if !used => (failed.or(Some(error)), used),
        Outcome::Used { .. } => (failed, true),
        _ => (failed, used),
    });
    if !used && failed.is_none() {
        page.push_str("no credentials: requests are anonymous\n");
    }
    print(&page)?;
    failed.map_or(Ok(()), |error| Err(anyhow::Error::new(rbuild_registry::Error::from(error))))
}

/// Forgets credentials.
pub(crate) async fn logout(args: LogoutArgs) -> anyhow::Result<()> {
    let scope = scope(args.name.as_deref())?;
    let file = file(args.authfile.as_deref())?;
    let was_there = file.remove(&scope).await?;
    match was_there {
        true => remark(&format!("forgot {scope}")),
        false => remark(&format!("nothing is kept for {scope} in {}", file.path().display())),
    }
    Ok(())
}

fn file(named: Option<&Path>) -> Result<CredentialFile, Usage> {
    let file = named.map(CredentialFile::new).or_else(CredentialFile::from_env);
    file.ok_or_else(|| {
        Usage::new("there is no HOME to keep credentials in").hint("name a file with --authfile")
    })
}

/// Reads `HOST[:PORT][/PATH]`; none is Docker Hub.
fn scope(name: Option<&str>) -> Result<String, Usage> {
    let name = name.unwrap_or("docker.io");
    let bare = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    let bare = bare.trim_end_matches('/');
    let host = bare.split('/').next().unwrap_or_default();
    let is_host = host.contains(['.', ':']) || host == "localhost";
    if !is_host || bare.contains(['@', ' ', '?', '#']) {
        return Err(Usage::new(format!("{name:?} is not REGISTRY[/PATH]"))
            .hint("as registry.example or localhost:5000"));
    }
    Ok(bare.to_owned())
}

/// Reads the password from standard input, without the line break at its end.
fn password() -> anyhow::Result<String> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        let usage = Usage::new("the password is read from standard input, and that is a terminal");
        return Err(usage.hint("rbuild login -u NAME --password-stdin REGISTRY < FILE").into());
    }
    let mut text = String::new();
    stdin.take(MAX_PASSWORD + 1).read_to_string(&mut text).context("cannot read the password")?;
    if text.len() as u64 > MAX_PASSWORD {
        return Err(Usage::new("the password is longer than 64 KiB").into());
    }
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return Err(Usage::new("the password on standard input is empty").into());
    }
    Ok(password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_and_paths_are_told_from_images() {
        let check = |name: Option<&str>, expect: Option<&str>| {
            assert_eq!(scope(name).ok().as_deref(), expect, "{name:?}");
        };
        check(None, Some("docker.io"));
        check(Some("r.example"), Some("r.example"));
        check(Some("https://r.example:5000/"), Some("r.example:5000"));
        check(Some("r.example/team"), Some("r.example/team"));
        check(Some("localhost"), Some("localhost"));
        check(Some("debian"), None);
        check(Some("library/debian"), None);
        check(Some("user@r.example"), None);
    }
}
