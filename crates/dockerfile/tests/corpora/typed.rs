//! Typed instructions in the form of the answers.

use rbuild_dockerfile::mount::{Access, Sharing};
use rbuild_dockerfile::{
    Form, HealthTest, Heredoc, InlineFile, Instruction, Mount, Network, Pair, Run, Security, parse_mount,
};
use serde_json::{Value, json};

/// Writes an instruction as the answers have it; fields that the answer leaves out are null.
pub(crate) fn instruction(value: &Instruction) -> Value {
    match value {
        Instruction::Run(run) => self::run(run),
        Instruction::Cmd(command) => form("cmd", &command.form),
        Instruction::Entrypoint(command) => form("entrypoint", &command.form),
        Instruction::Env(pairs) => json!({"@": "env", "Env": self::pairs(pairs)}),
        Instruction::Label(pairs) => json!({"@": "label", "Labels": self::pairs(pairs)}),
        Instruction::Maintainer(name) => json!({"@": "maintainer", "Maintainer": name}),
        Instruction::Expose(ports) => json!({"@": "expose", "Ports": ports}),
        Instruction::Add(add) => json!({
            "@": "add", "SourcePaths": add.sources, "SourceContents": files(&add.files), "DestPath": add.destination,
            "Chown": text(&add.chown), "Chmod": text(&add.chmod), "Link": add.link, "ExcludePatterns": add.exclude,
            "Checksum": text(&add.checksum), "KeepGitDir": add.keep_git_dir, "Unpack": add.unpack,
        }),
        Instruction::Copy(copy) => json!({
            "@": "copy", "SourcePaths": copy.sources, "SourceContents": files(&copy.files), "DestPath": copy.destination,
            "Chown": text(&copy.chown), "Chmod": text(&copy.chmod), "Link": copy.link, "ExcludePatterns": copy.exclude,
            "From": copy.from.as_ref().map_or("", |from| &from.value), "Parents": copy.parents,
        }),
        Instruction::Volume(paths) => json!({"@": "volume", "Volumes": paths}),
        Instruction::User(user) => json!({"@": "user", "User": user}),
        Instruction::Workdir(path) => json!({"@": "workdir", "Path": path}),
        Instruction::Arg(args) => json!({"@": "arg", "Args": args.iter().map(|arg| json!({
            "Key": arg.name, "Value": arg.value, "DocComment": arg.doc.as_deref().unwrap_or_default(),
        })).collect::<Vec<_>>()}),
        Instruction::Onbuild(onbuild) => json!({"@": "onbuild", "Expression": onbuild.text}),
        Instruction::Stopsignal(signal) => json!({"@": "stopsignal", "Signal": signal}),
        Instruction::Shell(shell) => json!({"@": "shell", "Shell": shell}),
        Instruction::Healthcheck(health) => {
            let test = match &health.test {
                HealthTest::None => vec!["NONE".to_owned()],
                HealthTest::Command(Form::Shell(text)) => vec!["CMD-SHELL".to_owned(), text.clone()],
                HealthTest::Command(Form::Exec(args)) => {
                    ["CMD".to_owned()].into_iter().chain(args.iter().cloned()).collect()
                }
            };
            let mut out = json!({"Test": test});
            for (key, duration) in [
                ("Interval", health.interval),
                ("Timeout", health.timeout),
                ("StartPeriod", health.start_period),
                ("StartInterval", health.start_interval),
            ] {
                if !duration.is_zero() {
                    out[key] = json!(u64::try_from(duration.as_nanos()).ok());
                }
            }
            if health.retries > 0 {
                out["Retries"] = json!(health.retries);
            }
            json!({"@": "healthcheck", "Health": out})
        }
    }
}

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

fn pairs(pairs: &[Pair]) -> Vec<Value> {
    pairs.iter().map(|pair| json!({"Key": pair.key, "Value": pair.value, "NoDelim": pair.legacy})).collect()
}

fn files(files: &[InlineFile]) -> Vec<Value> {
    files.iter().map(|file| json!({"Path": file.name, "Data": file.content, "Expand": file.expand})).collect()
}

fn form(name: &str, form: &Form) -> Value {
    match form {
        Form::Exec(args) => json!({"@": name, "CmdLine": args, "PrependShell": false}),
        Form::Shell(text) if text.is_empty() => json!({"@": name, "PrependShell": true}),
        Form::Shell(text) => json!({"@": name, "CmdLine": [text], "PrependShell": true}),
    }
}

fn run(run: &Run) -> Value {
    let mut out = form("run", &run.form);
    let file = |doc: &Heredoc| json!({"Name": doc.name, "Data": doc.content, "Chomp": doc.chomp});
    out["Files"] = run.heredocs.iter().map(file).collect();
    out["Network"] = json!(match run.network.unwrap_or(Network::Default) {
        Network::Default => "default",
        Network::None => "none",
        Network::Host => "host",
    });
    out["Security"] = json!(match run.security.unwrap_or(Security::Sandbox) {
        Security::Sandbox => "sandbox",
        Security::Insecure => "insecure",
    });
    let mounts: Result<Vec<_>, _> =
        run.mounts.iter().map(|mount| parse_mount(&mount.value, &mut |word| Ok(word.to_owned()))).collect();
    match mounts {
        Ok(mounts) => out["Mounts"] = mounts.iter().map(mount).collect(),
        Err(_) => out["mount_error"] = json!(true),
    }
    out
}

fn mount(mount: &Mount) -> Value {
    match mount {
        Mount::Bind(bind) => json!({
            "Type": "bind", "Target": bind.target, "Source": bind.source, "From": text(&bind.from),
            "ReadOnly": bind.access == Access::ReadOnly,
        }),
        Mount::Cache(cache) => json!({
            "Type": "cache", "Target": cache.target, "Source": cache.source, "From": text(&cache.from),
            "ReadOnly": cache.access == Access::ReadOnly, "CacheID": text(&cache.id), "Mode": cache.mode,
            "UID": cache.uid, "GID": cache.gid, "CacheSharing": match cache.sharing {
                Sharing::Shared => "shared",
                Sharing::Private => "private",
                Sharing::Locked => "locked",
            },
        }),
        Mount::Tmpfs(tmpfs) => {
            json!({"Type": "tmpfs", "Target": tmpfs.target, "SizeLimit": tmpfs.size.unwrap_or(0)})
        }
        Mount::Secret(secret) => json!({
            "Type": "secret", "id": secret.id, "Env": secret.env, "Required": secret.required, "Mode": secret.mode,
            "UID": secret.uid, "GID": secret.gid,
        }),
        Mount::Ssh(ssh) => json!({
            "Type": "ssh", "id": ssh.id, "Target": text(&ssh.target), "Required": ssh.required, "Mode": ssh.mode,
            "UID": ssh.uid, "GID": ssh.gid,
        }),
    }
}

/// Brings an instruction of an answer into the form of [`instruction`]: the defaults of mounts filled in.
pub(crate) fn expected(value: &Value) -> Value {
    let mut out = value.clone();
    let empty_shell = value["CmdLine"] == json!([""]) && value["PrependShell"] == json!(true);
    if empty_shell {
        out["CmdLine"] = Value::Null;
    }
    if value["mount_error"].is_string() {
        out["mount_error"] = json!(true);
        out["Mounts"] = Value::Null;
    }
    if let Some(mounts) = out["Mounts"].as_array().cloned() {
        out["Mounts"] = mounts.iter().map(expected_mount).collect();
    }
    out
}

fn expected_mount(mount: &Value) -> Value {
    let or = |key: &str, default: Value| if mount[key].is_null() { default } else { mount[key].clone() };
    let take =
        |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), mount[*key].clone())).collect::<Value>();
    let first = |keys: &[&str], default: &str| {
        let given = keys.iter().filter_map(|key| mount[*key].as_str()).find(|value| !value.is_empty());
        given.unwrap_or(default).to_owned()
    };
    let target = mount["Target"].as_str().unwrap_or_default();
    let base = target.rsplit('/').next().unwrap_or_default();
    match mount["Type"].as_str().unwrap_or_default() {
        "bind" => take(&["Type", "Target", "Source", "From", "ReadOnly"]),
        "cache" => {
            let mut out = take(&[
                "Type",
                "Target",
                "Source",
                "From",
                "ReadOnly",
                "CacheID",
                "Mode",
                "UID",
                "GID",
                "CacheSharing",
            ]);
            if out["CacheSharing"] == json!("") {
                out["CacheSharing"] = json!("shared");
            }
            out
        }
        "tmpfs" => take(&["Type", "Target", "SizeLimit"]),
        "secret" => json!({
            "Type": "secret", "id": first(&["Source", "CacheID"], base), "Env": mount["Env"],
            "Required": mount["Required"], "Mode": or("Mode", json!(0o400)), "UID": or("UID", json!(0)),
            "GID": or("GID", json!(0)),
        }),
        _ => json!({
            "Type": mount["Type"], "id": first(&["CacheID"], "default"), "Target": target,
            "Required": mount["Required"], "Mode": or("Mode", json!(0o600)), "UID": or("UID", json!(0)),
            "GID": or("GID", json!(0)),
        }),
    }
}

/// Drops fields that are null or an empty list: both mean that nothing was given.
pub(crate) fn without_empty(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null() && *value != json!([]))
            .map(|(key, value)| (key, without_empty(value)))
            .collect(),
        Value::Array(list) => list.into_iter().map(without_empty).collect(),
        other => other,
    }
}
