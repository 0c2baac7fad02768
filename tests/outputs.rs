//! Where an image goes: layouts, archives, folders, the store.

use crate::support::{Image, World, have, is_root, tool};

const DOCKERFILE: &str = "FROM scratch\nCOPY data /dir/data\nCMD [\"/dir/data\"]\n";

fn world() -> World {
    let world = World::new();
    world.file("data", "content");
    world.dockerfile(DOCKERFILE);
    world
}

#[test]
fn oci_layout_and_archive_hold_the_same_image() {
    let world = world();
    let layout = world.build_layout("out", &[]);
    let archive = world.path("out.tar");
    world.rbuild(&["-o", &format!("type=oci,dest={},name=app:1", archive.display()), "."]).success();
    let unpacked = world.path("unpacked");
    tar::Archive::new(std::fs::File::open(&archive).expect("an archive")).unpack(&unpacked).expect("a tar");
    let image = Image::open(&unpacked);
    assert_eq!(image.manifest["layers"], layout.manifest["layers"]);
    if have("skopeo") {
        let inspected =
            tool("skopeo", &["inspect", "--config", &format!("oci-archive:{}", archive.display())]);
        assert!(inspected.contains("/dir/data"), "{inspected}");
    }
}

#[test]
fn docker_archive_is_read_by_others() {
    let world = world();
    let archive = world.path("docker.tar");
    world
        .rbuild(&["-o", &format!("type=docker,dest={},name=example.com/app:1", archive.display()), "."])
        .success();
    if have("skopeo") {
        let inspected = tool("skopeo", &["inspect", &format!("docker-archive:{}", archive.display())]);
        assert!(inspected.contains("\"Layers\""), "{inspected}");
        let copied = world.path("copied");
        tool(
            "skopeo",
            &[
                "copy",
                "-q",
                &format!("docker-archive:{}", archive.display()),
                &format!("oci:{}:x", copied.display()),
            ],
        );
        let image = Image::open(&copied);
        assert_eq!(image.config["config"]["Cmd"], serde_json::json!(["/dir/data"]));
    }
}

#[test]
fn a_folder_and_a_tar_hold_the_tree() {
    if !is_root("unpacking an image needs root until owners are recorded") {
        return;
    }
    let world = world();
    let folder = world.path("tree");
    world.rbuild(&["-o", folder.to_str().expect("UTF-8"), "."]).success();
    assert_eq!(std::fs::read_to_string(folder.join("dir/data")).expect("the file"), "content");
    let archive = world.path("tree.tar");
    world.rbuild(&["-o", &format!("type=tar,dest={}", archive.display()), "."]).success();
    let mut tar = tar::Archive::new(std::fs::File::open(&archive).expect("an archive"));
    let names: Vec<_> = tar
        .entries()
        .expect("a tar")
        .map(|e| e.expect("an entry").path().expect("a path").display().to_string())
        .collect();
    assert!(names.iter().any(|name| name == "dir/data"), "{names:?}");
}

#[test]
fn several_outputs_at_once() {
    let world = world();
    let (one, two) = (world.path("one"), world.path("two.tar"));
    world
        .rbuild(&[
            "-o",
            &format!("type=oci,tar=false,dest={}", one.display()),
            "-o",
            &format!("type=oci,dest={}", two.display()),
            ".",
        ])
        .success();
    assert!(one.join("index.json").exists() && two.exists());
}

#[test]
fn a_bare_name_stays_in_the_store_and_the_store_is_a_layout() {
    let world = world();
    let run = world.rbuild(&["-t", "app:1", "--progress", "plain", "."]).success();
    assert!(run.stderr.contains("app:1"), "{}", run.stderr);
    let listed = world.rbuild(&["images"]).success();
    assert!(listed.stdout.contains("app"), "{}", listed.stdout);
    let inspected = world.rbuild(&["inspect", "app:1"]).success();
    assert!(inspected.stdout.contains("/dir/data"), "{}", inspected.stdout);
    if have("skopeo") {
        tool("skopeo", &["inspect", "--raw", &format!("oci:{}:1", world.store().display())]);
    }
}

#[test]
fn quiet_prints_the_digest_and_files_hold_it_too() {
    let world = world();
    let (iid, metadata) = (world.path("iid"), world.path("metadata.json"));
    let files =
        ["--iidfile", iid.to_str().expect("UTF-8"), "--metadata-file", metadata.to_str().expect("UTF-8")];
    let output = format!("type=oci,tar=false,dest={}", world.path("out").display());
    let mut args = vec!["-q", "--output", &output];
    args.extend(files);
    args.push(".");
    let run = world.rbuild(&args).success();
    let image = Image::open(&world.path("out"));
    assert_eq!(run.stdout.trim(), image.digest);
    assert_eq!(run.stderr, "");
    let metadata: serde_json::Value =
        serde_json::from_slice(&std::fs::read(metadata).expect("metadata")).expect("JSON");
    assert_eq!(metadata["containerimage.digest"], serde_json::json!(image.digest));
    assert_eq!(metadata["containerimage.config.digest"], image.manifest["config"]["digest"]);
    assert!(std::fs::read_to_string(iid).expect("iid").starts_with("sha256:"));
}

#[test]
fn umoci_unpacks_what_we_write() {
    let world = world();
    world.build_layout("out", &[]);
    if !have("umoci") || !is_root("umoci unpacks as root only") {
        return;
    }
    let output = format!("type=oci,tar=false,dest={},name=app:v1", world.path("tagged").display());
    world.rbuild(&["-o", &output, "."]).success();
    let bundle = world.path("bundle");
    tool(
        "umoci",
        &[
            "raw",
            "unpack",
            "--image",
            &format!("{}:v1", world.path("tagged").display()),
            bundle.to_str().expect("UTF-8"),
        ],
    );
    assert_eq!(std::fs::read_to_string(bundle.join("dir/data")).expect("the file"), "content");
}

#[test]
fn force_compression_converts_the_layers_of_the_base() {
    let world = world();
    world.build_layout("base", &[]);
    world.file("more", "more");
    world.dockerfile("FROM base\nCOPY more /more\n");
    let context = format!("base=oci-layout://{}", world.path("base").display());
    let build = |name: &str, attributes: &str| {
        let dest = world.path(name);
        let output = format!("type=oci,tar=false,dest={},{attributes}", dest.display());
        world.rbuild(&["--build-context", &context, "--output", &output, "."]).success();
        Image::open(&dest)
    };
    let types = |image: &Image| -> Vec<String> {
        let layers = image.manifest["layers"].as_array().expect("a list").iter();
        layers.map(|layer| layer["mediaType"].as_str().expect("a text").replace(LAYER, "")).collect()
    };
    let kept = build("kept", "compression=zstd");
    assert_eq!(types(&kept), ["gzip", "zstd"]);
    let forced = build("forced", "compression=zstd,force-compression=true");
    assert_eq!(types(&forced), ["zstd", "zstd"]);
    assert_eq!(forced.manifest["config"], kept.manifest["config"]);
    assert_eq!(forced.layers(), 2);
    let back = build("back", "compression=gzip,force-compression=true");
    assert_eq!(back.manifest["layers"][0], kept.manifest["layers"][0]);
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+";
