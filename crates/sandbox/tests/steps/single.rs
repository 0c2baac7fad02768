//! What a step sees of owners and identities where the kernel knows a single id.

use std::os::unix::process::CommandExt;
use std::process::Command;

use rbuild_sandbox::{Exit, Isolation, User};

use crate::support::Lab;

const NOBODY: u32 = 65534;

/// Runs every other test of this binary again as a user without privileges, which is whom this isolation is for.
#[test]
fn an_unprivileged_user_passes_all_tests() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut command = Command::new("/proc/self/exe");
    let output = command.arg("--nocapture").uid(NOBODY).gid(NOBODY).output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).join("\n");
    assert!(output.status.success(), "{text}");
    if let Some(line) = text.lines().find(|line| line.contains("skipped: isolation userns-single")) {
        eprintln!("{line}");
    }
}

fn lab() -> Option<Lab> {
    labs().into_iter().next()
}

/// Both isolations that emulate who is who.
fn labs() -> Vec<Lab> {
    if rustix::process::geteuid().is_root() {
        return Vec::new();
    }
    [Isolation::UsernsSingle, Isolation::Supervised].into_iter().filter_map(Lab::new).collect()
}

/// Runs scripts as root of a step; each must print what is expected.
#[track_caller]
fn check(cases: &[(&str, &str)]) {
    for lab in labs() {
        for (script, expect) in cases {
            lab.check(script, expect);
        }
    }
}

#[track_caller]
fn check_as(user: &User, cases: &[(&str, &str)]) {
    for lab in labs() {
        for (script, expect) in cases {
            let mut spec = lab.shell(script);
            spec.process.user = user.clone();
            lab.check_spec(&spec, expect);
        }
    }
}

fn app() -> User {
    User { uid: 1000, gid: 1001, groups: vec![7, 5] }
}

#[test]
fn owners_are_what_chown_made_them() {
    check(&[
        ("stat -c %u:%g /etc/hosts; chown 5:6 /etc/hosts; stat -c %u:%g /etc/hosts", "0:0\n5:6\n"),
        ("touch f; chown 5 f; chown :6 f; stat -c %u:%g f; chown 0:0 f; stat -c %u:%g f", "5:6\n0:0\n"),
        ("ln -s hosts /etc/l; chown -h 5:6 /etc/l; stat -c %u:%g /etc/l /etc/hosts", "5:6\n0:0\n"),
        ("ln -s hosts /etc/l; chown 5:6 /etc/l; stat -c %u:%g /etc/l; stat -L -c %u:%g /etc/l", "0:0\n5:6\n"),
        ("mkdir -p d/e; touch d/e/f; chown -R 5:6 d; ls -ln d/e | awk 'NR==2 {print $3, $4}'", "5 6\n"),
        ("cd /tmp; touch x; mkdir y; cd y; chown 5:6 ../x; stat -c %u:%g ../x", "5:6\n"),
        ("mkfifo p; chown 5:6 p; stat -c %u:%g p", "5:6\n"),
        ("touch f; ln f g; chown 5:6 f; stat -c %u:%g g; mv f h; stat -c %u:%g h", "5:6\n5:6\n"),
        ("chown 5:6 /proc/self/fd/9 9>f; stat -c %u:%g f", "5:6\n"),
        ("chown 5 missing 2>/dev/null; echo $?", "1\n"),
    ]);
}

#[test]
fn chown_clears_set_id_bits() {
    check(&[("touch f; chmod 6755 f; stat -c %a f; chown 5 f; stat -c %a f", "6755\n755\n")]);
}

#[test]
fn a_copy_of_a_lower_file_has_the_owner() {
    let Some(lab) = lab() else { return };
    let outcome = lab.run(&lab.shell("chown 5:6 /etc/hosts"));
    assert!(matches!(outcome.result, Ok(Exit::Code(0))), "{outcome:?}");
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(outcome.upper.join("etc/hosts"), "user.rbuild.owner", &mut value);
    assert_eq!(&value[..length.unwrap()], b"5:6");
}

#[test]
fn steps_start_as_their_user() {
    check_as(
        &app(),
        &[
            ("id -u; id -g; id -G", "1000\n1001\n1001 5 7\n"),
            (
                "touch /tmp/f; mkdir /tmp/d; ln -s f /tmp/l; stat -c %u:%g /tmp/f /tmp/d /tmp/l",
                "1000:1001\n1000:1001\n1000:1001\n",
            ),
            (
                "umask 027; echo x > /tmp/f; mkdir /tmp/d; stat -c %a /tmp/f /tmp/d; cat /tmp/f",
                "640\n750\nx\n",
            ),
            (
                "touch /tmp/f; chown 0 /tmp/f 2>/dev/null; echo $?; chown :5 /tmp/f; stat -c %u:%g /tmp/f",
                "1\n1000:5\n",
            ),
            ("chown 1000 /etc/hosts 2>/dev/null; echo $?", "1\n"),
            ("mknod /tmp/n c 1 3 2>/dev/null; echo $?", "1\n"),
            ("ln -s target /tmp/l; echo x > /tmp/l; cat /tmp/target; stat -c %u /tmp/target", "x\n1000\n"),
            ("set -C; echo 1 > /tmp/f; (echo 2 > /tmp/f) 2>/dev/null; cat /tmp/f", "1\n"),
        ],
    );
}

#[test]
fn identities_change_and_are_inherited() {
    check(&[(
        "su app -c 'id -u; id -g; sh -c \"id -u\"; touch /tmp/f'; stat -c %u:%g /tmp/f; id -u",
        "1000\n1001\n1000\n1000:1001\n0\n",
    )]);
}

/// What busybox does when it is set-user-id: it drops that again but for su, which asks root for no password here.
#[test]
fn set_id_programs_raise() {
    let copied = "cp /bin/busybox /bin/busybox-raised; ";
    let raised = "su app -c '/bin/busybox-raised su -c \"id -u\" 2>&1; id -u'";
    let refused = "su: must be suid to work properly\n1000\n";
    let check = |script: &str, expect: &str| check(&[(&[copied, script].concat(), expect)]);
    check(&format!("chmod 4755 /bin/busybox-raised; {raised}"), "0\n1000\n");
    check(&format!("chmod 755 /bin/busybox-raised; {raised}"), refused);
    check(&format!("chmod 4755 /bin/busybox-raised; chown 7 /bin/busybox-raised; {raised}"), refused);
    check(
        "chown 7:8 /bin/busybox-raised; chmod 6755 /bin/busybox-raised; stat -c %u:%g:%a /bin/busybox-raised",
        "7:8:6755\n",
    );
}

#[test]
fn set_group_id_directories_give_their_group() {
    check(&[
        (
            "mkdir d; chown :7 d; chmod g+s d; touch d/f; mkdir d/e; stat -c %u:%g:%a d/f d/e",
            "0:7:644\n0:7:2755\n",
        ),
        ("mkdir d; chmod g+s d; touch d/f; stat -c %u:%g d/f", "0:0\n"),
    ]);
}

#[test]
fn devices_are_remembered() {
    check(&[
        (
            "mknod n c 1 3; test -c n && stat -c '%t %T %a' n; chown 5:6 n; stat -c '%u:%g %F' n",
            "1 3 644\n5:6 character special file\n",
        ),
        ("mknod n b 8 0 2>/dev/null; echo $?; mknod n c 1 1 2>/dev/null; echo $?", "1\n1\n"),
        ("mknod p p; test -p p; echo $?", "0\n"),
    ]);
}

#[test]
fn the_limit_behind_an_identity_is_hidden() {
    check_as(&app(), &[("ulimit -a >/dev/null; id -u", "1000\n")]);
}

/// What overlayfs copies up is another inode on disk than in the step; owners of links are kept by it.
#[test]
fn owners_of_lower_links_are_kept_with_their_inode() {
    use std::os::unix::fs::{MetadataExt, symlink};
    let Some(lab) = lab() else { return };
    for name in ["changed", "moved", "touched", "untouched"] {
        symlink("target", lab.path("lower/etc").join(name)).unwrap();
    }
    let script = "cd /etc; chown -h 5:6 *ed; mtime=$(stat -c %Y touched); mv moved new; touch -h -d @9 touched; \
                  test $mtime = $(stat -c %Y changed); stat -c '%u:%g %Y' touched; chown -h 0:0 untouched; \
                  for link in changed new touched untouched; do stat -c '%u:%g %i' $link; done; ls -a | grep -c rbuild";
    let outcome = lab.run(&lab.shell(script));
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines.first(), Some(&"5:6 9"), "{outcome:?}");
    for (name, line) in ["changed", "new", "touched", "untouched"].iter().zip(&lines[1..]) {
        let (owner, inode) = line.split_once(' ').unwrap();
        assert_eq!(owner, if *name == "untouched" { "0:0" } else { "5:6" }, "{name}: {outcome:?}");
        let on_disk = std::fs::symlink_metadata(outcome.upper.join("etc").join(name)).unwrap();
        assert_eq!(inode, on_disk.ino().to_string(), "{name}: {outcome:?}");
    }
    assert_eq!(lines.last(), Some(&"0"), "{outcome:?}");
}
