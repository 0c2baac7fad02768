//! Which credentials are used, in what order they are looked for, and how they are kept.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::support::{Answer, Registry, Run, Web, World};

/// A host of a cloud, whose credential program is asked without being configured. Nothing is ever sent there.
const CLOUD: &str = "nobody.azurecr.io";

/// The sources in the order they are searched, by the user name each of them holds. Docker's own two files exclude each
/// other, so that the second stands for itself only where DOCKER_CONFIG is not set.
const SOURCES: [&str; 13] = [
    "creds",
    "authfile",
    "pull-secret-file",
    "pull-secret-volume",
    "docker-auth-config",
    "docker-config",
    "registry-auth-file",
    "xdg-runtime-dir",
    "xdg-config-home",
    "home-docker",
    "home-dockercfg",
    "registries-conf-program",
    "cloud-program",
];

/// A command of a world in which the sources from `first` on have credentials for `host`, each with its own name.
fn command(world: &World, host: &str, first: usize) -> (Command, Vec<String>) {
    let (mut command, mut args) = (world.command(), Vec::new());
    for source in SOURCES.iter().skip(first) {
        let auth = BASE64_STANDARD.encode(format!("{source}:secret"));
        let docker = format!(r#"{{"auths": {{"{host}": {{"auth": "{auth}"}}}}}}"#);
        let write = |path: &str, text: &str| -> PathBuf {
            let path = world.path(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            std::fs::write(&path, text).expect("a file of credentials");
            path
        };
        let mut flag = |name: &str, value: String| args.extend([name.to_owned(), value]);
        match *source {
            "creds" => flag("--creds", format!("{host}={source}:secret")),
            "authfile" => flag("--authfile", write("auth/file.json", &docker).display().to_string()),
            "pull-secret-file" => flag("--pull-secret", write("auth/secret", &docker).display().to_string()),
            "pull-secret-volume" => {
                let legacy = format!(r#"{{"{host}": {{"username": "{source}", "password": "secret"}}}}"#);
                write("volume/.dockercfg", &legacy);
                flag("--pull-secret", world.path("volume").display().to_string());
            }
            "docker-auth-config" => {
                command.env("DOCKER_AUTH_CONFIG", docker);
            }
            "docker-config" => {
                write("docker/config.json", &docker);
                command.env("DOCKER_CONFIG", world.path("docker"));
            }
            "registry-auth-file" => {
                command.env("REGISTRY_AUTH_FILE", write("auth/podman.json", &docker));
            }
            "xdg-runtime-dir" => {
                write("run/containers/auth.json", &docker);
                command.env("XDG_RUNTIME_DIR", world.path("run"));
            }
            "xdg-config-home" => drop(write("home/.config/containers/auth.json", &docker)),
            "home-docker" => drop(write("home/.docker/config.json", &docker)),
            "home-dockercfg" => {
                let legacy = format!(r#"{{"{host}": {{"auth": "{auth}"}}}}"#);
                write("home/.dockercfg", &legacy);
            }
            _ => {
                let name = if *source == "cloud-program" { "acr-env" } else { "helper" };
                let conf = "credential-helpers = [\"containers-auth.json\", \"helper\"]";
                if name == "helper" {
                    write("home/.config/containers/registries.conf", conf);
                }
                let answer = format!(r#"{{"Username":"{source}","Secret":"secret"}}"#);
                let script = format!(
                    "#!/bin/sh\nread -r server\n[ \"$server\" = {host} ] || {{ echo no credentials; exit 1; }}\necho '{answer}'\n"
                );
                let program = write(&format!("bin/docker-credential-{name}"), &script);
                std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("chmod");
                command.env("PATH", format!("{}:/usr/bin:/bin", world.path("bin").display()));
            }
        }
    }
    (command, args)
}

fn run(command: &mut Command) -> Run {
    Run::of(command.output().expect("rbuild starts"))
}

#[test]
fn the_first_source_that_has_credentials_is_used_and_the_others_are_named() {
    for (first, source) in SOURCES.iter().enumerate() {
        let world = World::new();
        let (mut command, args) = command(&world, CLOUD, first);
        let run =
            run(command.args(["login", "--explain", &format!("{CLOUD}/team/app")]).args(args)).success();
        let used: Vec<&str> = run.stdout.lines().filter(|line| line.starts_with("->")).collect();
        assert_eq!(used.len(), 1, "{source}: {}", run.stdout);
        assert!(used[0].contains(&format!("user name `{source}`")), "{source}: {}", run.stdout);
        assert!(!run.stdout.contains("secret\""), "{}", run.stdout);
        // Those before it are named too, where they exist by name: files that are not there.
        if first > 8 {
            assert!(run.stdout.contains(".config/containers/auth.json: no such file"), "{}", run.stdout);
        }
        let not_needed = run.stdout.matches("not needed; has").count();
        // The cloud's program is not even looked for; of docker's two files one is read.
        let hidden = 1 + usize::from(first <= 5);
        assert_eq!(
            not_needed,
            (SOURCES.len() - 1 - first).saturating_sub(hidden),
            "{source}: {}",
            run.stdout
        );
    }
}

#[test]
fn requests_carry_what_was_found_and_refusals_name_it() {
    for (first, source) in SOURCES.iter().enumerate().take(SOURCES.len() - 1) {
        let world = World::new();
        let refused = || Answer {
            status: "401 Unauthorized",
            headers: vec!["WWW-Authenticate: Basic realm=\"tests\"".to_owned()],
            ..Answer::ok("")
        };
        let web = Web::serve([("/v2/team/app/manifests/1", refused())]);
        let (mut command, args) = command(&world, &web.address, first);
        let name = format!("{}/team/app:1", web.address);
        let run = run(command.args(["pull", "-q", &name]).args(args)).exits(3);
        let sent = format!("Basic {}", BASE64_STANDARD.encode(format!("{source}:secret")));
        let heads = web.heads.lock().expect("no panic").join("\n");
        assert!(heads.contains(&sent), "{source}: {heads}");
        assert_eq!(heads.to_ascii_lowercase().matches("authorization:").count(), 1, "{heads}");
        assert!(run.stderr.contains(&format!("user name `{source}`")), "{}", run.stderr);
        assert!(!run.stderr.contains(&sent["Basic ".len()..]), "{}", run.stderr);
    }
}

#[test]
fn missing_credentials_are_an_error_that_names_every_place() {
    let world = World::new();
    let headers = vec!["WWW-Authenticate: Basic realm=\"tests\"".to_owned()];
    let refused = Answer { status: "401 Unauthorized", headers, ..Answer::ok("") };
    let web = Web::serve([("/v2/team/app/manifests/1", refused)]);
    // Other hosts' credentials everywhere.
    let (mut command, args) = command(&world, "other.example", 0);
    let name = format!("{}/team/app:1", web.address);
    let run = run(command.args(["pull", "-q", &name]).args(args)).exits(3);
    for place in [
        "given for other.example: no entry",
        "auth/file.json: no entry",
        "auth/secret: no entry",
        "volume/.dockercfg: no entry",
        "$DOCKER_AUTH_CONFIG: no entry",
        "docker/config.json: no entry",
        "auth/podman.json: no entry",
        "run/containers/auth.json: no entry",
        "home/.config/containers/auth.json: no entry",
        "home/.dockercfg: no entry",
        "/kaniko/.docker/config.json",
        "credential programs of registries.conf: docker-credential-helper has none",
        "credential programs of clouds on $PATH: no entry",
    ] {
        assert!(run.stderr.contains(place), "{place}: {}", run.stderr);
    }
}

#[test]
fn mistakes_in_flags_are_usage() {
    let world = World::new();
    world
        .rbuild(&["pull", "-q", "--authfile", "/none/auth.json", "localhost:9/a"])
        .exits(2)
        .says("/none/auth.json");
    world.rbuild(&["pull", "-q", "--pull-secret", "/none", "localhost:9/a"]).exits(2).says("--pull-secret");
    let run = world.rbuild(&["pull", "-q", "--creds", "hunter2", "localhost:9/a"]).exits(2);
    assert!(!run.stderr.contains("hunter2"), "{}", run.stderr);
    world.rbuild(&["login", "-u", "me", "localhost:9"]).exits(2).says("--password-stdin");
    world.rbuild(&["login", "-u", "me", "--password-stdin", "debian"]).exits(2).says("not REGISTRY");
}

/// Logs in with a password on standard input.
fn login(world: &World, password: &str, args: &[&str]) -> Run {
    let mut command = world.command();
    command.args(["login", "--username", "tester", "--password-stdin"]).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("rbuild starts");
    // What refuses its arguments does not read.
    let _ = child.stdin.take().expect("a pipe").write_all(password.as_bytes());
    Run::of(child.wait_with_output().expect("rbuild ends"))
}

#[test]
fn login_verifies_keeps_and_forgets() {
    let world = World::new();
    let Some(registry) = Registry::with_password(&world.path("registry")) else { return };
    let host = registry.host();
    let config = world.path("home/.docker/config.json");
    let refused = login(&world, "wrong\n", &[&host]).exits(3);
    assert!(refused.stderr.contains("401") && !refused.stderr.contains("wrong"), "{}", refused.stderr);
    assert!(!config.exists(), "what was refused is not kept");
    login(&world, "", &[&host]).exits(2).says("empty");

    login(&world, "secret\n", &[&host]).success().says("not encrypted");
    assert_eq!(config.metadata().expect("config.json").permissions().mode() & 0o777, 0o600);
    world.file("a", "a");
    world.dockerfile("FROM scratch\nCOPY a /\n");
    let name = registry.image("x/app:1");
    world.rbuild(&["-t", &name, "."]).success();
    let explained = world.rbuild(&["login", "--explain", &name]).success().stdout;
    let line = format!("-> {}: user name `tester` and a password, of entry `{host}`", config.display());
    assert!(explained.contains(&line) && !explained.contains("secret"), "{explained}");

    world.rbuild(&["logout", &host]).success().says("forgot");
    world.rbuild(&["logout", &host]).success().says("nothing is kept");
    world.rbuild(&["pull", "-q", &name]).exits(3).says("config.json: no entry");
    let explained = world.rbuild(&["login", "--explain", &name]).success().stdout;
    assert!(explained.contains("requests are anonymous"), "{explained}");
}

#[test]
fn login_hands_over_to_the_program_that_docker_would_use() {
    let world = World::new();
    let Some(registry) = Registry::with_password(&world.path("registry")) else { return };
    let kept = world.path("kept");
    let program = world.path("bin/docker-credential-test");
    std::fs::create_dir_all(program.parent().expect("a parent")).expect("folders");
    let script = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat >{0};;\nget) [ -s {0} ] && cat {0} || {{ echo credentials not found in native keychain; exit 1; }};;\nerase) : >{0};;\nesac\n",
        kept.display()
    );
    std::fs::write(&program, script).expect("a program");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("chmod");
    let config = world.path("home/.docker/config.json");
    std::fs::create_dir_all(config.parent().expect("a parent")).expect("folders");
    std::fs::write(&config, r#"{"credsStore": "test"}"#).expect("config.json");
    let path = format!("{}:{}", world.path("bin").display(), std::env::var("PATH").unwrap_or_default());

    let mut command = world.command();
    command.env("PATH", &path).args(["login", "-u", "tester", "--password-stdin", &registry.host()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("rbuild starts");
    child.stdin.take().expect("a pipe").write_all(b"secret").expect("rbuild reads");
    Run::of(child.wait_with_output().expect("rbuild ends")).success().says("kept by docker-credential-test");
    let text = std::fs::read_to_string(&config).expect("config.json");
    assert!(!text.contains("secret") && !text.contains(&BASE64_STANDARD.encode("tester:secret")), "{text}");
    assert!(std::fs::read_to_string(&kept).expect("kept").contains("\"Secret\":\"secret\""));

    let name = registry.image("x/app:1");
    world.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    run(world.command().env("PATH", &path).args(["-t", &name, "."])).success();
    run(world.command().env("PATH", &path).args(["logout", &registry.host()])).success();
    run(world.command().env("PATH", &path).args(["pull", "-q", &name]))
        .exits(3)
        .says("docker-credential-test has none");
    // A program that is configured and missing is an error, not a reason to be somebody else.
    run(world.command().env("PATH", "/usr/bin:/bin").args(["pull", "-q", &name]))
        .exits(3)
        .says("docker-credential-test");
}
