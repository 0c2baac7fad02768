//! Caches in registries, directories and images: what is found there, what is not, and what is fetched for it.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use rbuild_image::Digest;
use rbuild_test_registry::{Options, Registry};

use crate::support::{Run, World, can_run};

/// A registry in this process, with busybox in it, and a world to build in.
struct Lab {
    world: World,
    registry: Registry,
    _runtime: tokio::runtime::Runtime,
}

/// Five stages: what the last one copies comes from all others.
const FIVE: &str = "FROM @/busybox AS base\nWORKDIR /w\nRUN echo base > base\n\
    FROM base AS one\nCOPY one .\nRUN cat one base > out; echo one\n\
    FROM base AS two\nCOPY two .\nRUN cat two base > out; echo two\n\
    FROM one AS three\nRUN cat out > more; echo three\n\
    FROM @/busybox\nCOPY --from=one /w/out /one\nCOPY --from=two /w/out /two\nCOPY --from=three /w/more /three\nRUN cat /one /two /three > /all\n";

impl Lab {
    /// None where steps cannot run.
    fn new() -> Option<Self> {
        let world = World::new();
        if !can_run(&world) {
            return None;
        }
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let registry = runtime.block_on(Registry::start(Options::default()));
        let lab = Self { world, registry, _runtime: runtime };
        let layout = format!("oci:{}:latest", lab.world.path("busybox").display());
        lab.world.rbuild(&["copy", &layout, &format!("docker://{}/busybox", lab.registry.host())]).success();
        lab.write(FIVE);
        lab.world.file("one", "1\n");
        lab.world.file("two", "2\n");
        Some(lab)
    }

    /// Writes the Dockerfile; `@` stands for the registry.
    fn write(&self, dockerfile: &str) {
        self.world.dockerfile(&dockerfile.replace('@', &self.registry.host()));
    }

    /// Builds with a store of its own name; `@` stands for the registry.
    fn build(&self, store: &str, args: &[&str]) -> Run {
        Run::of(self.command(store, args).output().expect("rbuild starts"))
    }

    fn command(&self, store: &str, args: &[&str]) -> std::process::Command {
        let mut command = self.world.command();
        command.args(["--progress", "plain", "--network", "none", "--root"]).arg(self.world.path(store));
        command.args(args.iter().map(|arg| arg.replace('@', &self.registry.host()))).arg(".");
        command
    }

    /// The digest that a tag stands for.
    fn digest(&self, repository: &str, tag: &str) -> Digest {
        Digest::of(&self.registry.manifest(repository, tag).expect("a tag"))
    }

    /// The digests of blobs that were read since the log had so many lines, the config of the base aside.
    fn layers_read(&self, since: usize) -> Vec<String> {
        let base: serde_json::Value =
            serde_json::from_slice(&self.registry.manifest("busybox", "latest").expect("the base"))
                .expect("JSON");
        let config = base["config"]["digest"].as_str().expect("a digest");
        let requests = self.registry.requests();
        let read =
            requests.iter().skip(since).filter(|line| line.starts_with("GET ") && line.contains("/blobs/"));
        read.filter(|line| !line.contains(config)).cloned().collect()
    }

    /// Gives every file of the context another time.
    fn touch(&self) {
        for name in ["Dockerfile", "one", "two"] {
            let path = self.world.context().join(name);
            let bytes = std::fs::read(&path).expect("a file");
            std::fs::remove_file(&path).expect("a file");
            std::fs::write(&path, bytes).expect("a file");
            crate::support::tool("touch", &["-d", "@1700000000", &path.display().to_string()]);
        }
    }
}

fn cached(run: &Run) -> usize {
    run.stderr.lines().filter(|line| line.contains("CACHED")).count()
}

#[test]
fn a_full_hit_fetches_no_layer_and_gives_the_same_image() {
    let Some(lab) = Lab::new() else { return };
    let max = "type=registry,ref=@/cache,mode=max";
    let first = lab.build("a", &["-t", "@/app:1", "--cache-to", max]).success();
    assert_eq!(cached(&first), 0, "{}", first.stderr);
    lab.touch();
    let since = lab.registry.log().len();
    let second = lab.build("b", &["-t", "@/app:2", "--cache-from", "@/cache", "--cache-to", max]).success();
    assert_eq!(cached(&second), 11, "{}", second.stderr);
    assert_eq!(lab.digest("app", "1"), lab.digest("app", "2"));
    assert_eq!(lab.layers_read(since), Vec::<String>::new());
    let since = lab.registry.log().len();
    lab.build("c", &["-t", "@/app-3:1", "--cache-from", "@/cache"]).success();
    let requests = lab.registry.requests().split_off(since);
    assert_eq!(lab.layers_read(since), Vec::<String>::new(), "into another repository by mounts");
    assert!(requests.len() <= 20, "{} requests: {requests:#?}", requests.len());
}

#[test]
fn a_partial_hit_fetches_what_is_below_the_first_step_that_runs() {
    let Some(lab) = Lab::new() else { return };
    lab.build("a", &["-t", "@/app:1", "--cache-to", "type=registry,ref=@/cache,mode=max"]).success();
    lab.world.file("two", "changed\n");
    let since = lab.registry.log().len();
    let run = lab.build("b", &["-t", "@/app:2", "--cache-from", "@/cache"]).success();
    assert_eq!(
        cached(&run),
        6,
        "all but COPY two, its RUN, COPY --from=two and what is above: {}",
        run.stderr
    );
    // Below COPY two: busybox, WORKDIR, RUN. What the last stage reads: its first COPY, and three layers of `three`.
    assert_eq!(lab.layers_read(since).len(), 7, "{:?}", lab.layers_read(since));
    let whole = lab.build("fresh", &["-o", "type=local,dest=../out", "--no-cache"]).success();
    assert_eq!(cached(&whole), 0);
    let all = std::fs::read_to_string(lab.world.path("out/all")).expect("a file");
    assert_eq!(all, "1\nbase\nchanged\nbase\n1\nbase\n");
}

#[test]
fn mode_min_keeps_what_the_image_holds() {
    let Some(lab) = Lab::new() else { return };
    lab.build("a", &["-t", "@/app:1", "--cache-to", "type=registry,ref=@/cache"]).success();
    let run = lab.build("b", &["-t", "@/app:2", "--cache-from", "@/cache"]).success();
    assert_eq!(cached(&run), 4, "the last stage's, by content: {}", run.stderr);
}

#[test]
fn what_is_written_under_a_scope_is_used_by_who_lists_it_only() {
    let Some(lab) = Lab::new() else { return };
    lab.build("a", &["--cache-to", "type=registry,ref=@/cache:c,mode=max,scope=pr"]).success();
    let none = lab.build("b", &["--cache-from", "type=registry,ref=@/cache:c"]).success();
    assert_eq!(cached(&none), 0, "{}", none.stderr);
    let main = "type=registry,ref=@/cache:c,scope=main";
    let both = "type=registry,ref=@/cache:c,scope=main,scope=pr";
    let all = lab.build("d", &["--cache-from", both, "--cache-to", &format!("{main},mode=max")]).success();
    assert_eq!(cached(&all), 11, "{}", all.stderr);
    // Neither this store nor what it wrote as `main` gives what came from `pr`.
    for store in ["d", "e"] {
        let run = lab.build(store, &["--cache-from", main]).success();
        assert_eq!(cached(&run), 0, "{store}: {}", run.stderr);
    }
    // A tag that stands for another scope's entries is foreign.
    let renamed = lab.registry.manifest("cache", "c-pr").expect("the tag");
    lab.registry.put_manifest("cache", "c-main", rbuild_image::media_type::OCI_INDEX, renamed);
    let run = lab.build("f", &["--cache-from", main]).success().says("it is the cache of scope \"pr\"");
    assert_eq!(cached(&run), 0, "{}", run.stderr);
}

#[test]
fn an_image_holds_its_own_cache() {
    let Some(lab) = Lab::new() else { return };
    lab.write("FROM @/busybox\nCOPY one /\nRUN cat one > two\n");
    lab.build("a", &["-t", "@/app:1", "--cache-to", "type=inline"]).success();
    let since = lab.registry.log().len();
    let run =
        lab.build("b", &["-t", "@/app:2", "--cache-from", "@/app:1", "--cache-to", "type=inline"]).success();
    assert_eq!(cached(&run), 2, "{}", run.stderr);
    assert_eq!(lab.layers_read(since), Vec::<String>::new());
    assert_eq!(lab.digest("app", "1"), lab.digest("app", "2"));
}

#[test]
fn a_directory_holds_a_cache_too() {
    let Some(lab) = Lab::new() else { return };
    let run = lab.build("a", &["--cache-from", "type=local,src=../kept"]).success();
    assert!(run.stderr.contains("cache ../kept: there is nothing yet"), "{}", run.stderr);
    let to = "type=local,dest=../kept,mode=max";
    lab.build("a", &["-o", "type=local,dest=../one", "--cache-to", to]).success();
    let from = "type=local,src=../kept";
    let run = lab.build("b", &["-o", "type=local,dest=../two", "--cache-from", from]).success();
    assert_eq!(cached(&run), 11, "{}", run.stderr);
    let read = |name: &str| std::fs::read_to_string(lab.world.path(name)).expect("a file");
    assert_eq!(read("one/all"), read("two/all"));
}

#[test]
fn what_is_lost_or_not_what_it_says_is_made_again() {
    let Some(lab) = Lab::new() else { return };
    let max = "type=registry,ref=@/cache,mode=max";
    lab.build("a", &["-o", "type=local,dest=../right", "--cache-to", max]).success();
    let right = std::fs::read_to_string(lab.world.path("right/all")).expect("a file");
    let cache: serde_json::Value =
        serde_json::from_slice(&lab.registry.manifest("cache", "latest").expect("the cache")).expect("JSON");
    let layers: Vec<String> = cache["manifests"]
        .as_array()
        .expect("entries")
        .iter()
        .filter_map(|entry| {
            Some(entry["annotations"]["dev.rbuild.cache.layer"].as_str()?.split(' ').nth(1)?.to_owned())
        })
        .collect();
    assert_eq!(layers.len(), 11, "{cache:#}");
    for (store, act) in [
        ("lost", rbuild_test_registry::Act::answer(404)),
        ("wrong", rbuild_test_registry::Act::Body(vec![7; 200].into())),
    ] {
        for layer in &layers {
            let fault = rbuild_test_registry::Fault::on("GET", format!("/cache/blobs/{layer}"));
            lab.registry.fault(fault.act(act.clone()).times(4));
        }
        let dest = format!("type=local,dest=../{store}-out");
        let run = lab.build(store, &["-o", &dest, "--cache-from", "@/cache"]).success();
        assert!(run.stderr.contains("is not used any more"), "{store}: {}", run.stderr);
        let read = std::fs::read_to_string(lab.world.path(&format!("{store}-out/all"))).expect("a file");
        assert_eq!(read, right, "{store}");
    }
}

#[test]
fn what_is_no_cache_is_a_warning() {
    let Some(lab) = Lab::new() else { return };
    lab.write("FROM @/busybox\nRUN true\n");
    let config = lab.registry.put_blob("foreign", br#"{"layers":[],"records":[]}"#.as_slice().into());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": [],
        "config": {"mediaType": "application/vnd.buildkit.cacheconfig.v0", "digest": config.digest, "size": config.size},
    });
    let oci = rbuild_image::media_type::OCI_MANIFEST;
    lab.registry.put_manifest("foreign", "buildkit", oci, manifest.to_string().into());
    let text = "warning: cannot use the cache";
    lab.build("a", &["--cache-from", "@/foreign:buildkit"])
        .success()
        .says("application/vnd.buildkit.cacheconfig.v0");
    lab.build("a", &["--cache-from", "@/busybox"]).success().says(text);
    let to = lab.build("a", &["--cache-to", "@/busybox"]).success();
    assert!(
        to.stderr.contains("warning: cannot write the cache"),
        "an image is not overwritten: {}",
        to.stderr
    );
    lab.build("a", &["--cache-from", "127.0.0.1:1/nothing"]).success().says(text);
    for refused in ["type=gha", "type=s3,bucket=b", "type=azblob"] {
        lab.build("a", &["--cache-to", refused]).exits(2).says("is not supported");
    }
}

#[test]
fn pruning_lets_go_of_what_was_not_written_lately() {
    let Some(lab) = Lab::new() else { return };
    lab.build("a", &["--cache-to", "type=registry,ref=@/cache,mode=max"]).success();
    let cache = format!("{}/cache", lab.registry.host());
    let prune = |args: &[&str]| {
        let args = [&["cache", "prune", cache.as_str(), "--format", "json"], args].concat();
        serde_json::from_str::<serde_json::Value>(&lab.world.rbuild(&args).success().stdout).expect("JSON")
    };
    let kept = prune(&["--max-age", "1h"]);
    assert_eq!((kept["removed"].as_u64(), kept["kept"].as_u64()), (Some(0), Some(11)), "{kept}");
    let gone = prune(&["--max-size", "0"]);
    assert_eq!((gone["removed"].as_u64(), gone["kept"].as_u64()), (Some(11), Some(0)), "{gone}");
    assert_eq!(gone["manifests_removed"], true);
    let run = lab.build("b", &["--cache-from", "@/cache"]).success();
    assert_eq!(cached(&run), 0, "{}", run.stderr);
}

/// Many builds share one store and one cache, and some of them are killed.
#[test]
fn builds_at_the_same_time_and_killed_ones_lose_and_break_nothing() {
    let Some(lab) = Lab::new() else { return };
    let (all, killed) = (8_u64, 2);
    let dockerfile = |number: u64| {
        let path = lab.world.context().join(format!("Dockerfile.{number}"));
        let text = format!(
            "FROM @/busybox\nRUN echo {number} > /number; sleep 0.{number}\nRUN cat /number /number > /twice\n"
        );
        std::fs::write(&path, text.replace('@', &lab.registry.host())).expect("a Dockerfile");
        format!("Dockerfile.{number}")
    };
    let start = |number: u64| -> Child {
        let file = dockerfile(number);
        let args = [
            "-f",
            file.as_str(),
            "--cache-to",
            "type=registry,ref=@/cache,mode=max",
            "--cache-from",
            "@/cache",
        ];
        let mut command = lab.command("shared", &args);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("rbuild starts")
    };
    let mut children: Vec<Child> = (0..all).map(start).collect();
    for (number, child) in children.iter_mut().enumerate().take(killed) {
        std::thread::sleep(Duration::from_millis(150 * number as u64 + 100));
        child.kill().expect("a child");
    }
    for (number, child) in children.iter_mut().enumerate() {
        let status = child.wait().expect("a child");
        assert!(number < killed || status.success(), "build {number}: {status}");
    }
    let store = lab.world.path("shared");
    verify(&lab.world, &store);
    for number in killed as u64..all {
        let file = dockerfile(number);
        let run = lab.build(&format!("fresh-{number}"), &["-f", &file, "--cache-from", "@/cache"]).success();
        assert_eq!(cached(&run), 2, "build {number}: {}", run.stderr);
    }
}

fn verify(world: &World, store: &Path) {
    let mut command = world.command();
    command.args(["store", "verify", "--root"]).arg(store);
    Run::of(command.output().expect("rbuild starts")).success();
}

/// What a compiler kept is there in a store that never saw it.
#[test]
fn cache_mounts_go_through_a_registry() {
    let Some(lab) = Lab::new() else { return };
    lab.write(
        "FROM @/busybox\nARG N\nRUN --mount=type=cache,target=/m,id=count echo $N >> /m/count; ln -sf count /m/link; \
         chmod 640 /m/count; touch -t 202009131226.40 /m/count; cat /m/link > /out; stat -c %a:%Y /m/count >> /out\n",
    );
    let (to, from) = (["--cache-mounts-to", "@/mounts"], ["--cache-mounts-from", "@/mounts"]);
    for (store, number, flags) in [("a", "1", vec![to]), ("b", "2", vec![from, to]), ("c", "3", vec![from])] {
        let argument = format!("N={number}");
        let mut args = flags.concat();
        args.extend(["-o", "type=local,dest=../out", "--build-arg", &argument]);
        let run = lab.build(store, &args).success();
        assert!(!run.stderr.contains("warning"), "{store}: {}", run.stderr);
    }
    let out = std::fs::read_to_string(lab.world.path("out/out")).expect("a file");
    assert_eq!(out, "1\n2\n3\n640:1600000000\n");
    // What the store has is not asked for.
    let since = lab.registry.log().len();
    let args = ["--cache-mounts-from", "@/mounts", "-o", "type=local,dest=../out", "--build-arg", "N=4"];
    lab.build("c", &args).success();
    assert!(!lab.registry.requests().iter().skip(since).any(|line| line.contains("/mounts/")));
    let out = std::fs::read_to_string(lab.world.path("out/out")).expect("a file");
    assert_eq!(out, "1\n2\n3\n4\n640:1600000000\n");
}
