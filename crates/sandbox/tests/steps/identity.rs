//! Who a step is: ids, capabilities, limits, environment, filter.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;

use rbuild_sandbox::{Exit, Isolation, Ownership, Resource, Rlimit, User};

use crate::support::every;

#[test]
fn environment_directory_and_host_name() {
    every(|lab| {
        let mut spec = lab.shell("pwd; echo $A $B; hostname; umask; exec env");
        spec.process.env.push(("A".into(), "x y".into()));
        spec.process.env.push((OsString::from("B"), OsString::new()));
        spec.process.cwd = "/home".into();
        spec.process.hostname = "some-host".into();
        let expect = "/home\nx y\nsome-host\n0022\n";
        let environment = "B=\nA=x y\nPATH=/usr/bin:/bin\nPWD=/home\n";
        let outcome = lab.run(&spec);
        let (head, tail) = outcome.stdout.split_at(expect.len());
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines.retain(|line| !line.starts_with("SHLVL=") && !line.starts_with("OLDPWD="));
            lines
        };
        assert_eq!(head, expect, "{outcome:?}");
        assert_eq!(sorted(tail), sorted(environment));
    });
}

#[test]
fn users_and_groups() {
    every(|lab| {
        let check = |uid, gid, groups: &[u32], expect: &str| {
            let mut spec = lab.shell("echo $(id -u) $(id -g) $(id -G)");
            spec.process.user = User { uid, gid, groups: groups.to_vec() };
            lab.check_spec(&spec, expect);
        };
        check(0, 0, &[], "0 0 0\n");
        check(1000, 1000, &[], "1000 1000 1000\n");
        check(1000, 50, &[5, 7], "1000 50 50 5 7\n");
        check(65534, 65534, &[], "65534 65534 65534\n");
    });
}

#[test]
fn changed_owners_land_in_the_upper_directory() {
    every(|lab| {
        if lab.sandbox.ownership() == Ownership::Recorded {
            return;
        }
        let outcome = lab.run(&lab.shell("echo x > /f; chown 33:44 /f; chmod 4711 /f; cd /; ln f g"));
        assert!(matches!(outcome.result, Ok(Exit::Code(0))), "{outcome:?}");
        let meta = std::fs::metadata(outcome.upper.join("g")).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.nlink()), (33, 44, 0o4711, 2));
    });
}

#[test]
fn capabilities_are_docker_s() {
    every(|lab| {
        // There the kernel knows no other user.
        let emulated = lab.sandbox.ownership() == Ownership::Recorded;
        let status = "awk '/^(Cap|NoNew|Seccomp:)/ {print $1 $2}' /proc/self/status";
        let check = |uid, expect: &[&str]| {
            let mut spec = lab.shell(status);
            spec.process.user.uid = uid;
            lab.check_spec(&spec, &expect.iter().map(|line| format!("{line}\n")).collect::<String>());
        };
        // CAP_SYS_CHROOT would lead out of a changed root, and nobody there gains what is not had.
        let changed = lab.name() == Isolation::Chroot;
        let all = if changed { "00000000a80025fb" } else { "00000000a80425fb" };
        let none = "0000000000000000";
        let lines = |inh: &str, prm: &str, eff: &str, bnd: &str, amb: &str| {
            [("Inh", inh), ("Prm", prm), ("Eff", eff), ("Bnd", bnd), ("Amb", amb)]
                .map(|(name, set)| format!("Cap{name}:{set}"))
        };
        for (uid, sets) in [(0, lines(none, all, all, all, none)), (7, lines(none, none, none, all, none))] {
            if emulated && uid != 0 {
                continue;
            }
            let mut expect: Vec<&str> = sets.iter().map(String::as_str).collect();
            expect.extend([if changed { "NoNewPrivs:1" } else { "NoNewPrivs:0" }, "Seccomp:2"]);
            check(uid, &expect);
        }
    });
}

#[test]
fn the_filter_refuses_what_docker_refuses() {
    every(|lab| {
        lab.check(
            "unshare -m true 2>/dev/null; echo $?; mount -t tmpfs t /tmp 2>/dev/null; echo $?; sync; echo $?",
            "1\n1\n0\n",
        );
        let chroot = if lab.name() == Isolation::Chroot { "1\n1\n" } else { "1\n0\n" };
        lab.check("hostname x 2>/dev/null; echo $?; chroot / /bin/true 2>/dev/null; echo $?", chroot);
    });
}

#[test]
fn limits() {
    every(|lab| {
        let mut spec = lab.shell("ulimit -n; ulimit -c");
        spec.process.rlimits = vec![
            Rlimit { resource: Resource::Nofile, soft: Some(123), hard: Some(124) },
            Rlimit { resource: Resource::Core, soft: Some(0), hard: Some(0) },
        ];
        lab.check_spec(&spec, "123\n0\n");
    });
}

#[test]
fn set_id_programs_work() {
    every(|lab| {
        let dir = lab.fresh("cc");
        let source = dir.join("euid.c");
        std::fs::write(
            &source,
            "#include <stdio.h>\n#include <unistd.h>\nint main(){printf(\"%d %d\\n\",getuid(),geteuid());}\n",
        )
        .unwrap();
        let program = lab.path("lower/bin/euid");
        let built =
            std::process::Command::new("cc").arg("-static").arg("-o").args([&program, &source]).status();
        if !built.is_ok_and(|status| status.success()) {
            eprintln!("skipped: no C compiler");
            return;
        }
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
        let mut spec = lab.spec(&["euid"]);
        spec.process.user.uid = 1000;
        lab.check_spec(&spec, if lab.name() == Isolation::Chroot { "1000 1000\n" } else { "1000 0\n" });
    });
}
