//! Steps in a changed root, without mounts.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::time::{Duration, SystemTime};

use rbuild_sandbox::{Isolation, Mount, MountKind, Network, Rootfs, Secret};

use crate::support::Lab;

fn lab() -> Option<Lab> {
    Lab::new(Isolation::Chroot)
}

#[test]
fn a_step_runs() {
    let Some(lab) = lab() else { return };
    lab.check("echo hello; id -u; hostname", "hello\n0\nbuildkitsandbox\n");
}

/// Landlock would have it that they are copied.
#[test]
fn files_move_to_other_directories() {
    let Some(lab) = lab() else { return };
    let script = "mkdir -p /a/b /c; echo x > /a/b/f; ln /a/b/f /c/g && mv /a/b/f /c/f && mv /c/g /a/g; \
                  test /a/g -ef /c/f && echo one file; mv /a/b /c/b && echo moved";
    lab.check(script, "one file\nmoved\n");
}

#[test]
fn proc_shows_the_caller() {
    let Some(lab) = lab() else { return };
    lab.check("test $(readlink /proc/self) -gt 1 && readlink /proc/$$/exe", "/bin/busybox\n");
    lab.check("cd /tmp && readlink /proc/self/cwd; readlink /proc/self/root", "/tmp\n/\n");
    lab.check("head -n 1 /proc/self/status", "Name:\thead\n");
    lab.check("head -n 1 /proc/mounts", "overlay / overlay rw,relatime 0 0\n");
    lab.check(
        "grep -q MemTotal /proc/meminfo && test -e /proc/self/fd/1 && test -d /proc/self && echo yes",
        "yes\n",
    );
}

#[test]
fn streams_have_names() {
    let Some(lab) = lab() else { return };
    lab.check(
        "echo a | cat /dev/stdin; echo b | cat /dev/fd/0; echo c > /dev/stdout; echo d > /proc/self/fd/1",
        "a\nb\nc\nd\n",
    );
    // What is opened is what its status was asked of: or cp says that it was replaced.
    lab.check("echo x | cp /dev/stdin /f && cat /f", "x\n");
    lab.check("ln -s /dev/stdout /tmp/log; echo logged > /tmp/log", "logged\n");
    lab.check("exec 3< /etc/hosts; chmod 0644 /dev/stdout && readlink /proc/self/fd/3", "/etc/hosts\n");
    let mut spec = lab
        .shell("echo user | cat /dev/stdin; cat /proc/self/comm; test -r /proc/self/fd/0 && echo readable");
    spec.process.user.uid = 7;
    lab.check_spec(&spec, "user\ncat\nreadable\n");
}

#[test]
fn symlinks_lead_into_proc() {
    let Some(lab) = lab() else { return };
    lab.check(
        "ln -s ../proc/self/mounts /etc/mtab; head -n 1 /etc/mtab",
        "overlay / overlay rw,relatime 0 0\n",
    );
    lab.check(
        "ln -s ../proc/self/status /s; head -n 1 /s; cat /proc/self/root/proc/self/comm",
        "Name:\thead\ncat\n",
    );
    lab.check(
        "cd /proc; head -n 1 self/status; cat uptime > /dev/null && cd self && cat comm",
        "Name:\thead\ncat\n",
    );
}

#[test]
fn processes_of_the_step_are_listed_and_no_others() {
    let Some(lab) = lab() else { return };
    let own = std::process::id();
    lab.check("ls /proc | awk '/^[0-9]+$/' | wc -l; ps -o comm | grep -c sh", "4\n1\n");
    let hidden = format!(
        "for file in environ mem maps status fd/0 exe root/etc/passwd task/{own}/environ; do cat /proc/{own}/$file; done 2>/dev/null; \
         ls /proc/{own} /proc/1 /proc/$PPID 2>/dev/null; readlink /proc/{own}/exe; readlink /proc/$PPID/cwd; test -e /proc/{own} || echo hidden"
    );
    lab.check(&hidden, "hidden\n");
    lab.check("cat /proc/$$/comm; ls /proc/$$/task | wc -l; ls /proc/self/fd | wc -l", "sh\n1\n3\n");
}

#[test]
fn kernel_settings_are_read_only() {
    let Some(lab) = lab() else { return };
    lab.check("cat /proc/sys/kernel/ostype; ls /proc/sys/kernel | grep -c ostype", "Linux\n1\n");
    let script = "for file in sys/kernel/ostype sysrq-trigger irq/default_smp_affinity self/attr/current; do (echo x > /proc/$file) 2>/dev/null && echo $file; done; \
                  exec 3< /proc/sys/kernel/printk; (echo 1 > /proc/self/fd/3) 2>/dev/null && echo reopened; \
                  cat /proc/kcore /proc/keys 2>/dev/null | head -c 1; echo 500 > /proc/self/oom_score_adj && cat /proc/self/oom_score_adj";
    lab.check(script, "500\n");
}

/// The root directory is one below another that holds a secret.
#[test]
fn nothing_leads_out_of_the_root() {
    let Some(lab) = lab() else { return };
    fs::write(lab.path("secret"), "secret").unwrap();
    let outside = lab.path("secret");
    let name = outside.display();
    let script = format!(
        "cat {name} ../../../..{name} ../secret /../secret /proc/self/root/../secret /proc/self/cwd/../secret /proc/self/root{name} 2>/dev/null; \
         cd /proc/self/root/.. && cat secret; cd /proc/self/fd/.. && cat ../../secret; ln -s {name} /link; cat /link; ln -s ../../secret /tmp/l; cat /proc/self/root/tmp/l; \
         exec 3< /; cat /proc/self/fd/3/../secret; cd /proc; cat ../../secret; chroot /tmp /bin/cat /secret; echo done"
    );
    let outcome = lab.run(&lab.shell(&script));
    assert_eq!(outcome.stdout, "done\n", "{outcome:?}");
}

#[test]
fn terminals() {
    let Some(lab) = lab() else { return };
    lab.check("exec 3<>/dev/ptmx; test -c /dev/pts/* && ls /dev/pts | wc -l", "1\n");
    // Those of others are not there.
    lab.check("for n in 0 1 2 3 4 5 6 7 8 9; do (: < /dev/pts/$n) 2>/dev/null && echo $n; done; true", "");
    let terminal =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    let name = rustix::pty::ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    lab.check(&format!("(: < {name}) 2>/dev/null || test -e {name} || echo hidden"), "hidden\n");
}

#[test]
fn no_network_is_none() {
    let Some(lab) = lab() else { return };
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    // One connection is answered, by being closed.
    let serving = std::thread::spawn(move || drop(server.accept().unwrap()));
    let script = format!("nc -w 1 127.0.0.1 {port} < /dev/null > /dev/null 2>&1; echo $?");
    lab.check(&script, "0\n");
    serving.join().unwrap();
    let mut spec = lab.shell("nc -w 1 127.0.0.1 1 2>&1 | grep -o 'Permission denied'");
    spec.process.network = Network::None;
    lab.check_spec(&spec, "Permission denied\n");
}

#[test]
fn nothing_stays_in_the_root() {
    let Some(lab) = lab() else { return };
    let spec = lab.shell(
        "ls -l /proc/self /dev > /tmp/list; touch /dev/x /proc/y; exec 3<>/dev/ptmx; ls /proc > /dev/null",
    );
    let Rootfs::Directory(root) = &spec.rootfs else { panic!("{spec:?}") };
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for path in ["", "proc", "dev", "sys"] {
        fs::File::open(root.join(path)).unwrap().set_modified(old).unwrap();
    }
    lab.check_spec(&spec, "");
    for path in ["proc", "dev", "sys"] {
        assert_eq!(fs::read_dir(root.join(path)).unwrap().count(), 0, "{path}");
    }
    for path in ["", "proc", "dev", "sys"] {
        assert_eq!(fs::metadata(root.join(path)).unwrap().modified().unwrap(), old, "{path:?}");
    }
    let left = fs::read_dir(lab.dir.path()).unwrap().flatten().map(|entry| entry.file_name());
    assert!(!left.into_iter().any(|name| name.to_string_lossy().starts_with("skeleton")));
}

#[test]
fn files_in_memory_take_the_place_of_placeholders() {
    let Some(lab) = lab() else { return };
    let script = "cat /mnt/a/s; cd /mnt; cat a/s link/../a/s < /dev/null; cat /home/l; cd a && head -c 3 s; echo; cat < s; \
                  (echo x > s) 2>/dev/null || echo read-only; set -C; (: > s) 2>/dev/null || echo exists; stat -c '%a %u %s' s; \
                  cat /mnt/b/t 2>/dev/null || echo closed; cat /tmp/none 2>/dev/null || echo none";
    let mut spec = lab.shell(script);
    spec.process.user.uid = 7;
    let Rootfs::Directory(root) = &spec.rootfs else { panic!("{spec:?}") };
    for (path, owner, mode) in [("mnt/a/s", 7, 0o400), ("mnt/b/t", 8, 0o400)] {
        let placeholder = root.join(path);
        fs::write(&placeholder, "0000000").unwrap();
        chown(&placeholder, Some(owner), None).unwrap();
        fs::set_permissions(&placeholder, fs::Permissions::from_mode(mode)).unwrap();
        let content = Secret::new(b"secret\n".to_vec());
        spec.mounts.push(Mount::new(path, MountKind::File { content, uid: owner, gid: 0, mode }));
    }
    symlink("a", root.join("mnt/link")).unwrap();
    symlink("../mnt/a/s", root.join("home/l")).unwrap();
    let secrets = "secret\n".repeat(4);
    let expect = format!("{secrets}sec\nsecret\nread-only\nexists\n400 7 7\nclosed\nnone\n");
    lab.check_spec(&spec, &expect);
    assert_eq!(fs::read_to_string(root.join("mnt/a/s")).unwrap(), "0000000");
}
