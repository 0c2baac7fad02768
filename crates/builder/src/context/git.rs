//! Repositories, read with the installed `git`.
//!
//! What a repository says is not trusted: no hooks run, no configuration but ours is read, nobody is asked for
//! passwords, submodules are followed within bounds and only over the protocols allowed for the repository itself.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rbuild_sandbox::{Cancel, Secret};
use rustix::process::{Pid, Signal, kill_process_group};

use super::git_error::GitError;
use super::git_ref::GitRef;

/// How often a running git is looked after.
const POLL: Duration = Duration::from_millis(5);

/// Bytes that are kept of what a git writes.
const MAX_OUTPUT: u64 = 4 << 20;

/// How deep submodules may lie in submodules.
pub(super) const MAX_SUBMODULE_DEPTH: usize = 8;

/// Submodules of one repository in all.
pub(super) const MAX_SUBMODULES: usize = 512;

/// The name under which what was fetched stands where it has no better.
const FETCHED: &str = "refs/rbuild/source";

/// How git is run: where it is, and what of the environment it sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Git {
    environment: Vec<(OsString, OsString)>,
    known_hosts: Option<PathBuf>,
}

/// git is looked for in the usual places, and reaches hosts directly.
impl Default for Git {
    fn default() -> Self {
        let path = ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into());
        Self { environment: vec![path], known_hosts: None }
    }
}

impl Git {
    /// Takes `PATH`, proxies, the ssh agent and the user's known ssh hosts from the environment.
    #[expect(clippy::disallowed_methods, reason = "a constructor named from_env")]
    pub fn from_env() -> Self {
        let taken = ["PATH", "SSH_AUTH_SOCK"].into_iter().chain(rbuild_registry::PROXY_VARIABLES);
        let take = |name: &str| std::env::var_os(name).map(|value| (OsString::from(name), value));
        let mut environment: Vec<_> = taken.filter_map(take).collect();
        let certificates = ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().zip(["GIT_SSL_CAINFO", "GIT_SSL_CAPATH"]);
        for (name, as_git_has_it) in certificates {
            environment.extend(std::env::var_os(name).map(|value| (OsString::from(as_git_has_it), value)));
        }
        let known_hosts = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".ssh/known_hosts"));
        Self { environment, known_hosts }
    }
}

/// Whether `.git` is part of a checkout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeepGitDir {
    Yes,
    No,
}

/// The commit a reference stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    /// The commit's id.
    pub(crate) id: String,
    /// The full name of the reference, where it is no commit itself.
    name: Option<String>,
}

/// Where the files of a commit are.
#[derive(Debug)]
pub(crate) struct Checkout {
    /// The wanted directory.
    pub(crate) path: PathBuf,
    /// When the commit was made, in seconds since 1970.
    pub(crate) time: i64,
}

/// What opens a repository over http.
#[derive(Debug)]
pub(crate) struct GitAuthorization {
    /// The value of an `Authorization` header.
    pub(crate) header: Secret,
    /// How the URLs begin that it is sent with.
    pub(crate) scope: String,
}

/// A repository that is being read.
#[derive(Clone, Copy)]
pub(crate) struct Repository<'a> {
    pub(crate) git: &'a Git,
    pub(crate) wanted: &'a GitRef,
    /// An `Authorization` header for this repository over http, and with which URLs.
    pub(crate) authorization: Option<&'a GitAuthorization>,
    pub(crate) cancel: &'a Cancel,
    /// An empty directory for what is fetched.
    pub(crate) directory: &'a Path,
    /// The file that the keys of new ssh hosts are written to.
    pub(crate) new_hosts: &'a Path,
}

impl Repository<'_> {
    /// Finds the commit that is wanted, and compares it with the checksum.
    pub(crate) fn resolve(self) -> Result<Commit, GitError> {
        let checksum = self.wanted.checksum.as_deref();
        let by_commit = checksum.filter(|checksum| self.wanted.fetch_by_commit && is_commit_id(checksum));
        let reference = by_commit.or(self.wanted.reference.as_deref()).unwrap_or("HEAD");
        let (commit, tag) = if is_commit_id(reference) {
            (Commit { id: reference.to_ascii_lowercase(), name: None }, None)
        } else {
            self.look_up(reference)?
        };
        if let Some(expected) = checksum {
            let matches = |id: &str| id.starts_with(&expected.to_ascii_lowercase());
            if !matches(&commit.id) && !tag.as_deref().is_some_and(matches) {
                return Err(GitError::Checksum {
                    repository: self.wanted.redacted(),
                    expected: expected.to_owned(),
                    actual: commit.id,
                });
            }
        }
        Ok(commit)
    }

    /// Asks the remote what a reference stands for: branches go before tags, and these before everything else. Gives
    /// the id of an annotated tag too.
    fn look_up(self, reference: &str) -> Result<(Commit, Option<String>), GitError> {
        check_name(reference)?;
        let peeled = format!("{reference}^{{}}");
        let listed =
            self.run("list the references of", &["ls-remote", "--quiet", "origin", reference, &peeled])?;
        let find = |name: &str| {
            listed.lines().filter_map(|line| line.split_once('\t')).find(|(_, listed)| *listed == name)
        };
        let short = reference.trim_start_matches('/');
        let listed_as = listed.lines().filter_map(|line| line.split_once('\t')).map(|(_, name)| name);
        let suffix = format!("/{short}");
        let mut candidates =
            vec![reference.to_owned(), format!("refs/heads/{short}"), format!("refs/tags/{short}")];
        candidates.extend(listed_as.filter(|name| name.ends_with(&suffix)).map(str::to_owned));
        let found = candidates.iter().find_map(|name| find(name));
        let Some((id, name)) = found else {
            return Err(GitError::NoReference {
                repository: self.wanted.redacted(),
                reference: reference.to_owned(),
            });
        };
        let commit = |id: &str| Commit { id: id.to_owned(), name: Some(name.to_owned()) };
        Ok(match find(&format!("{name}^{{}}")) {
            Some((peeled, _)) => (commit(peeled), Some(id.to_owned())),
            None => (commit(id), None),
        })
    }

    /// Fetches a commit without its history and checks it out.
    pub(crate) fn check_out(self, commit: &Commit, keep: KeepGitDir) -> Result<Checkout, GitError> {
        let format = if commit.id.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
        self.run("prepare a checkout of", &["init", "--quiet", "--template=", format, "."])?;
        self.fetch(commit)?;
        self.run("check out", &["checkout", "--quiet", "--force", "--detach", &commit.id])?;
        let time = self.run("read", &["log", "-1", "--format=%ct", &commit.id])?;
        if self.wanted.submodules != Some(false) {
            self.submodules(keep)?;
        }
        match keep {
            KeepGitDir::Yes => self.tidy_git_dir()?,
            KeepGitDir::No => remove(&self.directory.join(".git"))?,
        }
        Ok(Checkout { path: self.subdirectory()?, time: time.trim().parse().unwrap_or_default() })
    }

    fn fetch(self, commit: &Commit) -> Result<(), GitError> {
        const SHALLOW: [&str; 6] =
            ["fetch", "--quiet", "--no-tags", "--force", "--update-head-ok", "--no-recurse-submodules"];
        let fetch = |depth: &'static [&'static str], spec: &str| {
            let mut args = SHALLOW.to_vec();
            args.extend(depth);
            args.extend(["origin", spec]);
            self.run("fetch", &args)
        };
        let has = || self.run("read", &["cat-file", "-e", &format!("{}^{{commit}}", commit.id)]).is_ok();
        let depth: &'static [&'static str] = &["--depth=1"];
        if let Some(name) = &commit.name {
            let kept = name.starts_with("refs/heads/") || name.starts_with("refs/tags/");
            let spec = format!("+{name}:{}", if kept { name } else { FETCHED });
            match fetch(depth, &spec) {
                Ok(_) if has() => return Ok(()),
                // A server that only serves files cannot leave out history.
                Err(GitError::Failed { message, .. }) if message.contains("shallow") => {
                    fetch(&[], &spec)?;
                    if has() {
                        return Ok(());
                    }
                }
                // The reference has moved since it was looked up.
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        match fetch(depth, &format!("+{}:{FETCHED}", commit.id)) {
            // Old servers give references only: the commit is below one of them.
            Err(GitError::Failed { .. }) => fetch(&[], "+refs/*:refs/rbuild/all/*").map(drop),
            other => other.map(drop),
        }
    }

    /// Checks out submodules, level by level, so that a repository that contains itself comes to an end.
    fn submodules(self, keep: KeepGitDir) -> Result<(), GitError> {
        let mut pending = vec![(self.directory.to_owned(), 0)];
        let mut count = 0;
        while let Some((directory, depth)) = pending.pop() {
            let listed = directory.join(".gitmodules").symlink_metadata().is_ok_and(|meta| meta.is_file());
            if !listed {
                continue;
            }
            let here = Repository { directory: &directory, ..self };
            let entries = here.run("list", &["ls-files", "--stage", "-z"])?;
            let modules: Vec<_> = entries
                .split('\0')
                .filter_map(|entry| entry.strip_prefix("160000 ")?.split_once('\t').map(|(_, path)| path))
                .collect();
            count += modules.len();
            if count > MAX_SUBMODULES || (depth >= MAX_SUBMODULE_DEPTH && !modules.is_empty()) {
                return Err(GitError::Submodules { repository: self.wanted.redacted() });
            }
            let update = |depth: &[&str]| {
                let args = [&["submodule", "--quiet", "update", "--init", "--force"], depth].concat();
                here.run("check out the submodules of", &args)
            };
            match update(&["--depth=1"]) {
                Err(GitError::Failed { .. }) => update(&[])?,
                other => other?,
            };
            for path in modules {
                let module = directory.join(path);
                if module.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                    pending.push((module, depth + 1));
                }
            }
        }
        if keep == KeepGitDir::No { self.forget_submodules() } else { Ok(()) }
    }

    /// Takes out the files that lead from submodules to the `.git` that goes.
    fn forget_submodules(self) -> Result<(), GitError> {
        let mut pending = vec![self.directory.to_owned()];
        while let Some(directory) = pending.pop() {
            for entry in std::fs::read_dir(&directory).map_err(GitError::Read)? {
                let entry = entry.map_err(GitError::Read)?;
                let kind = entry.file_type().map_err(GitError::Read)?;
                if entry.file_name() == ".git" && kind.is_file() {
                    remove(&entry.path())?;
                } else if kind.is_dir() && entry.file_name() != ".git" {
                    pending.push(entry.path());
                }
            }
        }
        Ok(())
    }

    /// Takes out of `.git` what is not the repository's: how it was fetched, and with which password.
    fn tidy_git_dir(self) -> Result<(), GitError> {
        let url = self.wanted.redacted();
        self.run("configure", &["config", "--local", "remote.origin.url", &url])?;
        self.run(
            "configure",
            &["config", "--local", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"],
        )?;
        self.run("tidy", &["update-ref", "-d", FETCHED])?;
        for name in ["FETCH_HEAD", "ORIG_HEAD", "logs", "refs/rbuild"] {
            remove(&self.directory.join(".git").join(name))?;
        }
        Ok(())
    }

    fn subdirectory(self) -> Result<PathBuf, GitError> {
        let Some(subdir) = &self.wanted.subdir else { return Ok(self.directory.to_owned()) };
        let missing =
            || GitError::Subdirectory { repository: self.wanted.redacted(), subdir: subdir.clone() };
        let root = rbuild_layers::Root::open(self.directory).map_err(|_| missing())?;
        let found =
            rbuild_layers::View::directory(root).resolve(Path::new(subdir), rbuild_layers::Follow::All);
        let found = found.ok().filter(|found| found.meta.as_ref().is_some_and(rbuild_layers::Meta::is_dir));
        found.map(|found| self.directory.join(found.path)).ok_or_else(missing)
    }

    /// Runs git to its end, or until the build is cancelled, and gives what it wrote.
    fn run(self, operation: &'static str, args: &[&str]) -> Result<String, GitError> {
        let mut command = Command::new("git");
        command.args(args).current_dir(self.directory).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.set_environment(&mut command);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => GitError::Missing { repository: self.wanted.redacted() },
            _ => GitError::Start(error),
        })?;
        let stdout = std::thread::spawn({
            let pipe = child.stdout.take();
            move || read(pipe)
        });
        let stderr = std::thread::spawn({
            let pipe = child.stderr.take();
            move || read(pipe)
        });
        let status = self.wait(&mut child)?;
        let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        if status.success() {
            return Ok(stdout);
        }
        let said = stderr.replace(&self.wanted.remote, &self.wanted.redacted());
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        let mut message = lines.collect::<Vec<_>>().join("; ");
        message.retain(|letter| !letter.is_control());
        if message.is_empty() {
            message = status.to_string();
        }
        Err(GitError::Failed { operation, repository: self.wanted.redacted(), message })
    }

    fn wait(self, child: &mut Child) -> Result<std::process::ExitStatus, GitError> {
        loop {
            if let Some(status) = child.try_wait().map_err(GitError::Start)? {
                return Ok(status);
            }
            if self.cancel.is_cancelled() {
                // ssh and the transports of git are in its process group.
                if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                let _ = child.wait();
                return Err(GitError::Cancelled);
            }
            std::thread::sleep(POLL);
        }
    }

    /// # References
    /// git(1), "Environment Variables"; git-config(1), `GIT_CONFIG_COUNT`
    fn set_environment(self, command: &mut Command) {
        let local = self.wanted.remote.starts_with("file://");
        let remote = self.wanted.url();
        // By environment rather than by argument: arguments are seen by everybody on the host.
        let mut settings = vec![
            ("remote.origin.url", OsStr::new(&remote)),
            ("core.hooksPath", OsStr::new("/dev/null")),
            ("core.fsmonitor", OsStr::new("false")),
            ("credential.helper", OsStr::new("")),
            ("gc.auto", OsStr::new("0")),
            ("maintenance.auto", OsStr::new("false")),
            ("advice.detachedHead", OsStr::new("false")),
            ("init.defaultBranch", OsStr::new("master")),
            ("submodule.recurse", OsStr::new("false")),
            ("safe.directory", OsStr::new("*")),
            ("http.lowSpeedLimit", OsStr::new("1")),
            ("http.lowSpeedTime", OsStr::new("60")),
        ];
        let header = self.authorization.map(|GitAuthorization { header, scope }| {
            (format!("http.{scope}.extraHeader"), [b"Authorization: ", header.expose()].concat())
        });
        if let Some((key, value)) = &header {
            // git would send the header on to wherever a server redirects to.
            settings.push((key, OsStr::from_bytes(value)));
            settings.push(("http.followRedirects", OsStr::new("false")));
        }
        command.env_clear().envs(self.git.environment.iter().map(|(name, value)| (name, value)));
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (at, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{at}"), key).env(format!("GIT_CONFIG_VALUE_{at}"), value);
        }
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", if local { "https:http:ssh:git:file" } else { "https:http:ssh:git" })
            .env("GIT_SSH_COMMAND", self.ssh_command())
            .env("GIT_CEILING_DIRECTORIES", self.directory.parent().unwrap_or(Path::new("/")))
            .env("HOME", "/dev/null")
            .env("LC_ALL", "C");
    }

    /// A host that is not known yet is trusted for this build; one whose key has changed is not.
    fn ssh_command(self) -> OsString {
        let mut command = OsString::from(
            "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile='",
        );
        for path in [Some(self.new_hosts), self.git.known_hosts.as_deref()].into_iter().flatten() {
            // A path that cannot be quoted is none of a usual home.
            if !path.as_os_str().as_encoded_bytes().iter().any(|byte| b"'\"\\%$".contains(byte)) {
                for part in [OsStr::new("\""), path.as_os_str(), OsStr::new("\" ")] {
                    command.push(part);
                }
            }
        }
        command.push("'");
        command
    }
}

fn is_commit_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// # References
/// git-check-ref-format(1)
fn check_name(reference: &str) -> Result<(), GitError> {
    let bad = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    let malformed = reference.contains(bad)
        || reference.contains("..")
        || reference.contains("@{")
        || reference.starts_with(['-', '+']);
    if malformed { Err(GitError::Malformed { reference: reference.to_owned() }) } else { Ok(()) }
}

fn read(pipe: Option<impl Read>) -> String {
    let Some(mut pipe) = pipe else { return String::new() };
    let mut bytes = Vec::new();
    let _ = pipe.by_ref().take(MAX_OUTPUT).read_to_end(&mut bytes);
    // git would be killed for writing to nobody.
    let _ = io::copy(&mut pipe, &mut io::sink());
    String::from_utf8_lossy(&bytes).into_owned()
}

fn remove(path: &Path) -> Result<(), GitError> {
    let removed = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(GitError::Read(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_git_would_take_for_something_else() {
        let check = |name: &str, expect: bool| assert_eq!(check_name(name).is_ok(), expect, "{name:?}");
        check("main", true);
        check("refs/pull/1/head", true);
        check("v1.0-rc.1", true);
        check("--upload-pack=x", false);
        check("+a", false);
        check("a:b", false);
        check("a..b", false);
        check("a b", false);
        check("a^{}", false);
        check("*", false);
    }

    #[test]
    fn a_missing_git_is_named() {
        let git = Git { environment: vec![("PATH".into(), "/nonexistent".into())], known_hosts: None };
        let wanted = GitRef { remote: "https://u:p@h/x.git".into(), ..GitRef::default() };
        let directory = tempfile::tempdir().expect("a directory");
        let cancel = Cancel::new();
        let repository = Repository {
            git: &git,
            wanted: &wanted,
            authorization: None,
            cancel: &cancel,
            directory: directory.path(),
            new_hosts: directory.path(),
        };
        let error = repository.resolve().expect_err("no git").to_string();
        assert!(error.contains("the package `git`") && !error.contains("u:p"), "{error}");
    }
}
