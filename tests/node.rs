//! `rbuild pull --into` and `rbuild cri serve`, with a registry of Debian's.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rbuild_cri::Channel;
use rbuild_cri::messages::cri::{
    Image, ImageSpec, ListImagesRequest, ListImagesResponse, PullImageRequest, PullImageResponse,
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
fn policy(world: &World) -> String {
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
    let refused = world.rbuild(&["pull", "--into", "containerd=unix:///x.sock", "app"]).exits(2);
    assert!(refused.stderr.contains("containerd"), "{}", refused.stderr);
    world.rbuild(&["pull", "--into", "oci:/tmp/x", "--unpack", "app"]).exits(2);
    world.rbuild(&["cri", "serve", "--listen", "tcp://127.0.0.1:1"]).exits(2);
}

/// A service that ends with the test.
struct Serving(Child);

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
fn await_socket(socket: &Path, serving: &mut Serving) {
    let until = Instant::now() + Duration::from_secs(60);
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        assert!(serving.0.try_wait().expect("a child").is_none(), "the service ended");
        assert!(Instant::now() < until, "nobody listens");
        std::thread::sleep(Duration::from_millis(10));
    }
}
