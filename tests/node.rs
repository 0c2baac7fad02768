//! `rbuild pull --into` and `rbuild cri serve`, with a registry of Debian's.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rbuild_cri::Channel;
use rbuild_cri::messages::cri::{
    Empty, Image, ImageSpec, ListImagesRequest, ListImagesResponse, PullImageRequest, PullImageResponse,
    RemoveImageRequest,
};

use crate::support::{Registry, World, busybox_layout, have, tool};

/// Makes a registry with busybox in it and returns the image's name there.
fn busybox(world: &World) -> Option<(Registry, String)> {
    let registry = Registry::open(&world.path("registry"))?;
    let name = registry.image("library/busybox:1");
    let layout = world.path("busybox");
    if busybox_layout(&layout).is_none() {
        eprintln!("skipped: there is no static busybox");
        return None;
    }
    world.rbuild(&["push", layout.to_str().expect("UTF-8"), &name]).success();
    Some((registry, name))
}

/// A policy that takes everything, whatever this machine's own says.
pub(crate) fn policy(world: &World) -> String {
    let path = world.path("policy.json");
    std::fs::write(&path, r#"{"default": [{"type": "insecureAcceptAnything"}]}"#).expect("a file");
    path.display().to_string()
}

#[test]
fn a_layout_is_filled_for_other_tools() {
    let world = World::new();
    let Some((_registry, name)) = busybox(&world) else { return };
    let layout = world.path("node");
    let into = format!("oci:{}", layout.display());
    let policy = policy(&world);
    let first = world.rbuild(&["pull", "--policy", &policy, "--into", &into, &name]).success();
    assert!(first.stdout.starts_with("sha256:"), "{}", first.stdout);
    let again = world.rbuild(&["pull", "--policy", &policy, "--into", &into, &name]).success();
    assert_eq!(again.stdout, first.stdout);
    assert!(again.stderr.contains(" 0 bytes fetched"), "{}", again.stderr);
    if have("skopeo") {
        tool("skopeo", &["inspect", "--raw", &format!("oci:{}:1", layout.display())]);
    }
}

#[test]
fn what_cannot_be_served_is_refused_by_name() {
    let world = World::new();
    let refused = world.rbuild(&["cri", "serve", "--store", "containers-storage"]).exits(2);
    assert!(refused.stderr.contains("containers-storage"), "{}", refused.stderr);
    world.rbuild(&["pull", "--into", "oci:/tmp/x", "--unpack", "app"]).exits(2);
    world.rbuild(&["cri", "serve", "--listen", "tcp://127.0.0.1:1"]).exits(2);
}

/// A service that ends with the test.
pub(crate) struct Serving(pub(crate) Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn kubelets_are_answered() {
    let world = World::new();
    let Some((_registry, name)) = busybox(&world) else { return };
    let socket = world.path("run/cri.sock");
    let mut command = world.command();
    command.args(["cri", "serve", "--policy", &policy(&world), "--pin", &name]);
    command.args(["--listen", &format!("unix://{}", socket.display())]);
    let mut serving = Serving(command.spawn().expect("rbuild starts"));
    await_socket(&socket, &mut serving);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let images = runtime.block_on(async {
        let channel = Channel::new(&socket);
        let image = Some(ImageSpec { image: name.clone(), ..ImageSpec::default() });
        let pull = PullImageRequest { image, auth: None };
        let pulled: PullImageResponse =
            channel.unary("/runtime.v1.ImageService/PullImage", pull).await.expect("a pull");
        let listed: ListImagesResponse = channel
            .unary("/runtime.v1.ImageService/ListImages", ListImagesRequest::default())
            .await
            .expect("a list");
        assert!(listed.images.iter().any(|image| image.id == pulled.image_ref));
        listed.images
    });
    let [Image { repo_tags, pinned: true, .. }] = images.as_slice() else { panic!("{images:?}") };
    assert_eq!(repo_tags, &[name.as_str()]);
    let shown = world.rbuild(&["images"]).success();
    assert!(shown.stdout.contains("busybox:1"), "{}", shown.stdout);
}

/// Waits until somebody listens, and no longer than the service lives.
pub(crate) fn await_socket(socket: &Path, serving: &mut Serving) {
    let until = Instant::now() + Duration::from_secs(60);
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        assert!(serving.0.try_wait().expect("a child").is_none(), "the service ended");
        assert!(Instant::now() < until, "nobody listens");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A containerd of its own, without Kubernetes' plugin and without network.
pub(crate) struct Containerd {
    dir: std::path::PathBuf,
    process: Child,
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Containerd {
    /// Starts one; `None` where that cannot work.
    pub(crate) fn start(world: &World) -> Option<Self> {
        if !have("containerd") {
            return None;
        }
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: containerd needs root");
            return None;
        }
        let dir = world.path("containerd");
        std::fs::create_dir_all(&dir).expect("a folder");
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{0}/c.sock\"\n[ttrpc]\naddress = \"{0}/t.sock\"\n",
            dir.display()
        );
        std::fs::write(dir.join("config.toml"), config).expect("a file");
        let containerd = Self { process: Self::spawn(&dir), dir };
        if !containerd.ctr(&["plugins", "ls"]).lines().any(|line| {
            line.contains("io.containerd.snapshotter.v1")
                && line.contains("overlayfs")
                && line.trim_end().ends_with("ok")
        }) {
            eprintln!("skipped: containerd has no overlayfs here");
            return None;
        }
        Some(containerd)
    }

    fn spawn(dir: &Path) -> Child {
        let log = std::fs::File::create(dir.join("log")).expect("a file");
        let mut command = std::process::Command::new("containerd");
        let spawned = command.arg("--config").arg(dir.join("config.toml")).stderr(log).spawn();
        let mut process = spawned.expect("containerd starts");
        let until = Instant::now() + Duration::from_secs(60);
        while !Self::run(dir, &["version"]).status.success() {
            assert!(process.try_wait().expect("a child").is_none(), "containerd ended");
            assert!(Instant::now() < until, "containerd does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        process
    }

    fn restart(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.process = Self::spawn(&self.dir);
    }

    fn run(dir: &Path, args: &[&str]) -> std::process::Output {
        let mut command = std::process::Command::new("ctr");
        command.arg("-a").arg(dir.join("c.sock")).args(["-n", "k8s.io"]).args(args);
        command.output().expect("ctr starts")
    }

    pub(crate) fn ctr(&self, args: &[&str]) -> String {
        let output = Self::run(&self.dir, args);
        assert!(output.status.success(), "ctr {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// What `--into` and `--store` call it.
    pub(crate) fn place(&self) -> String {
        format!("containerd=unix://{}", self.dir.join("c.sock").display())
    }

    /// Where its blobs are, those on their way among them.
    pub(crate) fn content(&self) -> std::path::PathBuf {
        self.dir.join("root/io.containerd.content.v1.content")
    }

    /// Removes all images and what only they had.
    pub(crate) fn forget_all(&self) {
        for name in self.ctr(&["images", "ls", "-q"]).lines() {
            self.ctr(&["images", "rm", name]);
        }
        self.collect();
    }

    /// Removes what nothing refers to, now.
    pub(crate) fn collect(&self) {
        self.ctr(&["leases", "create", "--id", "collect"]);
        self.ctr(&["leases", "rm", "--sync", "collect"]);
    }

    /// The directories of all snapshots, the oldest first.
    pub(crate) fn snapshots(&self) -> Vec<std::path::PathBuf> {
        let root = self.dir.join("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
        let entries = std::fs::read_dir(root).expect("snapshots");
        let mut numbers: Vec<(u64, std::path::PathBuf)> = entries
            .map(|entry| entry.expect("an entry").path())
            .map(|path| {
                (path.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a number"), path)
            })
            .collect();
        numbers.sort();
        numbers.into_iter().map(|(_, path)| path.join("fs")).collect()
    }
}

/// Every file of a tree as find(1) shows it: mode, owner, size, links and link target. Whiteouts have no time of their own.
fn listing(root: &Path) -> Vec<String> {
    let mut command = std::process::Command::new("find");
    command.args([".", "-printf", "%P %M %U %G %n %l %s %T@\\n"]).current_dir(root);
    let output = command.output().expect("find starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let without_size = |line: &str| match line.split(' ').nth(1) {
        Some(mode) if mode.starts_with(['d', 'c']) => line.rsplitn(3, ' ').last().unwrap_or(line).to_owned(),
        _ => line.to_owned(),
    };
    let mut lines: Vec<String> = text.lines().map(without_size).collect();
    lines.sort();
    lines
}

#[test]
fn containerd_finds_what_was_brought() {
    let world = World::new();
    let Some((_registry, base)) = busybox(&world) else { return };
    let Some(mut containerd) = Containerd::start(&world) else { return };
    world.file("a/one", "1");
    world.file("a/two", "2");
    let name = base.replace("library/busybox", "team/app");
    world.dockerfile(&format!("FROM {base}\nCOPY a /a\nCOPY --chown=5:6 --chmod=4755 a/one /b\n"));
    world.rbuild(&["-t", &name, "--progress", "plain", "."]).success();

    containerd.ctr(&["images", "pull", "--plain-http", &name]);
    let theirs: Vec<_> = containerd.snapshots().iter().map(|tree| listing(tree)).collect();
    containerd.ctr(&["images", "rm", "--sync", &name]);
    assert_eq!(containerd.snapshots(), [""; 0].map(std::path::PathBuf::from));

    let into = containerd.place();
    let policy = policy(&world);
    world.rbuild(&["pull", "--policy", &policy, "--into", &into, &name]).success();
    // Layers are unpacked at once, into directories that change places: nothing of that is left.
    containerd.collect();
    let ours: Vec<_> = containerd.snapshots().iter().map(|tree| listing(tree)).collect();
    assert_eq!(ours, theirs);
    containerd.restart();
    let checked = containerd.ctr(&["images", "check"]);
    let lines: Vec<&str> = checked.lines().skip(1).collect();
    assert_eq!(lines.len(), 3, "tag, digest and ID: {checked}");
    for line in lines {
        assert!(line.contains("complete (4/4)") && line.trim_end().ends_with("true"), "{line}");
    }

    let socket = world.path("run/cri.sock");
    let mut command = world.command();
    command.args(["cri", "serve", "--policy", &policy, "--store", &into]);
    command.args(["--listen", &format!("unix://{}", socket.display())]);
    let mut serving = Serving(command.spawn().expect("rbuild starts"));
    await_socket(&socket, &mut serving);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let channel = Channel::new(&socket);
        let listed: ListImagesResponse = channel
            .unary("/runtime.v1.ImageService/ListImages", ListImagesRequest::default())
            .await
            .expect("a list");
        let [image] = listed.images.as_slice() else { panic!("{listed:?}") };
        assert_eq!((image.repo_tags.len(), image.repo_digests.len()), (1, 1), "{image:?}");
        let image = Some(ImageSpec { image: image.id.clone(), ..ImageSpec::default() });
        let removal = RemoveImageRequest { image };
        channel.unary::<_, Empty>("/runtime.v1.ImageService/RemoveImage", removal).await.expect("a removal");
    });
    assert_eq!(containerd.ctr(&["images", "ls", "-q"]), "");
    assert_eq!(containerd.ctr(&["content", "ls", "-q"]), "");
    assert_eq!(containerd.ctr(&["leases", "ls", "-q"]), "");
    assert!(containerd.snapshots().is_empty());
}
