//! Secrets and agents: there for the step that mounts them, nowhere else.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Run, Ssh, World, can_run, have, tool, works};

const VALUE: &str = "hunter2-5d1f0c9e";

fn secret(world: &World) -> String {
    let path = world.path("secret");
    std::fs::write(&path, VALUE).expect("a secret");
    format!("id=s,src={}", path.display())
}

/// Every file below `dir` that holds `text`.
fn files_with(dir: &Path, text: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            files_with(&entry.path(), text, found);
        } else if kind.is_file() {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            let mut unpacked = Vec::new();
            let plain =
                flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut unpacked).is_err();
            let bytes = if plain { bytes } else { unpacked };
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(entry.path());
            }
        }
    }
}

#[test]
fn secrets_are_files_and_variables_of_one_step() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let given = secret(&world);
    world.dockerfile(&format!(
        "FROM busybox\n\
         ENV TOKEN=public\n\
         RUN --mount=type=secret,id=s --mount=type=secret,id=s,target=/x/y,mode=0751,uid=3,gid=4 \\\n\
         --mount=type=secret,id=s,env=TOKEN --mount=type=secret,id=nope --mount=type=secret,id=s,target=/app/rel \\\n\
         {{ test \"$(cat /run/secrets/s)\" = {VALUE} && test \"$TOKEN\" = {VALUE} && cat /x/y | wc -c \\\n\
         && stat -c '%a %u %g' /run/secrets/s /x/y && ls /run/secrets && (echo > /x/y) 2>/dev/null || echo read-only; \\\n\
         env | grep -c TOKEN; }} > /one\n\
         RUN {{ ls /run/secrets /x /app 2>/dev/null; echo $TOKEN; grep -r {prefix} /run /proc/self/environ /proc/self/mounts; ls -d /run; }} > /two 2>/dev/null || true\n",
        prefix = &VALUE[..7],
    ));
    // The script tells the value to compare with; what counts is what it does not print.
    let text = std::fs::read_to_string(world.context().join("Dockerfile")).expect("the Dockerfile");
    world.dockerfile(&text.replace(VALUE, "$(cat /x/y)"));
    let args = ["--network", "none", "--secret", &given];
    let image = world.build_layout("image", &args);
    assert_eq!(
        image.entry(1, "one").content,
        format!("{}\n400 0 0\n751 3 4\ns\nread-only\n1\n", VALUE.len())
    );
    assert_eq!(image.paths(1), ["one"], "mount points vanish");
    assert_eq!(image.entry(2, "two").content, "public\n");
    let mut found = Vec::new();
    files_with(&world.store(), VALUE, &mut found);
    files_with(&world.path("image"), VALUE, &mut found);
    assert_eq!(found, Vec::<PathBuf>::new());
}

#[test]
fn nothing_tells_a_secret() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let (given, busybox) = (secret(&world), world.busybox().expect("checked"));
    let flags = "--mount=type=secret,id=s --mount=type=secret,id=s,env=TOKEN";
    let build = |progress: &str| {
        let args = [
            "--build-context",
            &busybox,
            "--network",
            "none",
            "--secret",
            &given,
            "--progress",
            progress,
            "--no-cache",
            "--metadata-file",
            "meta.json",
            "--output",
            "type=cacheonly",
            ".",
        ];
        world.rbuild(&args)
    };
    let silent = |run: &Run| {
        assert!(!run.stdout.contains(VALUE) && !run.stderr.contains(VALUE), "{}{}", run.stdout, run.stderr);
    };
    world.dockerfile(&format!("FROM busybox\nRUN {flags} test -n \"$TOKEN\"\n"));
    for progress in ["plain", "rawjson", "quiet"] {
        silent(&build(progress).success());
    }
    world.dockerfile(&format!("FROM busybox\nRUN {flags} exit 3\n"));
    silent(&build("plain").exits(1));
    // A mount that fails, and a variable that cannot be.
    world.dockerfile("FROM busybox\nRUN --mount=type=secret,id=s,target=/etc true\n");
    silent(&build("plain").exits(1).says("/etc"));
    std::fs::write(world.path("secret"), format!("{VALUE}\0")).expect("a secret");
    world.dockerfile("FROM busybox\nRUN --mount=type=secret,id=s,env=TOKEN true\n");
    silent(&build("plain").exits(1).says("TOKEN"));
}

#[test]
fn values_are_no_part_of_a_key() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let given = secret(&world);
    world.dockerfile("FROM busybox\nRUN --mount=type=secret,id=s cat /proc/sys/kernel/random/uuid > /out\n");
    let first = world.build_layout("one", &["--network", "none", "--secret", &given]);
    std::fs::write(world.path("secret"), "other").expect("a secret");
    let second = world.build_layout("two", &["--network", "none", "--secret", &given]);
    assert_eq!(first.manifest["layers"], second.manifest["layers"]);
}

#[test]
fn what_is_required_and_missing_stops_the_build_before_its_first_step() {
    let world = World::new();
    world.file("a", "a");
    let check = |flags: &str, message: &str, hint: &str| {
        world.dockerfile(&format!("FROM scratch\nCOPY a /\nRUN --mount={flags},required x\n"));
        let run = world.rbuild(&["--progress", "plain", "--output", "type=cacheonly", "."]).exits(2);
        let run = run.says(message).says(hint).says("Dockerfile:3");
        assert!(!run.stderr.contains("COPY a"), "{}", run.stderr);
    };
    check("type=secret,id=s", "secret s: not found", "--secret id=s,src=FILE");
    check("type=ssh", "no SSH key \"default\" forwarded", "--ssh default");
}

/// Answers every request with its bytes after a 1.
fn agent(path: &Path) -> UnixListener {
    let listener = UnixListener::bind(path).expect("a socket");
    let serving = listener.try_clone().expect("a copy");
    std::thread::spawn(move || {
        for stream in serving.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 5];
            while stream.read_exact(&mut request).is_ok() {
                stream.write_all(&[0, 0, 0, 2, 1, request[4]]).expect("an answer");
            }
        }
    });
    listener
}

fn ask(socket: &Path, kind: u8) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).expect("the step's socket");
    stream.write_all(&[0, 0, 0, 1, kind]).expect("a request");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("a length");
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).expect("an answer");
    answer
}

/// The process of a step that has `marker` on its command line.
fn process_with(marker: &str) -> PathBuf {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            if line.starts_with("/bin/sh") && line.contains(marker) {
                return entry.path();
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no process with {marker}");
}

#[test]
fn agents_answer_the_step_that_mounts_them() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let socket = world.path("agent.sock");
    let _agent = agent(&socket);
    let marker = format!("rbuild-agent-{}", std::process::id());
    world.dockerfile(&format!(
        "FROM busybox\n\
         RUN --mount=type=ssh --mount=type=ssh,id=other,target=/o/sock,mode=0666,uid=9,gid=8 --mount=type=ssh,id=nobody \\\n\
         : {marker}; {{ echo $SSH_AUTH_SOCK; stat -c '%n %F %a %u %g' /run/buildkit/* /o/sock; }} > /out; until test -e /go; do sleep 0.05; done; rm /go\n\
         RUN {{ echo \"[$SSH_AUTH_SOCK]\"; ls /run /o; }} > /out2 2>/dev/null || true\n"
    ));
    let seen = std::thread::scope(|scope| {
        let step = scope.spawn(|| {
            let root = process_with(&marker).join("root");
            let sockets = ["run/buildkit/ssh_agent.0", "o/sock"].map(|path| root.join(path));
            let until = Instant::now() + Duration::from_secs(30);
            while !root.join("out").exists() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
            let answers: Vec<_> =
                sockets.iter().flat_map(|socket| [ask(socket, 11), ask(socket, 19)]).collect();
            std::fs::write(root.join("go"), "").expect("the step's root");
            answers
        });
        let (default, other) =
            (format!("default={}", socket.display()), format!("other={}", socket.display()));
        let image = world.build_layout("image", &["--network", "none", "--ssh", &default, "--ssh", &other]);
        let expect =
            "/run/buildkit/ssh_agent.0\n/run/buildkit/ssh_agent.0 socket 600 0 0\n/o/sock socket 666 9 8\n";
        assert_eq!(image.entry(1, "out").content, expect);
        assert_eq!(image.paths(1), ["out"]);
        assert_eq!(image.entry(2, "out2").content, "[]\n");
        step.join().expect("answers")
    });
    assert_eq!(seen, [vec![1, 11], vec![5], vec![1, 11], vec![5]], "keys are listed, none is removed");
    assert_eq!(world.scratch_left(), Vec::<PathBuf>::new());
}

#[test]
fn keys_of_files_sign_for_the_step_that_mounts_them() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let Some(server) = Ssh::start(&world) else { return };
    let key = world.path("user");
    let marker = format!("rbuild-keys-{}", std::process::id());
    world.dockerfile(&format!(
        "FROM busybox\nRUN --mount=type=ssh : {marker}; touch /ready; until test -e /go; do sleep 0.05; done; rm /go /ready; env > /out\n"
    ));
    std::thread::scope(|scope| {
        let step = scope.spawn(|| {
            let root = process_with(&marker).join("root");
            let until = Instant::now() + Duration::from_secs(30);
            while !root.join("ready").exists() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
            let socket = root.join("run/buildkit/ssh_agent.0");
            let removed = ask(&socket, 19);
            let mut client = Command::new("ssh");
            client.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
            client.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "IdentityFile=none", "-o"]);
            client.arg(format!("IdentityAgent={}", socket.display())).arg("-p").arg(server.port.to_string());
            let output = client.args(["root@127.0.0.1", "echo inside"]).output().expect("ssh starts");
            std::fs::write(root.join("go"), "").expect("the step's root");
            (removed, output)
        });
        let given = format!("default={}", key.display());
        let image = world.build_layout("image", &["--network", "none", "--ssh", &given]);
        assert_eq!(image.paths(1), ["out"]);
        let (removed, output) = step.join().expect("answers");
        assert_eq!(removed, [5]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "inside\n", "{output:?}");
    });
    let key = std::fs::read_to_string(key).expect("the key");
    let line = key.lines().nth(1).expect("its first bytes");
    let mut found = Vec::new();
    files_with(&world.store(), line, &mut found);
    files_with(&world.path("image"), line, &mut found);
    assert_eq!(found, Vec::<PathBuf>::new());
    assert_eq!(world.scratch_left(), Vec::<PathBuf>::new());
}

#[test]
fn keys_that_want_a_passphrase_are_refused() {
    let world = World::new();
    if !have("ssh-keygen") {
        return;
    }
    let key = world.path("key").display().to_string();
    tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "a phrase", "-f", &key]);
    world.dockerfile("FROM scratch\nRUN --mount=type=ssh x\n");
    let run = world.rbuild(&["--ssh", &format!("a={key}"), "--output", "type=cacheonly", "."]).exits(2);
    run.says(&format!("--ssh a: the key {key} is protected by a passphrase")).says("ssh-add");
}

#[test]
fn secrets_and_agents_are_placed_where_nothing_can_be_mounted() {
    let world = World::new();
    if !can_run(&world) || !works(&world, "chroot") {
        return;
    }
    let given = secret(&world);
    let socket = world.path("agent.sock");
    let _agent = agent(&socket);
    let ssh = format!("default={}", socket.display());
    world.dockerfile(
        "FROM busybox\n\
         RUN --mount=type=secret,id=s,target=/x/y,uid=1000 --mount=type=secret,id=s --mount=type=secret,id=s,env=TOKEN \\\n\
         --mount=type=ssh,uid=1000 \\\n\
         { test \"$(cat /x/y)\" = \"$TOKEN\" && test \"$(cd /x; su app -c 'cat y')\" = \"$TOKEN\" && wc -c < /run/secrets/s \\\n\
         && su app -c 'cat /run/secrets/s 2>/dev/null || echo closed' && stat -c '%a %u %s' /x/y && stat -c '%F %a %u' $SSH_AUTH_SOCK; } > /one\n\
         RUN { ls /run /x 2>/dev/null; echo [$TOKEN]; } > /two || true\n",
    );
    let args = ["--network", "none", "--isolation", "chroot", "--secret", &given, "--ssh", &ssh];
    let image = world.build_layout("image", &args);
    let size = VALUE.len();
    let expect = format!("{size}\nclosed\n400 1000 {size}\nsocket 600 1000\n");
    assert_eq!(image.entry(1, "one").content, expect);
    assert_eq!((image.paths(1), image.paths(2)), (vec!["one".to_owned()], vec!["two".to_owned()]));
    assert_eq!(image.entry(2, "two").content, "[]\n");
    let mut found = Vec::new();
    files_with(&world.store(), VALUE, &mut found);
    files_with(&world.path("image"), VALUE, &mut found);
    assert_eq!(found, Vec::<PathBuf>::new());
}
