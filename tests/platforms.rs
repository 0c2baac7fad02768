//! Several platforms: one image each, an index over them, and what a foreign platform may do.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Image, Registry, Run, World, arm64, have, skipped, tool};

const BOTH: &str = "linux/amd64,linux/arm64";

/// Reads a blob of a layout as JSON.
fn document(layout: &Path, digest: &Value) -> Value {
    let digest = digest.as_str().expect("a digest");
    let path = layout.join("blobs").join(digest.replace(':', "/"));
    serde_json::from_slice(&std::fs::read(path).expect("a blob")).expect("JSON")
}

/// Builds the context into an OCI layout and returns the index in it.
fn build_index(world: &World, name: &str, args: &[&str]) -> (PathBuf, Value) {
    let layout = world.path(name);
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let mut all = vec!["--platform", BOTH, "--output", &output, "--progress", "plain"];
    all.extend(args);
    all.push(".");
    world.rbuild(&all).success();
    let listed: Value =
        serde_json::from_slice(&std::fs::read(layout.join("index.json")).expect("index.json")).expect("JSON");
    assert_eq!(listed["manifests"].as_array().map(Vec::len), Some(1), "the index is the one entry: {listed}");
    let index = document(&layout, &listed["manifests"][0]["digest"]);
    (layout, index)
}

/// The config of the manifest at `place` of an index.
fn config(layout: &Path, index: &Value, place: usize) -> Value {
    let manifest = document(layout, &index["manifests"][place]["digest"]);
    document(layout, &manifest["config"]["digest"])
}

#[test]
fn an_index_lists_an_image_for_each_platform_in_the_order_asked() {
    let world = World::new();
    world.file("a", "a");
    world.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY a /$TARGETARCH\n");
    let annotations = ["--annotation", "index:of=index", "--annotation", "manifest[linux/arm64]:of=arm"];
    let (layout, index) = build_index(&world, "out", &annotations);
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(index["annotations"], json!({"of": "index"}));
    let platforms: Vec<_> = index["manifests"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["platform"].clone())
        .collect();
    assert_eq!(
        platforms,
        [json!({"architecture": "amd64", "os": "linux"}), json!({"architecture": "arm64", "os": "linux"})]
    );
    for (place, architecture) in ["amd64", "arm64"].into_iter().enumerate() {
        assert_eq!(index["manifests"][place]["mediaType"], "application/vnd.oci.image.manifest.v1+json");
        let config = config(&layout, &index, place);
        assert_eq!(config["architecture"], architecture);
        assert!(config.to_string().contains(&format!("COPY a /{architecture}")), "{config}");
    }
    let arm = document(&layout, &index["manifests"][1]["digest"]);
    assert_eq!(arm["annotations"], json!({"of": "arm"}));
    if have("skopeo") {
        let raw = tool("skopeo", &["inspect", "--raw", &format!("oci:{}", layout.display())]);
        assert_eq!(serde_json::from_str::<Value>(&raw).expect("JSON"), index);
        let arm = format!("oci:{}", layout.display());
        let inspected = tool("skopeo", &["--override-arch", "arm64", "inspect", "--config", &arm]);
        assert!(inspected.contains("/arm64"), "{inspected}");
    }
}

#[test]
fn bases_are_chosen_by_platform_from_an_index() {
    let world = World::new();
    world.dockerfile("FROM scratch\nARG TARGETARCH\nLABEL base=$TARGETARCH\nCOPY Dockerfile /base\n");
    let (base, _) = build_index(&world, "base", &[]);
    let context = format!("base=oci-layout://{}", base.display());
    world.dockerfile("FROM base\nCOPY Dockerfile /above\n");
    let (layout, index) = build_index(&world, "out", &["--build-context", &context]);
    for (place, architecture) in ["amd64", "arm64"].into_iter().enumerate() {
        let config = config(&layout, &index, place);
        assert_eq!(config["config"]["Labels"]["base"], architecture);
        assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(2));
    }
    // One foreign platform alone is an image, not an index.
    let output = format!("type=oci,tar=false,dest={}", world.path("one").display());
    let args = ["--platform", "linux/arm64", "--build-context", &context, "--output", &output, "."];
    world.rbuild(&args).success();
    assert_eq!(Image::open(&world.path("one")).config["config"]["Labels"]["base"], "arm64");
    let missing = ["--platform", "linux/s390x", "--build-context", &context, "--output", &output, "."];
    world.rbuild(&missing).exits(1).says("linux/s390x");
}

#[test]
fn steps_that_platforms_share_run_once() {
    let world = World::new();
    world.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /base\n");
    let (base, _) = build_index(&world, "base", &[]);
    let context = format!("base=oci-layout://{}", base.display());
    world.file("a", "a");
    world.dockerfile(
        "FROM --platform=$BUILDPLATFORM base AS shared\nCOPY a /shared\n\
         FROM --platform=$BUILDPLATFORM base AS cross\nCOPY a /common\nARG TARGETARCH\nCOPY a /$TARGETARCH\n\
         FROM scratch\nCOPY --from=shared /shared /\nCOPY --from=cross /common /\n",
    );
    let output = format!("type=oci,tar=false,dest={}", world.path("out").display());
    let args = [
        "--no-cache",
        "--platform",
        BOTH,
        "--build-context",
        &context,
        "--output",
        &output,
        "--progress",
        "rawjson",
        ".",
    ];
    let run = world.rbuild(&args).success();
    let events: Vec<Value> = run
        .stderr
        .lines()
        .chain(run.stdout.lines())
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
    let executed = of("step-finished").iter().filter(|event| event["cached"] == false).count();
    // shared: 1; cross: /common once, /amd64, /arm64; the results: two steps that both platforms share by content.
    assert_eq!(executed, 1 + 3 + 2, "{events:#?}");
    let shared = of("step-started").iter().filter(|event| event["display"] == "COPY a /shared").count();
    assert_eq!(shared, 1, "a stage that says the same is planned once");
}

#[test]
fn outputs_of_an_index() {
    let world = World::new();
    world.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n");
    let path = |name: &str| world.path(name).display().to_string();
    let (tree, tar, oci) = (path("tree"), path("tree.tar"), path("image.tar"));
    let (metadata, iid) = (path("metadata.json"), path("iid"));
    let outputs = [
        format!("type=local,dest={tree}"),
        format!("type=tar,dest={tar}"),
        format!("type=oci,dest={oci},name=app:1"),
    ];
    let mut args = vec!["--platform", BOTH, "--metadata-file", &metadata, "--iidfile", &iid];
    args.extend(outputs.iter().flat_map(|output| ["--output", output.as_str()]));
    args.push(".");
    world.rbuild(&args).success();
    assert!(world.path("tree/linux_amd64/amd64").exists() && world.path("tree/linux_arm64/arm64").exists());
    let names = |path: &str| -> Vec<String> {
        let mut archive = tar::Archive::new(std::fs::File::open(path).expect("an archive"));
        let entries = archive.entries().expect("a tar");
        let name = |entry: Result<tar::Entry<'_, _>, _>| {
            entry.expect("an entry").path().expect("a path").display().to_string()
        };
        entries.map(name).collect()
    };
    assert_eq!(names(&tar), ["linux_amd64/", "linux_amd64/amd64", "linux_arm64/", "linux_arm64/arm64"]);
    let unpacked = world.path("unpacked");
    tar::Archive::new(std::fs::File::open(&oci).expect("an archive")).unpack(&unpacked).expect("a tar");
    let listed = std::fs::read(unpacked.join("index.json")).expect("index.json");
    let listed: Value = serde_json::from_slice(&listed).expect("JSON");
    let entry = &listed["manifests"][0];
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "1");
    assert_eq!(document(&unpacked, &entry["digest"])["manifests"].as_array().map(Vec::len), Some(2));
    let metadata: Value = serde_json::from_slice(&std::fs::read(metadata).expect("metadata")).expect("JSON");
    assert_eq!(metadata["containerimage.digest"], entry["digest"]);
    assert_eq!(metadata["containerimage.descriptor"]["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(metadata.get("containerimage.config.digest"), None);
    assert_eq!(std::fs::read_to_string(iid).expect("iid"), entry["digest"].as_str().expect("a digest"));

    let docker = format!("type=docker,dest={}", path("docker.tar"));
    world.rbuild(&["--platform", BOTH, "--output", &docker, "."]).exits(2).says("type=docker");
    assert!(!world.path("docker.tar").exists());

    world.rbuild(&["--platform", BOTH, "-t", "app:1", "."]).success();
    world.rbuild(&["images"]).success();
    let inspected = world.rbuild(&["inspect", "--platform", "linux/arm64", "app:1"]).success();
    assert!(inspected.stdout.contains("arm64"), "{}", inspected.stdout);
}

#[test]
fn a_foreign_run_is_refused_before_any_step_where_nothing_emulates_it() {
    let world = World::new();
    world.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /base\n");
    let (base, _) = build_index(&world, "base", &[]);
    let context = format!("base=oci-layout://{}", base.display());
    let foreign = if cfg!(target_arch = "aarch64") { ("amd64", "x86_64") } else { ("arm64", "aarch64") };
    if std::path::Path::new("/proc/sys/fs/binfmt_misc").join(format!("qemu-{}", foreign.1)).exists() {
        skipped("this host emulates the foreign platform");
        return;
    }
    world.dockerfile("FROM base\nCOPY Dockerfile /x\nRUN true\n");
    let platform = format!("linux/{}", foreign.0);
    let args = ["--platform", &platform, "--build-context", &context, "--progress", "plain", "."];
    let run = world.rbuild(&args).exits(2).says("Dockerfile:3").says("qemu-user-static");
    assert!(!run.stderr.contains("COPY Dockerfile /x\n#"), "no step ran: {}", run.stderr);
}

/// Registers qemu as the kernel's handler for arm64, in namespaces of its own.
///
/// # References
/// <https://docs.kernel.org/admin-guide/binfmt-misc.html>; user namespaces have their own since Linux 6.7
const REGISTER: &str = r#"
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 77
printf '%s' ':qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:'"$1"':F' \
    > /proc/sys/fs/binfmt_misc/register || exit 77
shift
exec "$@"
"#;

#[test]
#[cfg(not(target_arch = "aarch64"))]
fn a_foreign_run_is_emulated_where_a_handler_is_registered() {
    let find = |name: &str| {
        std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.exists())
    };
    let Some(qemu) = find("qemu-aarch64-static") else { return skipped("no qemu-aarch64-static") };
    let world = World::new();
    world.file("hello", arm64::program());
    world.dockerfile("FROM scratch\nCOPY --chmod=755 hello /hello\nRUN [\"/hello\"]\n");
    let plain = world.command();
    let mut command = std::process::Command::new("unshare");
    command.args(["-Urmpf", "--mount-proc", "sh", "-c", REGISTER, "sh"]).arg(qemu).arg(plain.get_program());
    command.args(["--platform", "linux/arm64", "--progress", "plain", "-o", "type=cacheonly", "."]);
    command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let run = Run::of(command.current_dir(world.context()).output().expect("unshare starts"));
    if run.code == 77 || run.stderr.contains("unshare: unshare failed") {
        return skipped("binfmt_misc cannot be mounted in a user namespace");
    }
    assert!(run.success().stderr.contains(arm64::GREETING.trim_end()));
}

#[test]
fn a_pushed_index_is_read_by_others() {
    let world = World::new();
    let Some(registry) = Registry::open(&world.path("registry")) else {
        return skipped("no docker-registry");
    };
    world.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n");
    let (metadata, name) = (world.path("metadata.json"), registry.image("team/app:1"));
    let metadata_file = metadata.display().to_string();
    world.rbuild(&["--platform", BOTH, "--metadata-file", &metadata_file, "-t", &name, "."]).success();
    let metadata: Value = serde_json::from_slice(&std::fs::read(metadata).expect("metadata")).expect("JSON");
    if !have("skopeo") {
        return;
    }
    let remote = format!("docker://{name}");
    let inspect =
        |args: &[&str]| tool("skopeo", &[&["inspect", "--tls-verify=false"], args, &[&remote]].concat());
    let raw = inspect(&["--raw"]);
    let digest = metadata["containerimage.digest"].as_str().expect("a digest");
    let sum = world.path("index");
    std::fs::write(&sum, &raw).expect("a file");
    assert_eq!(tool("skopeo", &["manifest-digest", sum.to_str().expect("UTF-8")]).trim(), digest);
    let index: Value = serde_json::from_str(&raw).expect("JSON");
    for (entry, architecture) in index["manifests"].as_array().expect("a list").iter().zip(["amd64", "arm64"])
    {
        assert_eq!(entry["platform"], json!({"architecture": architecture, "os": "linux"}));
        let one = format!("{remote}@{}", entry["digest"].as_str().expect("a digest")).replace(":1@", "@");
        let config = tool("skopeo", &["inspect", "--tls-verify=false", "--config", &one]);
        let config: Value = serde_json::from_str(&config).expect("JSON");
        assert_eq!(config["architecture"], architecture);
    }
    // Every blob is there and what its descriptor says. Debian has no crane: who has one has one check more.
    if std::process::Command::new("crane").arg("version").output().is_ok() {
        tool("crane", &["validate", "--insecure", "--remote", &name]);
    }
    let copied = format!("oci:{}", world.path("copied").display());
    tool("skopeo", &["copy", "--quiet", "--all", "--src-tls-verify=false", &remote, &copied]);
}
