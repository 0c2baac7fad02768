//! `RUN`: the command, its environment and its mounts.

use rbuild_dockerfile::mount::{self, MountError};
use rbuild_dockerfile::{Diagnostic, Mount, Run, Script, parse_mount};

use super::graph::Origin;
use super::lower::Shared;
use super::path;
use super::scope::proxies;
use super::stage::{Adds, Lowered, StageState, Words};
use super::step::{
    Access, BindMount, CacheMount, Network, RunStep, ScriptFile, SecretMount, Security, Sharing, Source,
    SshMount, StepKind, StepMount,
};
use super::warning::{Checked, refuse};

const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

impl StageState {
    pub(super) fn run(
        &self,
        run: &Run,
        sources: &[Option<Origin>],
        shared: &Shared<'_>,
        words: &mut Words,
    ) -> Checked<Lowered> {
        let mut files = Vec::new();
        let argv = match run.script() {
            Script::Exec(argv) => argv,
            Script::Shell(line) => self.with_shell(&line),
            Script::File { name, content } => {
                let argv = self.with_shell(&format!("/dev/pipes/{name}"));
                files.push(ScriptFile { name, content, mode: 0o755 });
                argv
            }
        };
        let created_by = format!("RUN {} # buildkit", self.command_text(&argv));
        let mounts = self.mounts(run, sources, shared, words)?;
        let (env, uncached_env) = self.run_environment(&mounts, shared);
        if let Some((_, value)) = env.iter().find(|(name, _)| name.is_empty()) {
            // runc starts no process that has one.
            return Err(refuse(format!("the environment has a variable without a name, of value {value:?}")));
        }
        let build_args = &shared.options.build_args;
        let hostname = build_args.get("BUILDKIT_SANDBOX_HOSTNAME").filter(|name| !name.is_empty());
        let step = RunStep {
            argv,
            env,
            uncached_env,
            cwd: self.directory.clone(),
            user: self.config.config.user.clone(),
            network: match run.network {
                None | Some(rbuild_dockerfile::Network::Default) => shared.options.network,
                Some(rbuild_dockerfile::Network::None) => Network::None,
                Some(rbuild_dockerfile::Network::Host) => Network::Host,
            },
            security: match run.security {
                None | Some(rbuild_dockerfile::Security::Sandbox) => Security::Sandbox,
                Some(rbuild_dockerfile::Security::Insecure) => Security::Insecure,
            },
            mounts,
            devices: run.devices.iter().map(|device| device.value.clone()).collect(),
            files,
            hostname: hostname.cloned().unwrap_or_else(|| DEFAULT_HOSTNAME.to_owned()),
            surroundings: shared.options.surroundings.clone(),
        };
        Ok(Lowered { created_by: Some(created_by), adds: Adds::Layer, kind: StepKind::Run(step) })
    }

    /// The command line of the history entry: `|2 A=1 B=2 /bin/sh -c …`, each declared argument once.
    fn command_text(&self, argv: &[String]) -> String {
        let mut names: Vec<&str> = Vec::new();
        let mut words: Vec<String> = Vec::new();
        for (name, _) in &self.arguments {
            if names.contains(&name.as_str()) {
                continue;
            }
            // The last declaration counts where the environment has no value.
            let declared = || {
                let last = self.arguments.iter().rev().find(|(other, _)| other == name);
                last.and_then(|(_, value)| value.as_deref()).unwrap_or_default()
            };
            let value = self.env.get(name).unwrap_or_else(declared);
            names.push(name);
            words.push(format!("{name}={value}"));
        }
        if !words.is_empty() {
            words.insert(0, format!("|{}", names.len()));
        }
        words.extend_from_slice(argv);
        words.join(" ")
    }

    /// The environment of a process and the names in it that are no part of the cache key.
    fn run_environment(
        &self,
        mounts: &[StepMount],
        shared: &Shared<'_>,
    ) -> (Vec<(String, String)>, Vec<String>) {
        let mut env = self.env.clone();
        let agent = mounts.iter().find_map(|mount| match mount {
            StepMount::Ssh(ssh) => Some(&ssh.target),
            _ => None,
        });
        if let Some(socket) = agent
            && env.get("SSH_AUTH_SOCK").is_none()
        {
            env.set("SSH_AUTH_SOCK", socket);
        }
        let mut uncached = Vec::new();
        for (name, value) in proxies(&shared.options.build_args) {
            // A name that ENV or ARG also sets belongs to the image's history: its value counts.
            if env.get(&name).is_none() {
                uncached.push(name.clone());
            }
            env.set(&name, &value);
        }
        (env.into_entries(), uncached)
    }

    fn mounts(
        &self,
        run: &Run,
        sources: &[Option<Origin>],
        shared: &Shared<'_>,
        words: &mut Words,
    ) -> Checked<Vec<StepMount>> {
        let mut out = Vec::with_capacity(run.mounts.len());
        let mut agents = 0;
        for (index, written) in run.mounts.iter().enumerate() {
            let mount = parse_mount(&written.value, &mut |word| words.expand(word, &self.env))
                .map_err(|error| bad_mount(&error).at(written.span))?;
            let from = match sources.get(index) {
                Some(Some(origin)) => Some(shared.source(origin)?),
                _ => None,
            };
            let namespace = shared.options.build_args.get("BUILDKIT_CACHE_MOUNT_NS");
            out.push(match mount {
                Mount::Bind(bind) => StepMount::Bind(BindMount {
                    target: self.mount_target(&bind.target)?,
                    from: from.unwrap_or(Source::Context),
                    source: path::join("/", &bind.source),
                    access: access(bind.access),
                }),
                Mount::Cache(cache) => {
                    let target = self.mount_target(&cache.target)?;
                    StepMount::Cache(cache_mount(cache, target, from, namespace.map_or("", String::as_str)))
                }
                Mount::Tmpfs(tmpfs) => {
                    StepMount::Tmpfs { target: self.mount_target(&tmpfs.target)?, size: tmpfs.size }
                }
                Mount::Secret(secret) => StepMount::Secret(SecretMount {
                    id: secret.id,
                    target: secret.target.map(|target| path::absolute("/", &target)),
                    env: secret.env,
                    required: secret.required,
                    mode: secret.mode,
                    uid: secret.uid,
                    gid: secret.gid,
                }),
                Mount::Ssh(ssh) => {
                    let target = ssh.target.unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{agents}"));
                    agents += 1;
                    StepMount::Ssh(SshMount {
                        id: ssh.id,
                        target: path::absolute("/", &target),
                        required: ssh.required,
                        mode: ssh.mode,
                        uid: ssh.uid,
                        gid: ssh.gid,
                    })
                }
            });
        }
        Ok(out)
    }

    fn mount_target(&self, target: &str) -> Checked<String> {
        let target = match target.starts_with('/') {
            true => path::clean(target),
            false => path::join("/", &path::join(&self.directory, target)),
        };
        if target == "/" {
            return Err(refuse("invalid mount target \"/\""));
        }
        Ok(target)
    }
}

/// As in BuildKit, an owner or mode makes the directory a new and empty one, unless `source` says which to start from.
fn cache_mount(cache: mount::Cache, target: String, from: Option<Source>, namespace: &str) -> CacheMount {
    let source = path::join("/", &cache.source);
    let is_new = cache.uid.is_some() || cache.gid.is_some() || cache.mode.is_some();
    let from = from.filter(|_| source != "/" || !is_new);
    let id = cache.id.filter(|id| !id.is_empty()).unwrap_or_else(|| path::clean(&cache.target));
    CacheMount {
        target,
        id: format!("{namespace}/{id}"),
        sharing: match cache.sharing {
            mount::Sharing::Shared => Sharing::Shared,
            mount::Sharing::Private => Sharing::Private,
            mount::Sharing::Locked => Sharing::Locked,
        },
        from,
        source,
        access: access(cache.access),
        mode: cache.mode.unwrap_or(0o755),
        uid: cache.uid.unwrap_or(0),
        gid: cache.gid.unwrap_or(0),
    }
}

fn access(access: mount::Access) -> Access {
    match access {
        mount::Access::ReadOnly => Access::ReadOnly,
        mount::Access::ReadWrite => Access::ReadWrite,
    }
}

fn bad_mount(error: &MountError) -> Diagnostic {
    match error {
        MountError::Invalid { message, hint: Some(hint) } => {
            Diagnostic::error(message.clone()).with_hint(format!("did you mean `{hint}`?"))
        }
        MountError::Expand { source, .. } => Diagnostic::error(format!("{error}: {source}")),
        MountError::Invalid { .. } => Diagnostic::error(error.to_string()),
    }
}

/// Finds the `from=` of a mount before anything is expanded: no variable is allowed in it.
///
/// The text is one CSV record; a field may be quoted, `""` inside quotes is one quote.
pub(super) fn mount_from(text: &str) -> Option<String> {
    let mut from = None;
    for field in fields(text) {
        if let Some((key, value)) = field.split_once('=')
            && key.eq_ignore_ascii_case("from")
        {
            from = Some(value.to_owned()).filter(|value| !value.is_empty());
        }
    }
    from
}

fn fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(field) = fields.last_mut() else { break };
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::mount_from;

    #[test]
    fn finds_from_before_expansion() {
        let check =
            |text: &str, expect: Option<&str>| assert_eq!(mount_from(text).as_deref(), expect, "{text}");
        check("type=bind,from=a,target=/t", Some("a"));
        check("FROM=a", Some("a"));
        check("\"from=a,b\",target=/t", Some("a,b"));
        check("\"from=a\"\"b\"", Some("a\"b"));
        check("target=/from=a,from", None);
        check("from=,target=/t", None);
        check("from=a,from=b", Some("b"));
        check("", None);
    }
}
