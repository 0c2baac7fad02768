//! Ways out of a step that must not work.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rbuild_sandbox::{Cancel, Exit, RunError};

use crate::support::{every, nap, processes_with};

/// The step shares the PID namespace of this process in containers with masked paths in `/proc`.
fn kernel_can_fence_signals() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(12))
}

#[test]
fn signals_do_not_reach_the_builder() {
    if !kernel_can_fence_signals() {
        eprintln!("skipped: Landlock has no signal scope before Linux 6.12");
        return;
    }
    every(|lab| {
        let ours = fs::read_link("/proc/self/ns/pid").unwrap();
        let script = format!(
            "if test $(readlink /proc/self/ns/pid) = '{}'; then kill -0 {} 2>/dev/null && echo reached; fi; kill -9 -1; echo alive",
            ours.display(),
            std::process::id()
        );
        lab.check(&script, "alive\n");
    });
}

#[test]
fn a_step_cannot_outlive_a_monitor_it_attacks() {
    every(|lab| {
        let nap = nap(98762);
        let script = format!("setsid sleep {nap} & kill -9 $PPID 2>/dev/null; usleep 200000; echo still");
        let outcome = lab.run(&lab.shell(&script));
        let expected = match outcome.result {
            Ok(Exit::Code(0)) => outcome.stdout == "still\n",
            Err(RunError::MonitorDied) => !kernel_can_fence_signals(),
            _ => false,
        };
        assert!(expected, "{outcome:?}");
        assert_eq!(processes_with(&nap), 0);
    });
}

/// As the kernel does when memory is short.
#[test]
fn a_step_does_not_outlive_its_monitor() {
    every(|lab| {
        let nap = nap(98761);
        let first = format!("echo the-first-process-{nap}");
        let kill_monitor = || {
            let processes = fs::read_dir("/proc").unwrap().flatten();
            for process in processes.map(|entry| entry.path()) {
                let line = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
                let status = fs::read_to_string(process.join("status")).unwrap_or_default();
                let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
                if let (true, Some(parent)) = (line.contains(&first), parent) {
                    let pid = rustix::process::Pid::from_raw(parent.trim().parse().unwrap()).unwrap();
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                }
            }
        };
        let script = format!("setsid sleep {nap} & (setsid sleep {nap} &); {first}; sleep {nap}; true");
        let spec = lab.shell(&script);
        let result = lab.sandbox.run(&spec, &mut |_, _| kill_monitor(), &Cancel::new());
        assert!(matches!(result, Err(RunError::MonitorDied)), "{result:?}");
        assert_eq!(processes_with(&nap), 0);
    });
}

#[test]
fn memory_of_the_monitor_is_closed() {
    every(|lab| {
        lab.check(
            "for file in environ mem maps fd/0 root/x; do cat /proc/$PPID/$file 2>/dev/null | head -c 1; done; readlink /proc/$PPID/exe; readlink /proc/$PPID/fd/3; true",
            "",
        );
    });
}

/// The program of the builder is a file of the host that the step's root does not hide until it executes another.
#[test]
fn the_builder_s_program_is_not_executed() {
    every(|lab| {
        let check = |argv: &[&str]| {
            let outcome = lab.run(&lab.spec(argv));
            assert!(matches!(outcome.result, Err(RunError::Exec(_))), "{argv:?}: {outcome:?}");
        };
        fs::write(lab.path("lower/script"), "#!/proc/self/exe --list\n").unwrap();
        fs::set_permissions(lab.path("lower/script"), PermissionsExt::from_mode(0o755)).unwrap();
        check(&["/proc/self/exe", "--list"]);
        check(&["/proc/thread-self/exe", "--list"]);
        check(&["/script"]);
    });
}
