//! How steps end, and that nothing is left of them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rbuild_sandbox::{Cancel, ExecError, Exit, Mounting, RunError};

use crate::support::{Lab, every, nap, processes_with, remove};

#[test]
fn exit_codes_and_signals() {
    every(|lab| {
        for (script, expect) in [
            ("true", Exit::Code(0)),
            ("exit 7", Exit::Code(7)),
            ("exit 255", Exit::Code(255)),
            ("kill -9 $$", Exit::Signal(9)),
            ("kill -TERM $$", Exit::Signal(15)),
            ("nonexistent", Exit::Code(127)),
        ] {
            let outcome = lab.run(&lab.shell(script));
            assert!(matches!(outcome.result, Ok(exit) if exit == expect), "{script}: {outcome:?}");
        }
    });
}

#[test]
fn programs_that_cannot_be_executed() {
    every(|lab| {
        let files = lab.path("lower/bin");
        std::fs::write(files.join("garbage"), "\u{1}\u{2}").unwrap();
        std::fs::write(files.join("plain"), "").unwrap();
        std::fs::write(files.join("orphan"), "#!/no/interpreter\n").unwrap();
        for (name, mode) in [("garbage", 0o755), ("plain", 0o644), ("orphan", 0o755)] {
            std::fs::set_permissions(files.join(name), std::os::unix::fs::PermissionsExt::from_mode(mode))
                .unwrap();
        }
        for (argv, expect) in [
            ("foo", r#"exec: "foo": executable file not found in $PATH"#),
            ("plain", r#"exec: "plain": executable file not found in $PATH"#),
            ("/bin/foo", r#"exec: "/bin/foo": stat /bin/foo: no such file or directory"#),
            (
                "/bin/busybox/foo",
                r#"exec: "/bin/busybox/foo": stat /bin/busybox/foo: no such file or directory"#,
            ),
            ("/bin/plain", r#"exec: "/bin/plain": permission denied"#),
            ("/bin", r#"exec: "/bin": is a directory"#),
            ("garbage", "exec /bin/garbage: exec format error"),
            ("/bin/orphan", "exec /bin/orphan: no such file or directory"),
        ] {
            let outcome = lab.run(&lab.spec(&[argv]));
            let error = outcome.result.unwrap_err();
            assert!(matches!(error, RunError::Exec(_)), "{error:?}");
            assert_eq!(error.to_string(), expect);
        }
        let mut spec = lab.spec(&["true"]);
        spec.process.env.clear();
        assert!(matches!(lab.run(&spec).result, Err(RunError::Exec(ExecError::NotInPath(_)))));
    });
}

#[test]
fn preparations_that_fail_say_where() {
    every(|lab| {
        let mut spec = lab.shell("true");
        spec.process.cwd = "/nowhere".into();
        let error = lab.run(&spec).result.unwrap_err();
        assert_eq!(error.to_string(), "cannot enter the working directory /nowhere");
        let mut spec = lab.shell("true");
        spec.mounts.first_mut().unwrap().target = "nowhere".into();
        let error = lab.run(&spec).result.unwrap_err().to_string();
        if lab.sandbox.mounting() == Mounting::Placed {
            assert!(error.starts_with("invalid step"), "{error}");
            return;
        }
        assert!(error.starts_with("cannot ") && error.ends_with(" nowhere"), "{error}");
    });
}

#[test]
fn daemons_die_with_the_step() {
    every(|lab| {
        // One in the background, one in a session of its own whose parent is gone, both holding the output pipes.
        let nap = nap(98765);
        let script = format!(
            "sleep {nap} & setsid sh -c 'sleep {nap} & sleep {nap}' & (trap '' TERM HUP; sleep {nap} &) ; exit 3"
        );
        let outcome = lab.run(&lab.shell(&script));
        assert!(matches!(outcome.result, Ok(Exit::Code(3))), "{outcome:?}");
        assert_eq!(processes_with(&nap), 0);
    });
}

#[test]
fn orphans_are_reaped() {
    every(|lab| {
        let script = "pid=$(sh -c 'sleep 0 >/dev/null & echo $!'); for i in $(seq 100); do kill -0 $pid 2>/dev/null || exit 0; usleep 50000; done; exit 1";
        lab.check(script, "");
    });
}

#[test]
fn cancelling_kills() {
    every(|lab| {
        let cancel = Cancel::new();
        let mut output = |_, _: &[u8]| cancel.cancel();
        let spec = lab
            .shell(&format!("trap '' TERM INT HUP; setsid sleep {0} & echo started; sleep {0}", nap(98764)));
        let result = lab.sandbox.run(&spec, &mut output, &cancel);
        assert!(matches!(result, Err(RunError::Cancelled)), "{result:?}");
        assert_eq!(processes_with(&nap(98764)), 0);
        let result = lab.sandbox.run(&spec, &mut |_, _| {}, &cancel);
        assert!(matches!(result, Err(RunError::Cancelled)), "{result:?}");
    });
}

const ISOLATION: &str = "RBUILD_SANDBOX_TEST_ISOLATION";

/// Not a test: the builder that `killed_builder_leaves_nothing` kills.
#[test]
#[expect(clippy::disallowed_methods, reason = "tells the parent's invocation from the harness's")]
fn builder_to_be_killed() {
    let Some(isolation) = std::env::var(ISOLATION).ok().and_then(|name| name.parse().ok()) else { return };
    let lab = Lab::new(isolation).unwrap();
    println!("scratch {}", lab.dir.path().display());
    let mut output = |_, bytes: &[u8]| std::io::stdout().write_all(bytes).unwrap();
    let spec = lab.shell(&format!(
        "setsid sleep {0} & (setsid sh -c 'sleep {0}; true' &); echo started; sleep {0}",
        nap(98763)
    ));
    let _ = lab.sandbox.run(&spec, &mut output, &Cancel::new());
}

#[test]
fn killed_builder_leaves_nothing() {
    every(|lab| {
        let mut builder = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "ending::builder_to_be_killed", "--nocapture"])
            .env(ISOLATION, lab.name().name())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut scratch = None;
        for line in BufReader::new(builder.stdout.take().unwrap()).lines().map_while(Result::ok) {
            if let Some((_, path)) = line.split_once("scratch ") {
                scratch = Some(path.to_owned());
            }
            if line.ends_with("started") {
                break;
            }
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while processes_with(&nap(98763)) == 0 {
            assert!(Instant::now() < deadline, "the step did not start");
        }
        builder.kill().unwrap();
        builder.wait().unwrap();
        while processes_with(&nap(98763)) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(processes_with(&nap(98763)), 0);
        let scratch = scratch.unwrap();
        // Other mounts come and go on a machine where more than this test runs.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&scratch), "{mounts}");
        remove(scratch.as_ref());
    });
}

#[test]
fn steps_run_side_by_side() {
    every(|lab| {
        std::thread::scope(|scope| {
            for number in 0..8 {
                scope.spawn(move || lab.check(&format!("echo {number}"), &format!("{number}\n")));
            }
        });
    });
}
