//! What a step sees of the machine.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rbuild_sandbox::{
    Access, Confinement, Exit, Isolation, Mount, MountKind, Network, Rootfs, RunError, Secret,
};

use crate::support::{each, every};

#[test]
fn kernel_filesystems_are_read_only() {
    each(|lab| {
        for path in ["/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/kernel/x", "/proc/sys/x"] {
            lab.check(&format!("(echo x > {path}) 2>/dev/null || echo refused"), "refused\n");
        }
        lab.check(
            "cat /proc/kcore | wc -c; ls /sys/firmware | wc -l; test -d /proc/1 && echo ok",
            "0\n0\nok\n",
        );
    });
}

#[test]
fn devices() {
    each(|lab| {
        lab.check(
            "ls /dev",
            "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n",
        );
        lab.check(
            "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c",
            "3\n3\n",
        );
        lab.check(
            "(echo x > /dev/full) 2>/dev/null || echo full; touch /dev/shm/x && ls /dev/shm",
            "full\nx\n",
        );
        lab.check("stat -c %a /dev /dev/shm /dev/mqueue /dev/null /dev/pts", "755\n1777\n1777\n666\n755\n");
        lab.check("mknod /x c 1 3 2>/dev/null; test -c /dev/null && echo x > /dev/null && echo ok", "ok\n");
    });
}

/// The node of a disk, made by the step or brought by an image, opens nothing.
#[test]
fn devices_of_the_host_stay_as_they_are() {
    let mode = |name: &str| fs::metadata(Path::new("/dev").join(name)).unwrap().permissions().mode();
    let before = [mode("null"), mode("full")];
    every(|lab| {
        // The bit that is set is harmless.
        let script = "chmod o+x /dev/full /dev/stdin; chown 7 /dev/full; echo x > /dev/null && echo written";
        let outcome = lab.run(&lab.shell(script));
        assert_eq!(outcome.stdout, "written\n", "{outcome:?}");
        assert_eq!([mode("null"), mode("full")], before, "{}", lab.name());
        lab.check("test -c /dev/stdin && cat", "");
    });
}

#[test]
fn devices_of_the_host_stay_closed() {
    each(|lab| {
        lab.check(
            "for kind in b c; do mknod /x $kind 8 0 2>/dev/null && echo made $kind; done; echo done",
            "done\n",
        );
        lab.check(
            "mknod /null c 1 3 2>/dev/null; (read line < /null) 2>/dev/null && echo opened; echo done",
            "done\n",
        );
    });
}

#[test]
fn a_mount_on_shm_takes_the_place_of_the_default() {
    each(|lab| {
        let mut spec = lab.shell(
            "awk '$2 == \"/dev/shm\" {gsub(/,(inode64|[ug]id=.*)/, \"\", $4); print $3, $4}' /proc/mounts",
        );
        let kind = MountKind::Tmpfs { size: Some(1 << 27), mode: 0o1777 };
        spec.mounts.push(Mount::new("dev/shm", kind));
        lab.check_spec(&spec, "tmpfs rw,nosuid,relatime,size=131072k\n");
    });
}

#[test]
fn pseudo_terminals() {
    each(|lab| {
        let group = if lab.name() == Isolation::UsernsSingle { 0 } else { 5 };
        let expect = format!("0\nptmx\n{group}\n");
        lab.check("exec 3<>/dev/ptmx; ls /dev/pts; stat -c %g /dev/pts/0", &expect);
        let mut spec = lab.shell("exec 3<>/dev/ptmx; ls /dev/pts");
        spec.process.user.uid = 1000;
        lab.check_spec(&spec, "0\nptmx\n");
    });
}

#[test]
fn sources_of_mounts() {
    each(|lab| {
        let script = "awk '$2 ~ /^.(dev|dev.pts|dev.shm)?$/ {print $1, $2, $3}' /proc/mounts";
        lab.check(
            script,
            "overlay / overlay\ntmpfs /dev tmpfs\ndevpts /dev/pts devpts\ntmpfs /dev/shm tmpfs\n",
        );
    });
}

#[test]
fn binds() {
    each(|lab| {
        let source = lab.fresh("source");
        fs::write(source.join("f"), "hello\n").unwrap();
        let bind = |source: PathBuf, target: &str, access| {
            Mount::new(target, MountKind::Bind { source, access, recursive: false })
        };
        let mut spec = lab.shell(
            "cat /mnt/a/f /etc/hosts; (echo x > /mnt/a/g) 2>/dev/null || echo ro; (echo x > /etc/hosts) 2>/dev/null || echo ro; echo x > /mnt/b/g",
        );
        spec.mounts.push(bind(source.clone(), "mnt/a", Access::ReadOnly));
        spec.mounts.push(bind(source.join("f"), "/etc/hosts", Access::ReadOnly));
        spec.mounts.push(bind(source.clone(), "mnt/b", Access::ReadWrite));
        lab.check_spec(&spec, "hello\nhello\nro\nro\n");
        assert_eq!(fs::read_to_string(source.join("g")).unwrap(), "x\n");
    });
}

fn overlay(lower: PathBuf, upper: PathBuf, work: PathBuf, subpath: &str, access: Access) -> MountKind {
    MountKind::Overlay { lower: vec![lower], upper, work, subpath: subpath.into(), access }
}

#[test]
fn parts_of_an_overlay() {
    each(|lab| {
        let lower = lab.fresh("part");
        fs::create_dir_all(lower.join("d/e")).unwrap();
        fs::write(lower.join("d/f"), "file\n").unwrap();
        symlink("/d/e", lower.join("link")).unwrap();
        let mut spec = lab.shell(
            "ls -a /mnt/a; cat /etc/hosts; touch /mnt/b/new && ls /mnt/b; (echo x > /mnt/a/f) 2>/dev/null || echo ro; \
             echo x > /etc/hosts; cat /etc/hosts; awk '$2 ~ \"^/mnt/|hosts\" {print $2, $3, substr($4, 1, 2)}' /proc/mounts",
        );
        for (target, subpath, access) in [
            ("mnt/a", "d", Access::ReadOnly),
            ("etc/hosts", "d/f", Access::ReadWrite),
            ("mnt/b", "link", Access::ReadWrite),
        ] {
            let kind = overlay(lower.clone(), lab.fresh("upper"), lab.fresh("work"), subpath, access);
            spec.mounts.push(Mount::new(target, kind));
        }
        let mounts = "/mnt/a overlay ro\n/etc/hosts overlay rw\n/mnt/b overlay rw\n";
        lab.check_spec(&spec, &format!(".\n..\ne\nf\nfile\nnew\nro\nx\n{mounts}"));
        assert_eq!(fs::read_to_string(lower.join("d/f")).unwrap(), "file\n");
        let kind = overlay(lower, lab.fresh("upper"), lab.fresh("work"), "../missing", Access::ReadOnly);
        let mut spec = lab.shell("true");
        spec.mounts.push(Mount::new("mnt/a", kind));
        let error = lab.run(&spec).result.unwrap_err();
        assert!(error.to_string().contains("mount an overlay on mnt/a"), "{error}");
    });
}

#[test]
fn files_in_memory() {
    each(|lab| {
        let file = |content: &str, uid, gid, mode| MountKind::File {
            content: Secret::new(content.as_bytes().to_vec()),
            uid,
            gid,
            mode,
        };
        let mut spec = lab.shell(
            "cat /etc/hosts /mnt/a/deep/s; stat -c '%a %u %g' /etc/hosts /mnt/a/deep/s; echo $TOKEN; \
             (echo x > /etc/hosts) 2>/dev/null || echo ro; \
             awk '$2 ~ \"hosts|deep\" {print $2, $3, $4}' /proc/mounts",
        );
        spec.process.secret_env = vec![("TOKEN".into(), Secret::new(b"hunter2".to_vec()))];
        spec.mounts.push(Mount::new("etc/hosts", file("one\n", 0, 0, 0o400)));
        spec.mounts.push(Mount::new("mnt/a", MountKind::Tmpfs { size: None, mode: 0o755 }));
        spec.mounts.push(Mount::new("mnt/a/deep/s", file(&"two\n".repeat(30_000), 3, 4, 0o751)));
        let outcome = lab.run(&spec);
        let text = outcome.stdout.replace(&"two\n".repeat(30_000), "…\n");
        let expect = "one\n…\n400 0 0\n751 3 4\nhunter2\nro\n/etc/hosts ramfs ro,nosuid,nodev,noexec,relatime\n\
                      /mnt/a/deep/s ramfs ro,nosuid,nodev,relatime\n";
        assert_eq!(text, expect, "{}: {outcome:?}", lab.name());
        assert!(!format!("{spec:?}").contains("hunter2"));
        assert_eq!(fs::metadata(outcome.upper.join("etc/hosts")).map(|file| file.len()).unwrap_or(0), 0);
    });
}

#[test]
fn lifted_confinement() {
    each(|lab| {
        if !lab.sandbox.lifts_confinement() {
            let mut spec = lab.shell("true");
            spec.process.confinement = Confinement::Lifted;
            assert!(matches!(lab.run(&spec).result, Err(RunError::Invalid(_))));
            return;
        }
        let script = "grep -E 'Seccomp:|CapEff' /proc/self/status; mount -t tmpfs none /mnt/a && echo mounted; \
                      awk '$2 == \"/sys\" {print substr($4, 1, 2)}' /proc/mounts";
        lab.check("grep Seccomp: /proc/self/status", "Seccomp:\t2\n");
        let mut spec = lab.shell(script);
        spec.process.confinement = Confinement::Lifted;
        let outcome = lab.run(&spec);
        assert!(outcome.stdout.contains("Seccomp:\t0\nmounted\nrw\n"), "{}: {outcome:?}", lab.name());
        assert!(!outcome.stdout.contains("00000000a80425fb"), "{outcome:?}");
    });
}

#[test]
fn directories_below_dev_are_made() {
    each(|lab| {
        let source = lab.fresh("pipes");
        fs::write(source.join("EOF"), "script\n").unwrap();
        let mut spec = lab.shell("cat /dev/pipes/EOF");
        let kind = MountKind::Bind { source, access: Access::ReadOnly, recursive: false };
        spec.mounts.push(Mount::new("dev/pipes", kind));
        lab.check_spec(&spec, "script\n");
    });
}

#[test]
fn memory_and_throw_away_mounts() {
    each(|lab| {
        let (lower, upper, work) = (lab.fresh("l"), lab.fresh("u"), lab.fresh("w"));
        fs::write(lower.join("f"), "below\n").unwrap();
        let mut spec = lab.shell("cat /mnt/b/f; echo x > /mnt/b/f; rm -r /mnt/b/f; ls /mnt/b; stat -c %a /mnt/a; (head -c 100000 /dev/zero > /mnt/a/x) 2>/dev/null || echo small");
        spec.mounts.push(Mount::new("mnt/a", MountKind::Tmpfs { size: Some(65536), mode: 0o1770 }));
        spec.mounts.push(Mount::new("mnt/b", overlay(lower.clone(), upper, work, "", Access::ReadWrite)));
        lab.check_spec(&spec, "below\n1770\nsmall\n");
        assert_eq!(fs::read_to_string(lower.join("f")).unwrap(), "below\n");
    });
}

#[test]
fn mount_targets_cannot_lead_outside() {
    each(|lab| {
        let outside = lab.fresh("outside");
        fs::create_dir(outside.join("d")).unwrap();
        let lower = lab.path("lower");
        let up = "../".repeat(20);
        let _ = symlink(&outside, lower.join("absolute"));
        let _ = symlink(format!("{up}{}", outside.display()), lower.join("relative"));
        let _ = symlink("/proc/self/root", lower.join("magic"));
        let _ = symlink(format!("{up}mnt/a"), lower.join("inside"));
        for (target, expect) in
            [("absolute/d", false), ("relative/d", false), ("magic/mnt/a", false), ("inside", true)]
        {
            let mut spec = lab.shell("touch /mnt/a/x");
            spec.mounts.push(Mount::new(target, MountKind::Tmpfs { size: None, mode: 0o755 }));
            let outcome = lab.run(&spec);
            match outcome.result {
                Ok(exit) => assert!(expect && exit == Exit::Code(0), "{target}: {exit:?}"),
                Err(RunError::Operation { .. }) => assert!(!expect, "{target}: {:?}", outcome.stderr),
                Err(error) => panic!("{target}: {error}"),
            }
            assert_eq!(fs::read_dir(outside.join("d")).unwrap().count(), 0);
            // What was written under a mount does not reach the layer.
            assert_eq!(fs::read_dir(outcome.upper.join("mnt/a")).map_or(0, Iterator::count), 0, "{target}");
        }
    });
}

#[test]
fn a_chroot_cannot_leave_the_root() {
    each(|lab| {
        let script = "mkdir /jail; cp /bin/busybox /jail; chroot /jail /busybox sh -c 'cd /; for i in 1 2 3 4 5 6; do cd ..; done; /busybox ls -d /etc /scratch' 2>/dev/null; cd /; cd ../../..; ls -d /proc/self/root/lower* upper-* 2>/dev/null; ls -a / | wc -l";
        let outcome = lab.run(&lab.shell(script));
        assert!(!outcome.stdout.contains("upper-") && !outcome.stdout.contains("scratch"), "{outcome:?}");
    });
}

#[test]
fn many_layers() {
    each(|lab| {
        let mut layers: Vec<PathBuf> = (0..150).map(|_| lab.fresh("layer")).collect();
        for (index, layer) in layers.iter().enumerate() {
            fs::write(layer.join("top"), format!("{index}\n")).unwrap();
            fs::write(layer.join(format!("f{index}")), "").unwrap();
        }
        layers.insert(0, lab.path("lower"));
        let mut spec = lab.shell("cat /top; ls /f* | wc -l");
        spec.rootfs = Rootfs::Overlay { lower: layers, upper: lab.fresh("upper"), work: lab.fresh("work") };
        lab.check_spec(&spec, "149\n150\n");
    });
}

/// fsconfig takes values of 255 bytes, mount(2) a page.
#[test]
fn long_names_of_directories() {
    each(|lab| {
        let lower = lab.path("l").join("x".repeat(200)).join("y".repeat(200));
        fs::create_dir_all(&lower).unwrap();
        fs::write(lower.join("long"), "x\n").unwrap();
        let mut spec = lab.shell("cat /long");
        spec.rootfs = Rootfs::Overlay {
            lower: vec![lab.path("lower"), lower],
            upper: lab.fresh("upper"),
            work: lab.fresh("work"),
        };
        lab.check_spec(&spec, "x\n");
    });
}

#[test]
fn odd_names_of_directories() {
    each(|lab| {
        let [lower, upper, work] = ["l:1,2", r"u\:,", "w,:x"].map(|name| {
            let path = lab.path(name);
            let _ = fs::create_dir(&path);
            path
        });
        let mut spec = lab.shell("echo x > /odd");
        spec.rootfs = Rootfs::Overlay { lower: vec![lab.path("lower"), lower], upper: upper.clone(), work };
        lab.check_spec(&spec, "");
        assert_eq!(fs::read_to_string(upper.join("odd")).unwrap(), "x\n");
    });
}

#[test]
fn replaced_directories_are_opaque() {
    each(|lab| {
        let outcome = lab.run(&lab.shell("rm -r /home && mkdir /home && touch /home/x && rm /etc/hosts"));
        assert!(matches!(outcome.result, Ok(Exit::Code(0))), "{outcome:?}");
        let mut value = [0u8; 8];
        let length =
            rustix::fs::getxattr(outcome.upper.join("home"), "user.overlay.opaque", &mut value).unwrap();
        assert_eq!(&value[..length], b"y");
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let whiteout = fs::symlink_metadata(outcome.upper.join("etc/hosts")).unwrap();
        assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    });
}

#[test]
fn plain_directories() {
    each(|lab| {
        let mut spec = lab.shell("echo x > /tmp/plain");
        spec.rootfs = Rootfs::Directory(lab.path("lower"));
        lab.check_spec(&spec, "");
        assert_eq!(fs::read_to_string(lab.path("lower/tmp/plain")).unwrap(), "x\n");
    });
}

#[test]
fn networks() {
    each(|lab| {
        let links = "awk 'NR > 2 {print $1}' /proc/net/dev";
        let mut spec = lab.shell(&format!(
            "{links}; ip -o link show dev lo | grep -c UP; ping -c 1 -w 5 127.0.0.1 > /dev/null && echo ok"
        ));
        spec.process.network = Network::None;
        let outcome = lab.run(&spec);
        match outcome.result {
            Err(error) => {
                assert!(
                    error.to_string().contains("CAP_NET_ADMIN") || error.to_string().contains("network"),
                    "{error}"
                );
                eprintln!("skipped: {}: {error}", lab.name());
            }
            Ok(_) => assert_eq!(outcome.stdout, "lo:\n1\nok\n", "{outcome:?}"),
        }
        let host = fs::read_to_string("/proc/net/dev").unwrap().lines().count();
        lab.check(&format!("{links} | wc -l"), &format!("{}\n", host - 2));
    });
}
