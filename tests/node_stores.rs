//! What the image service of a node promises, with each of its stores: rbuild's own and containerd's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use rbuild_cri::Channel;
use rbuild_cri::messages::cri::{
    AuthConfig, Empty, Image, ImageFilter, ImageFsInfoResponse, ImageSpec, ImageStatusRequest,
    ImageStatusResponse, ListImagesRequest, ListImagesResponse, PullImageRequest, PullImageResponse,
    RemoveImageRequest,
};
use rbuild_image::Digest;
use rbuild_test_registry::{Act, Demand, Fault, Method, Options, Registry};
use tokio::runtime::Runtime;
use tonic::{Code, Request, Status};

use crate::archive::Archive;
use crate::hostile_layers::{Fate, look, rows};
use crate::node::{Containerd, Serving, await_socket, policy};
use crate::support::{Mounted, Run, World, have, is_root, skipped};

/// A service over one store, and a registry in this process.
struct Node {
    name: &'static str,
    channel: Channel,
    registry: Registry,
    runtime: Runtime,
    containerd: Option<Containerd>,
    _serving: Serving,
    world: World,
}

impl Node {
    /// One for each store that works here.
    fn all(options: &Options) -> Vec<Self> {
        let own = Self::start("own", World::new(), None, options);
        let world = World::new();
        let containerd = Containerd::start(&world);
        let theirs = containerd.map(|containerd| Self::start("containerd", world, Some(containerd), options));
        std::iter::once(own).chain(theirs).collect()
    }

    fn start(name: &'static str, world: World, containerd: Option<Containerd>, options: &Options) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let registry = runtime.block_on(Registry::start(options.clone()));
        let socket = world.path("run/cri.sock");
        let mut command = world.command();
        command.args(["cri", "serve", "--policy", &policy(&world)]).stderr(Stdio::null());
        command.args(["--listen", &format!("unix://{}", socket.display())]);
        match &containerd {
            Some(containerd) => command.args(["--store", &containerd.place()]),
            None => command.args(["--store", "own", "--unpack"]),
        };
        let mut serving = Serving(command.spawn().expect("rbuild starts"));
        await_socket(&socket, &mut serving);
        let channel = Channel::new(&socket);
        Self { name, channel, registry, runtime, containerd, _serving: serving, world }
    }

    fn image(&self, rest: &str) -> String {
        format!("{}/{rest}", self.registry.host())
    }

    fn ask<Q, A>(&self, method: &'static str, ask: Q) -> Result<A, Status>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        self.runtime.block_on(self.channel.unary::<Q, A>(method, ask))
    }

    fn pull_as(&self, name: &str, auth: Option<AuthConfig>) -> Result<String, Status> {
        let ask = PullImageRequest { image: spec(name), auth };
        let pulled = self.ask::<_, PullImageResponse>("/runtime.v1.ImageService/PullImage", ask);
        pulled.map(|pulled| pulled.image_ref)
    }

    fn pull(&self, rest: &str) -> Result<String, Status> {
        self.pull_as(&self.image(rest), None)
    }

    /// Pulls several images at once.
    fn pull_all(&self, names: &[String]) -> Vec<Result<PullImageResponse, Status>> {
        let pull = |name: &String| {
            let ask = PullImageRequest { image: spec(name), auth: None };
            self.channel.unary::<PullImageRequest, _>("/runtime.v1.ImageService/PullImage", ask)
        };
        self.runtime.block_on(futures_util::future::join_all(names.iter().map(pull)))
    }

    fn status(&self, name: &str, verbose: bool) -> ImageStatusResponse {
        let ask = ImageStatusRequest { image: spec(name), verbose };
        self.ask("/runtime.v1.ImageService/ImageStatus", ask).expect("a status")
    }

    fn list(&self, filter: Option<&str>) -> Vec<Image> {
        let filter = filter.map(|name| ImageFilter { image: spec(name) });
        let ask = ListImagesRequest { filter };
        let listed: ListImagesResponse =
            self.ask("/runtime.v1.ImageService/ListImages", ask).expect("a list");
        listed.images
    }

    fn remove(&self, name: &str) {
        let ask = RemoveImageRequest { image: spec(name) };
        self.ask::<_, Empty>("/runtime.v1.ImageService/RemoveImage", ask).expect("a removal");
    }
}

fn spec(name: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() })
}

/// Bytes that do not shrink, others for every seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(step).collect()
}

/// A layer with one file of so many bytes.
fn layer(seed: u64, length: usize) -> Bytes {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(length as u64);
    header.set_mode(0o644);
    let content = noise(seed, length);
    archive.append_data(&mut header, format!("file-{seed}"), content.as_slice()).expect("an entry");
    archive.into_inner().expect("an archive").into()
}

#[test]
fn images_have_the_names_they_were_pulled_by() {
    for node in Node::all(&Options::default()) {
        let layers = [layer(1, 1000), layer(2, 2000)];
        let target = node.registry.put_image("app", "1", &layers);
        for tag in ["2", "3"] {
            node.registry.put_image("app", tag, &layers);
        }
        node.registry.put_image("other", "1", &[layer(3, 3000)]);
        let (tag, by_digest) = (node.image("app:1"), node.image(&format!("app@{}", target.digest)));
        let id = node.pull(&format!("app@{}", target.digest)).expect("a pull by digest");
        let image = node.status(&by_digest, false).image.expect("an image");
        assert_eq!(
            (image.repo_tags.len(), image.repo_digests),
            (0, vec![by_digest.clone()]),
            "{}",
            node.name
        );
        assert_eq!(node.pull(&format!("app:9@{}", target.digest)).expect("tag and digest"), id);
        for tag in ["app:1", "app:2", "app:3"] {
            assert_eq!(node.pull(tag).expect("a pull by tag"), id, "{}", node.name);
        }
        assert_ne!(node.pull("other:1").expect("another"), id);
        let prefix = id.trim_start_matches("sha256:").get(..12).expect("hex").to_owned();
        let pinned = format!("{tag}@{}", target.digest);
        for name in [&tag, &by_digest, &pinned, &id, &prefix] {
            let image = node.status(name, false).image.expect("an image");
            assert_eq!(image.id, id, "{} {name}", node.name);
            assert_eq!(image.repo_tags, ["app:1", "app:2", "app:3"].map(|name| node.image(name)));
            assert!(image.size > 0, "{}", node.name);
        }
        assert_eq!(node.list(None).len(), 2, "{}", node.name);
        assert_eq!(node.list(Some(&tag)).len(), 1, "{}", node.name);
        assert_eq!(node.list(Some(&node.image("app:9"))), [], "{}", node.name);
        assert!(node.status(&tag, false).info.is_empty(), "{}", node.name);
        assert!(node.status(&tag, true).info["info"].contains("\"imageSpec\""), "{}", node.name);
        let usage: ImageFsInfoResponse =
            node.ask("/runtime.v1.ImageService/ImageFsInfo", Empty {}).expect("usage");
        let usage = &usage.image_filesystems[0];
        assert!(Path::new(&usage.fs_id.as_ref().expect("a file system").mountpoint).is_dir());
        assert!(usage.timestamp > 0 && usage.used_bytes.is_some_and(|used| used.value > 0), "{usage:?}");
        node.remove(&node.image("app:2"));
        for name in [&tag, &by_digest, &id] {
            assert_eq!(node.status(name, false).image, None, "{} {name}", node.name);
        }
        node.remove(&node.image("app:2"));
        assert_eq!(node.list(None).len(), 1, "{}", node.name);
    }
}

#[test]
fn credentials_and_deadlines_are_kept() {
    for node in Node::all(&Options { demand: Demand::Basic("user:secret"), ..Options::default() }) {
        node.registry.put_image("app", "1", &[layer(1, 1000)]);
        let name = node.image("app:1");
        let with = |password: &str| AuthConfig {
            username: "user".into(),
            password: password.into(),
            ..AuthConfig::default()
        };
        for auth in [None, Some(with("wrong"))] {
            let refused = node.pull_as(&name, auth).expect_err("a refusal");
            assert_eq!(refused.code(), Code::Unauthenticated, "{}: {refused}", node.name);
        }
        node.registry.fault(Fault::on("GET", "/manifests/").act(Act::Delay(Duration::from_millis(300))));
        let mut ask = Request::new(PullImageRequest { image: spec(&name), auth: Some(with("secret")) });
        ask.set_timeout(Duration::from_millis(1));
        let method = "/runtime.v1.ImageService/PullImage";
        let late =
            node.runtime.block_on(node.channel.unary::<PullImageRequest, PullImageResponse>(method, ask));
        assert_eq!(late.expect_err("a deadline").code(), Code::DeadlineExceeded, "{}", node.name);
        assert_eq!(node.list(None), [], "{}", node.name);
        node.pull_as(&name, Some(with("secret"))).expect("a pull");
    }
}

#[test]
fn pulls_at_the_same_time_fetch_a_blob_once() {
    for node in Node::all(&Options::default()) {
        let shared: Vec<Bytes> = (0..8).map(|seed| layer(seed, 300_000)).collect();
        for (image, own) in [("one", 100), ("two", 200)] {
            let layers: Vec<Bytes> = shared.iter().cloned().chain([layer(own, 300_000)]).collect();
            node.registry.put_image("app", image, &layers);
        }
        let names: Vec<String> =
            (0..32).map(|number| node.image(["app:one", "app:two"][number % 2])).collect();
        let pulled = node.pull_all(&names);
        let ids: BTreeSet<String> =
            pulled.into_iter().map(|pulled| pulled.expect("a pull").image_ref).collect();
        assert_eq!(ids.len(), 2, "{}", node.name);
        for bytes in shared.iter().chain([&layer(100, 300_000), &layer(200, 300_000)]) {
            let path = format!("/blobs/{}", Digest::of(bytes));
            assert_eq!(node.registry.count(Method::GET, &path), 1, "{}", node.name);
        }
        if let Some(containerd) = &node.containerd {
            containerd.collect();
            assert_eq!(containerd.snapshots().len(), 10);
            assert_eq!(containerd.ctr(&["leases", "ls", "-q"]), "");
        }
    }
}

#[test]
fn tokens_that_die_and_busy_registries_are_survived() {
    let demand = Demand::Bearer { realm: None, account: None, expires_in: None };
    for node in Node::all(&Options { demand, ..Options::default() }) {
        let layers: Vec<Bytes> = (0..3).map(|seed| layer(seed, 400_000)).collect();
        node.registry.put_image("app", "1", &layers);
        let [first, second, third] = [0, 1, 2].map(|index| format!("/blobs/{}", Digest::of(&layers[index])));
        let challenge = format!(r#"Bearer realm="{}",service="test""#, node.registry.url("/token"));
        let refused = Act::Answer(401, vec![("www-authenticate", challenge)]);
        node.registry.fault(Fault::on("GET", &first).act(Act::ResetAfter(200_000)));
        node.registry.fault(Fault::on("GET", &first).act(refused));
        let busy = Act::Answer(429, vec![("retry-after", "0".into())]);
        node.registry.fault(Fault::on("GET", &second).times(2).act(busy));
        node.registry.fault(Fault::on("GET", &third).act(Act::ResetAfter(399_000)));
        node.pull("app:1").expect("a pull");
        assert_eq!(node.list(None).len(), 1, "{}", node.name);
    }
}

#[test]
fn lies_are_told_from_layers() {
    for node in Node::all(&Options::default()) {
        let (good, other) = (layer(1, 50_000), layer(2, 50_000));
        node.registry.put_image("app", "1", std::slice::from_ref(&good));
        let path = format!("/blobs/{}", Digest::of(&good));
        // Another layer of the same length, and one that goes on.
        for lie in [other.clone(), [good.clone(), other].concat().into()] {
            node.registry.fault(Fault::on("GET", &path).act(Act::Body(lie)));
            assert!(node.pull("app:1").is_err(), "{}", node.name);
            assert_eq!(node.list(None), [], "{}", node.name);
        }
        node.pull("app:1").expect("a pull");
        if let Some(containerd) = &node.containerd {
            containerd.collect();
            assert_eq!(containerd.snapshots().len(), 1);
        }
    }
}

#[test]
fn hostile_layers_hurt_nobody() {
    for node in Node::all(&Options::default()) {
        let canary = node.world.path("canary");
        std::fs::create_dir_all(canary.join("folder")).expect("folders");
        std::fs::write(canary.join("file"), "canary").expect("a file");
        let before = look(&canary);
        let base = Bytes::from(Archive::default().dir("etc").file("etc/passwd", "root").end());
        let mut contained = 0;
        for (number, row) in rows(&canary.display().to_string()).into_iter().enumerate() {
            let tag = number.to_string();
            node.registry.put_image("evil", &tag, &[base.clone(), row.archive.end().into()]);
            let pulled = node.pull(&format!("evil:{tag}"));
            assert_eq!(look(&canary), before, "{} {}", node.name, row.name);
            match (row.fate, pulled) {
                (Fate::Contained(_), Ok(_)) => contained += 1,
                (Fate::Refused(words), Err(status)) => {
                    assert!(status.message().contains(words), "{} {}: {status}", node.name, row.name);
                }
                (_, pulled) => panic!("{} {}: {pulled:?}", node.name, row.name),
            }
        }
        assert_eq!(node.list(None).len(), contained, "{}", node.name);
        if let Some(containerd) = &node.containerd {
            assert_eq!(containerd.ctr(&["leases", "ls", "-q"]), "", "what failed leaves nothing");
        }
    }
}

/// How many bytes the files below some directories have.
fn bytes_below(directories: &[PathBuf]) -> u64 {
    let mut pending: Vec<PathBuf> = directories.to_vec();
    let mut bytes = 0;
    while let Some(path) = pending.pop() {
        // What vanishes meanwhile has no length.
        for entry in path.read_dir().into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => pending.push(entry.path()),
                Ok(found) => bytes += found.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}

#[test]
fn killed_pulls_go_on_where_they_were() {
    let world = World::new();
    let runtime = Runtime::new().expect("a runtime");
    let options = Options { bandwidth: Some(40 << 20), ..Options::default() };
    let registry = runtime.block_on(Registry::start(options));
    let layers: Vec<Bytes> = (0..8).map(|seed| layer(seed, 1 << 20)).collect();
    let total: u64 = layers.iter().map(|layer| layer.len() as u64).sum();
    registry.put_image("app", "1", &layers);
    let name = format!("{}/app:1", registry.host());
    let policy = policy(&world);
    let containerd = Containerd::start(&world);
    for round in 0..20_u64 {
        // 90 % among them.
        let wanted = total * (round * 5 + 5) / 100;
        let layout = world.path(&format!("layout-{round}"));
        // The last is looked at first: what gets its name meanwhile is not counted twice.
        let parts = |root: &Path, coming: &str| vec![root.join(coming), root.join("blobs")];
        let mut stores = vec![(format!("oci:{}", layout.display()), parts(&layout, "partial"))];
        if let Some(containerd) = containerd.as_ref().filter(|_| round % 2 == 1) {
            stores.push((containerd.place(), parts(&containerd.content(), "ingest")));
        }
        for (into, directories) in stores {
            let mut command = world.command();
            command.args(["pull", "-q", "--policy", &policy, "--into", &into, &name]);
            let mut child = command.stdout(Stdio::null()).spawn().expect("rbuild starts");
            while child.try_wait().expect("a child").is_none() && bytes_below(&directories) < wanted {
                std::thread::sleep(Duration::from_millis(1));
            }
            child.kill().expect("a child");
            child.wait().expect("a child");
            let there = bytes_below(&directories).min(total);
            assert!(there >= wanted, "{into}: the pull ended with {there} of {total} bytes");
            let again = world.rbuild(&["pull", "--policy", &policy, "--into", &into, &name]).success();
            let words: Vec<&str> = again.stderr.split_whitespace().collect();
            let said = words.windows(2).find(|pair| pair[1] == "bytes").expect("how much was fetched");
            let fetched: u64 = said[0].parse().expect("a number");
            // Of what is there a little is no blob, but says how one goes on.
            let most = total - there + total / 50;
            assert!(fetched <= most, "{into}: {fetched} bytes fetched with {there} of {total} there");
            if let Some(containerd) = containerd.as_ref().filter(|_| into.starts_with("containerd")) {
                let checked = containerd.ctr(&["images", "check"]);
                let complete =
                    |line: &str| line.contains("complete (9/9)") && line.trim_end().ends_with("true");
                assert!(checked.lines().skip(1).all(complete), "{checked}");
                containerd.forget_all();
            }
        }
        for layer in &layers {
            let stored = std::fs::read(layout.join("blobs/sha256").join(Digest::of(layer).hex()));
            assert_eq!(stored.expect("a blob"), *layer);
        }
        std::fs::remove_dir_all(&layout).expect("our own layout");
    }
}

#[test]
fn a_full_disk_is_an_error_and_no_end() {
    let world = World::new();
    if !is_root("mounting a small file system needs root") || !have("nsenter") {
        return;
    }
    let small = world.path("small");
    std::fs::create_dir(&small).expect("a folder");
    let Some(mounted) = Mounted::new(&format!("mount -t tmpfs -o size=12m tmpfs {}", small.display())) else {
        return skipped("nothing can be mounted here");
    };
    let runtime = Runtime::new().expect("a runtime");
    let registry = runtime.block_on(Registry::start(Options::default()));
    let policy = policy(&world);
    let pull = |image: &str| {
        let mut command = mounted.command(0, env!("CARGO_BIN_EXE_rbuild"));
        command.args(["pull", "-q", "--policy", &policy, "--unpack", "--into", "own"]);
        command.arg("--root").arg(small.join("store")).arg(format!("{}/{image}:1", registry.host()));
        Run::of(command.output().expect("rbuild starts"))
    };
    // What will not fit is not begun.
    let large = layer(1, 16 << 20);
    registry.put_image("large", "1", std::slice::from_ref(&large));
    pull("large").exits(1).says("bytes free");
    assert_eq!(registry.count(Method::GET, &format!("/blobs/{}", Digest::of(&large))), 0);
    // Of this one nobody can know before.
    let mut archive =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_size(24 << 20);
    header.set_mode(0o644);
    let content = std::io::Read::take(std::io::repeat(b'x'), 24 << 20);
    archive.append_data(&mut header, "file", content).expect("an entry");
    let swelling = archive.into_inner().and_then(|gzip| gzip.finish()).expect("an archive");
    registry.put_image("swelling", "1", &[swelling.into()]);
    let full = pull("swelling");
    assert_ne!(full.code, 0, "{}", full.stderr);
    full.says("No space left on device");
    // What it had written is gone again.
    registry.put_image("app", "1", &[layer(2, 1 << 20)]);
    pull("app").success();
}
