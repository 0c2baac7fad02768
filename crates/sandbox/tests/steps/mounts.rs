//! What a step sees of the machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use rbuild_sandbox::{Access, Exit, Mount, MountKind, Network, Rootfs, RunError};

use crate::support::each;

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
            "core\nfd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n",
        );
        lab.check(
            "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c",
            "3\n3\n",
        );
        lab.check(
            "(echo x > /dev/full) 2>/dev/null || echo full; touch /dev/shm/x && ls /dev/shm",
            "full\nx\n",
        );
        lab.check("stat -c %a /dev /dev/shm /dev/null /dev/pts", "755\n1777\n666\n755\n");
        lab.check("mknod /x c 1 3 2>/dev/null; test -c /dev/null && echo x > /dev/null && echo ok", "ok\n");
    });
}

/// The node of a disk, made by the step or brought by an image, opens nothing.
#[test]
fn devices_of_the_host_stay_closed() {
    each(|lab| {
        lab.check(
            "for kind in b c; do mknod /x $kind 8 0 2>/dev/null && echo made $kind; done; echo done",
            "done\n",
        );
        lab.check(
            "mknod /null c 1 3 2>/dev/null; (: < /null) 2>/dev/null && echo opened; echo done",
            "done\n",
        );
    });
}

#[test]
fn a_mount_on_shm_takes_the_place_of_the_default() {
    each(|lab| {
        let mut spec =
            lab.shell("awk '$2 == \"/dev/shm\" {sub(/,inode64/, \"\", $4); print $3, $4}' /proc/mounts");
        let kind = MountKind::Tmpfs { size: Some(1 << 27), mode: 0o1777 };
        spec.mounts.push(Mount::new("dev/shm", kind));
        lab.check_spec(&spec, "tmpfs rw,nosuid,relatime,size=131072k\n");
    });
}

#[test]
fn pseudo_terminals() {
    each(|lab| {
        lab.check("exec 3<>/dev/ptmx; ls /dev/pts; stat -c %g /dev/pts/0", "0\nptmx\n5\n");
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
        spec.mounts.push(Mount::new("mnt/b", MountKind::Overlay { lower: vec![lower.clone()], upper, work }));
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
