//! The same inputs give the same bytes.

use crate::support::{World, can_run};

#[test]
fn two_builds_from_nothing_have_one_digest() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    world.file("a", "a");
    world.dockerfile("FROM busybox\nCOPY a /a\nRUN date > /date-is-not-compared; rm /date-is-not-compared; echo made > /made; mkdir -p /x/y\nWORKDIR /w\n");
    let build = |name: &str| {
        let archive = world.path(name);
        let output = format!("type=oci,dest={},rewrite-timestamp=true", archive.display());
        let busybox = world.busybox().expect("checked");
        let mut command = world.command();
        command
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .env("RBUILD_ROOT", world.path(&format!("{name}.store")));
        command.args([
            "--no-cache",
            "--network",
            "none",
            "--build-context",
            &busybox,
            "--output",
            &output,
            ".",
        ]);
        let output = command.output().expect("rbuild starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(archive).expect("the archive")
    };
    let first = build("one.tar");
    std::thread::sleep(std::time::Duration::from_millis(1100)); // times of files differ by a second now
    world.file("a", "a");
    assert!(first == build("two.tar"), "the archives differ");
}
