//! What a Dockerfile becomes: config, history and layers.

use crate::support::World;
use serde_json::json;

#[test]
fn copy_onto_scratch() {
    let world = World::new();
    world.file("app", "binary");
    world.file("conf/a.txt", "a");
    world.file("secret.txt", "not in the image");
    world.file(".dockerignore", "secret.txt\n");
    world.dockerfile(
        "FROM scratch\nCOPY --chmod=0755 app /bin/app\nCOPY . /src/\nENTRYPOINT [\"/bin/app\"]\n",
    );
    let image = world.build_layout("out", &[]);
    assert_eq!(image.layers(), 2);
    assert_eq!(image.paths(0), ["bin", "bin/app"]);
    let app = image.entry(0, "bin/app");
    assert_eq!((app.mode, app.owner, app.content.as_str()), (0o755, (0, 0), "binary"));
    let copied = image.paths(1);
    assert!(copied.contains(&"src/conf/a.txt".to_owned()), "{copied:?}");
    assert!(!copied.contains(&"src/secret.txt".to_owned()), "{copied:?}");
    assert_eq!(image.config["config"]["Entrypoint"], json!(["/bin/app"]));
    assert_eq!(image.config["config"]["WorkingDir"], "/");
    assert_eq!(image.config["history"][0]["created_by"], "COPY --chmod=0755 app /bin/app # buildkit");
}

#[test]
fn config_instructions_make_no_layers() {
    let world = World::new();
    world.dockerfile(
        "FROM scratch\nARG VERSION=1\nENV A=1 B=\"two words\"\nLABEL version=$VERSION\nEXPOSE 80 53/udp\nUSER 1000:1000\n\
         WORKDIR /\nVOLUME /data\nSTOPSIGNAL SIGTERM\nHEALTHCHECK --interval=5s CMD true\nCMD [\"x\"]\n",
    );
    let image = world.build_layout("out", &["--build-arg", "VERSION=2", "--label", "extra=yes"]);
    assert_eq!(image.layers(), 0);
    let config = &image.config["config"];
    assert_eq!(config["Labels"], json!({"version": "2", "extra": "yes"}));
    assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}, "53/udp": {}}));
    assert_eq!(config["User"], "1000:1000");
    assert_eq!(config["Volumes"], json!({"/data": {}}));
    assert_eq!(config["StopSignal"], "SIGTERM");
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD-SHELL", "true"]));
    assert!(config["Env"].as_array().expect("a list").contains(&json!("B=two words")), "{config}");
}

#[test]
fn the_base_config_keeps_what_it_says() {
    let world = World::new();
    world.dockerfile("FROM busybox\nENV MORE=1\n");
    if world.busybox().is_none() {
        return crate::support::skipped("no statically linked /bin/busybox (Debian: busybox-static)");
    }
    let image = world.build_layout("out", &[]);
    assert_eq!(image.layers(), 1);
    assert_eq!(image.config["x-unknown"], json!({"kept": true}));
    assert_eq!(image.config["config"]["Cmd"], json!(["sh"]));
    assert_eq!(image.config["history"][0]["created_by"], "busybox");
}

#[test]
fn only_what_the_target_needs_is_built() {
    let world = World::new();
    world.file("a", "a");
    world.dockerfile(
        "FROM nowhere.invalid/base AS unused\nRUN false\nFROM scratch AS one\nCOPY a /one\nFROM scratch AS two\nCOPY --from=one /one /two\n\
         FROM scratch\nCOPY missing /\n",
    );
    if !crate::support::is_root("reading another stage needs root until owners are recorded") {
        return;
    }
    let image = world.build_layout("out", &["--target", "two"]);
    assert_eq!(image.paths(0), ["two"]);
}

#[test]
fn an_archive_is_unpacked_by_add_and_not_by_copy() {
    let world = World::new();
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut header = tar::Header::new_ustar();
    header.set_size(5);
    header.set_mode(0o640);
    header.set_uid(7);
    tar.append_data(&mut header, "inner/file", &b"hello"[..]).expect("in memory");
    world.file("bundle", tar.into_inner().and_then(flate2::write::GzEncoder::finish).expect("in memory"));
    world.dockerfile("FROM scratch\nADD bundle /unpacked/\nCOPY bundle /packed/\n");
    let image = world.build_layout("out", &[]);
    let file = image.entry(0, "unpacked/inner/file");
    assert_eq!((file.mode, file.owner.0, file.content.as_str()), (0o640, 7, "hello"));
    assert_eq!(image.paths(1), ["packed", "packed/bundle"]);
}

#[test]
fn a_heredoc_becomes_a_file() {
    let world = World::new();
    world.dockerfile(
        "FROM scratch\nARG NAME=world\nCOPY <<one <<'two' /etc/\nhello $NAME\none\nraw $NAME\ntwo\n",
    );
    let image = world.build_layout("out", &[]);
    assert_eq!(image.entry(0, "etc/one").content, "hello world\n");
    assert_eq!(image.entry(0, "etc/two").content, "raw $NAME\n");
}

#[test]
fn the_context_is_never_written_to() {
    let world = World::new();
    world.file("a/b", "b");
    world.dockerfile("FROM scratch\nCOPY . /\n");
    let listing = |world: &World| {
        let mut names: Vec<_> = walk(&world.context());
        names.sort();
        names
    };
    let before = listing(&world);
    world.build_layout("out", &[]);
    assert_eq!(listing(&world), before);
}

fn walk(dir: &std::path::Path) -> Vec<(std::path::PathBuf, std::time::SystemTime)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let entry = entry.expect("an entry");
        let metadata = entry.metadata().expect("metadata");
        found.push((entry.path(), metadata.modified().expect("a time")));
        if metadata.is_dir() {
            found.extend(walk(&entry.path()));
        }
    }
    found
}
