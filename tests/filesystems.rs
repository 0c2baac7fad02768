//! The same image, whatever file system the store is on, whoever builds, and however a rootfs is kept.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::{Mounted, Run, World, can_run, have, skipped, works};

/// Mounts a new file system of a kind at a path; `None` where this machine has none, or lets nothing be mounted.
fn mount(world: &World, kind: &str, at: &Path) -> Option<Mounted> {
    std::fs::create_dir(at).expect("a folder");
    let at = at.display();
    if kind == "tmpfs" {
        return Mounted::new(&format!("mount -t tmpfs -o size=400m,mode=755 tmpfs {at}"));
    }
    let image = world.path(&format!("{kind}.image"));
    std::fs::File::create(&image).and_then(|file| file.set_len(400 << 20)).expect("a sparse file");
    let image = image.display();
    Mounted::new(&format!("mkfs.{kind} -q {image} && mount -o loop {image} {at} && chmod 755 {at}"))
}

fn build(world: &World, mounted: &Mounted, at: &Path, (isolation, user): (&str, u32)) -> Vec<u8> {
    let home = at.join(isolation);
    std::fs::create_dir(mounted.path(&home)).expect("a folder");
    std::os::unix::fs::chown(mounted.path(&home), Some(user), Some(user))
        .expect("root may give folders away");
    let archive = home.join("image.tar");
    let mut command = mounted.command(user, world.path("rbuild"));
    command.env("HOME", &home).env("RBUILD_ROOT", home.join("store")).env("SOURCE_DATE_EPOCH", "1700000000");
    command.arg("--output").arg(format!("type=oci,dest={},rewrite-timestamp=true", archive.display()));
    let busybox = world.busybox().expect("it was there");
    command
        .args(["--network", "none", "--isolation", isolation, "--build-context", &busybox])
        .arg(world.context());
    let run = Run::of(command.output().expect("rbuild starts"));
    assert_eq!(run.code, 0, "{isolation} on {}: {}", at.display(), run.stderr);
    std::fs::read(mounted.path(&archive)).expect("the archive")
}

#[test]
fn digests_do_not_depend_on_the_file_system() {
    let world = World::new();
    if !can_run(&world) || !have("nsenter") {
        return;
    }
    std::fs::set_permissions(world.path("."), std::fs::Permissions::from_mode(0o755))
        .expect("our own folder");
    std::fs::copy(env!("CARGO_BIN_EXE_rbuild"), world.path("rbuild")).expect("where anybody may run it");
    for name in ["b", "a/z", "a/b/c", "ä", "a.txt"] {
        world.file(&format!("files/{name}"), name);
    }
    world.dockerfile(
        "FROM busybox\nCOPY files /files/\n\
         RUN for n in $(seq 300); do echo $n > /tmp/f$n; done; ln /tmp/f1 /tmp/g1; ln -s f2 /tmp/s; mkfifo /tmp/p; mkdir -m 1777 /d; chown 5:6 /tmp/f3; chmod 4711 /tmp/f4\n\
         RUN rm /tmp/f1?? /files/b && mv /files/a.txt /d && rm -r /home && mkdir /home && dd if=/dev/zero of=/holes bs=1 count=1 seek=3000000\n\
         COPY --from=busybox /bin /more/\n",
    );
    let mut images: Vec<(String, Vec<u8>)> = Vec::new();
    for kind in ["ext4", "xfs", "btrfs", "tmpfs"] {
        let at = world.path(kind);
        let Some(mounted) = mount(&world, kind, &at) else {
            skipped(&format!("no {kind} can be mounted here (Debian: e2fsprogs, xfsprogs, btrfs-progs)"));
            continue;
        };
        for form in [("namespaces", 0), ("chroot", 0), ("userns-single", 1000)] {
            if works(&world, form.0) {
                images.push((format!("{kind}, {}", form.0), build(&world, &mounted, &at, form)));
            }
        }
    }
    for pair in images.windows(2) {
        assert!(pair[0].1 == pair[1].1, "{} and {} differ", pair[0].0, pair[1].0);
    }
}
