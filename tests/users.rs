//! Builds of a user without privileges: the images are those that root builds.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::support::{World, is_root, skipped};

/// Whoever is not root.
const SOMEBODY: u32 = 1000;

/// A rootfs of what only root can make, or read afterwards.
fn rootfs() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, mode: u32, owner: (u64, u64), link: Option<&str>| {
        let mut header = tar::Header::new_ustar();
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_600_000_000);
        let content = if kind == tar::EntryType::Regular { path.as_bytes() } else { b"" };
        header.set_size(content.len() as u64);
        if matches!(kind, tar::EntryType::Char | tar::EntryType::Block) {
            header.set_device_major(1).expect("ustar has room");
            header.set_device_minor(3).expect("ustar has room");
        }
        match link {
            Some(link) => tar.append_link(&mut header, path, link).expect("in memory"),
            None => tar.append_data(&mut header, path, content).expect("in memory"),
        }
    };
    add("etc/", tar::EntryType::Directory, 0o755, (0, 0), None);
    add("etc/shadow", tar::EntryType::Regular, 0o000, (0, 42), None);
    add("bin/", tar::EntryType::Directory, 0o2555, (0, 0), None);
    add("bin/su", tar::EntryType::Regular, 0o4111, (0, 0), None);
    add("bin/link", tar::EntryType::Link, 0o644, (0, 0), Some("bin/su"));
    add("closed/", tar::EntryType::Directory, 0o000, (33, 33), None);
    add("closed/file", tar::EntryType::Regular, 0o200, (33, 0), None);
    add("listed/", tar::EntryType::Directory, 0o644, (33, 33), None);
    add("listed/in/", tar::EntryType::Directory, 0o300, (4_000_000, 5), None);
    add("listed/in/link", tar::EntryType::Symlink, 0o777, (7, 8), Some("../nowhere"));
    add("dev/", tar::EntryType::Directory, 0o755, (0, 0), None);
    add("dev/null", tar::EntryType::Char, 0o666, (0, 6), None);
    add("dev/disk", tar::EntryType::Block, 0o000, (0, 6), None);
    add("dev/pipe", tar::EntryType::Fifo, 0o620, (9, 10), None);
    add("tmp/", tar::EntryType::Directory, 0o1777, (0, 0), None);
    let capability: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let attributes = [("SCHILY.xattr.security.capability", capability), ("SCHILY.xattr.user.note", b"kept")];
    let forged =
        [("SCHILY.xattr.user.rbuild.owner", b"5:5".as_slice()), ("SCHILY.xattr.user.rbuild.mode", b"0")];
    for (path, extensions) in [("bin/ping", attributes), ("bin/forged", forged)] {
        tar.append_pax_extensions(extensions).expect("in memory");
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o755);
        header.set_size(0);
        header.set_mtime(1_600_000_000);
        tar.append_data(&mut header, path, &b""[..]).expect("in memory");
    }
    tar.into_inner().expect("in memory")
}

/// Whether somebody else than root may have a user namespace; says so where not.
fn somebody_has_namespaces() -> bool {
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_rbuild"));
    let home = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::chown(home.path(), Some(SOMEBODY), Some(SOMEBODY))
        .expect("root may give folders away");
    let program = home.path().join("rbuild");
    std::fs::copy(doctor.get_program(), &program).expect("the program, where anybody may run it");
    doctor = Command::new(program);
    doctor.env_clear().env("RBUILD_ROOT", home.path().join("store")).args([
        "doctor",
        "--isolation",
        "userns-single",
    ]);
    let works = doctor.uid(SOMEBODY).gid(SOMEBODY).output().expect("rbuild starts").status.success();
    if !works {
        skipped("the isolation userns-single does not work here for users without privileges");
    }
    works
}

/// Builds the context as root and as somebody else, in stores of their own, and returns both archives.
fn both(world: &World, args: &[&str]) -> [Vec<u8>; 2] {
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(world.path("."), open).expect("our own folder");
    let program = world.path("rbuild");
    std::fs::copy(env!("CARGO_BIN_EXE_rbuild"), &program).expect("the program, where anybody may run it");
    [0, SOMEBODY].map(|user| {
        let home = world.path(&user.to_string());
        std::fs::create_dir(&home).expect("a folder of the user's");
        std::os::unix::fs::chown(&home, Some(user), Some(user)).expect("root may give folders away");
        let archive = home.join("image.tar");
        let mut command = Command::new(&program);
        command.env_clear().env("HOME", &home).env("RBUILD_ROOT", home.join("store"));
        command.env("SOURCE_DATE_EPOCH", "1700000000").current_dir(world.context());
        command.arg("--output").arg(format!("type=oci,dest={},rewrite-timestamp=true", archive.display()));
        command.args(args).arg(".").uid(user).gid(user);
        let output = command.output().expect("rbuild starts");
        assert!(output.status.success(), "as {user}: {}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(archive).expect("the archive")
    })
}

#[test]
fn layers_are_roots() {
    if !is_root("only root can be somebody else") {
        return;
    }
    let world = World::new();
    world.file("rootfs.tar", rootfs());
    world.file("passwd", "app:x:33:34::/:/bin/sh\n");
    world.dockerfile(
        "FROM scratch AS base\nADD rootfs.tar /\nCOPY passwd /etc/\n\
         FROM base AS made\nCOPY --chown=app --chmod=644 passwd /listed/in/\nWORKDIR /closed/made\n\
         FROM base\nCOPY --from=made / /all/\nCOPY --from=made --chown=app /listed /bin/ping /own/\nUSER app\nWORKDIR /home/app\n",
    );
    let [root, somebody] = both(&world, &[]);
    assert!(root == somebody, "the images differ");
}

#[test]
fn steps_leave_what_roots_leave() {
    let world = World::new();
    let Some(busybox) = world.busybox() else {
        return skipped("no statically linked /bin/busybox (Debian: busybox-static)");
    };
    if !is_root("only root can be somebody else") || !somebody_has_namespaces() {
        return;
    }
    world.dockerfile(
        "FROM busybox\nRUN mkdir -p /a/b /c && echo x > /a/f && chown 33:34 /a/f && chmod 4710 /a/f && ln -s f /a/l && chown -h 5:6 /a/l \\\n\
         && mknod /c/null c 1 3 && mkfifo /c/p && chown 7:8 /c/p && chmod 000 /etc/passwd && chmod 644 /a && chmod 111 /c\n\
         RUN test \"$(stat -c %u:%g /a/f /a/l /c/p)\" = \"$(printf '33:34\\n5:6\\n7:8')\" && rm -r /a/b && cat /etc/passwd\n",
    );
    let [root, somebody] = both(&world, &["--network", "none", "--build-context", &busybox]);
    assert!(root == somebody, "the images differ");
}
