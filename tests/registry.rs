//! Push and pull against a real registry, read back by other tools.

use crate::support::{Registry, Run, Web, World, can_run, have, tool};

#[test]
fn a_multi_stage_build_goes_to_a_registry_and_comes_back() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let Some(registry) = Registry::open(&world.path("registry")) else { return };
    let base = registry.image("library/busybox:latest");
    world.rbuild(&["push", world.path("busybox").to_str().expect("UTF-8"), &base]).success();

    world.file("message", "hello\n");
    world.dockerfile(&format!(
        "FROM {base} AS build\nCOPY message /in\nRUN tr a-z A-Z < /in > /out\nFROM {base}\nCOPY --from=build /out /message\nADD message /lower\nCMD [\"cat\", \"/message\"]\n"
    ));
    let name = registry.image("team/app:1");
    let run = world.rbuild(&["-t", &name, "--network", "none", "--progress", "plain", "."]).success();
    assert!(run.stderr.contains("sha256:"), "{}", run.stderr);

    let fresh = World::new();
    fresh.rbuild(&["pull", &name]).success();
    let inspected: serde_json::Value =
        serde_json::from_str(&fresh.rbuild(&["inspect", "--format", "json", &name]).success().stdout)
            .expect("JSON");
    assert!(inspected.to_string().contains("/message"), "{inspected}");
    if have("skopeo") {
        let copied = world.path("copied");
        tool(
            "skopeo",
            &[
                "copy",
                "-q",
                "--src-tls-verify=false",
                &format!("docker://{name}"),
                &format!("oci:{}:x", copied.display()),
            ],
        );
        let image = crate::support::Image::open(&copied);
        assert_eq!(image.layers(), 3);
        assert_eq!(image.entry(1, "message").content, "HELLO\n");
    }
}

#[test]
fn several_tags_and_what_is_there_is_not_sent_again() {
    let world = World::new();
    let Some(registry) = Registry::open(&world.path("registry")) else { return };
    world.file("a", "a");
    world.dockerfile("FROM scratch\nCOPY a /\n");
    let (one, two) = (registry.image("x/app:1"), registry.image("x/app:2"));
    world.rbuild(&["-t", &one, "-t", &two, "."]).success();
    world.rbuild(&["pull", &one]).success();
    world.rbuild(&["pull", &two]).success();
    world.rbuild(&["-t", &one, "--no-push", "."]).success();
}

#[test]
fn a_layer_that_another_repository_has_is_mounted() {
    let world = World::new();
    let Some(registry) = Registry::open(&world.path("registry")) else { return };
    world.file("a", "a");
    world.dockerfile("FROM scratch\nCOPY a /\n");
    let build = |name: &str| {
        let name = registry.image(name);
        world.rbuild(&["-t", &name, "--no-cache", "--progress", "plain", "."]).success().stderr
    };
    assert!(!build("first/app").contains("mounted"));
    let second = build("second/app");
    assert!(second.contains("mounted"), "{second}");
}

#[test]
fn a_password_is_taken_from_the_docker_config() {
    let world = World::new();
    let Some(registry) = Registry::with_password(&world.path("registry")) else { return };
    world.file("a", "a");
    world.dockerfile("FROM scratch\nCOPY a /\n");
    let name = registry.image("x/app:1");
    let refused = world.rbuild(&["-t", &name, "."]).exits(3);
    assert!(refused.stderr.contains("401"), "{}", refused.stderr);

    let config = world.path("home").join(".docker");
    std::fs::create_dir_all(&config).expect("a folder");
    let login = |password: &str| {
        let auth = base64_of(&format!("tester:{password}"));
        let text = serde_json::json!({"auths": {registry.host(): {"auth": auth}}});
        std::fs::write(config.join("config.json"), text.to_string()).expect("config.json");
    };
    login("wrong");
    let refused = world.rbuild(&["-t", &name, "."]).exits(3);
    assert!(!refused.stderr.contains("wrong"), "the password is in the message: {}", refused.stderr);
    login("secret");
    world.rbuild(&["-t", &name, "."]).success();
    world.rbuild(&["pull", &name]).success();
}

#[test]
fn errors_name_the_request() {
    let world = World::new();
    world.dockerfile("FROM 127.0.0.1:9/no/registry:here\n");
    world.rbuild(&["--output", "type=cacheonly", "."]).exits(3).says("127.0.0.1:9").says("Dockerfile:1");
    let Some(registry) = Registry::open(&world.path("registry")) else { return };
    world.dockerfile(&format!("FROM {}\n", registry.image("missing/image:1")));
    let run = world.rbuild(&["--output", "type=cacheonly", "."]).exits(3);
    assert!(run.stderr.contains("404") && run.stderr.contains("missing/image"), "{}", run.stderr);
}

#[test]
fn a_blob_that_lies_is_refused() {
    let world = World::new();
    let Some(registry) = Registry::open(&world.path("registry")) else { return };
    world.file("a", "some content that is in the layer");
    world.dockerfile("FROM scratch\nCOPY a /a\n");
    let name = registry.image("x/app:1");
    world.rbuild(&["-t", &name, "."]).success();
    let mut lied = 0;
    for data in blobs(&world.path("registry/data")) {
        let mut bytes = std::fs::read(&data).expect("a blob");
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
            std::fs::write(&data, bytes).expect("a blob");
            lied += 1;
        }
    }
    assert_eq!(lied, 1);
    let fresh = World::new();
    let run = fresh.rbuild(&["pull", &name]).exits(3);
    assert!(run.stderr.contains("digest"), "{}", run.stderr);
    let listed = fresh.rbuild(&["images"]).success();
    assert!(!listed.stdout.contains("x/app"), "{}", listed.stdout);
}

fn blobs(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(blobs(&path));
        } else if path.ends_with("data") {
            found.push(path);
        }
    }
    found
}

fn base64_of(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let sextet = ALPHABET[(bits >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= chunk.len() { char::from(sextet) } else { '=' });
        }
    }
    out
}

#[test]
fn a_registry_that_is_out_of_reach_is_served_by_its_mirror() {
    let world = World::new();
    let Some(mirror) = Registry::open(&world.path("registry")) else { return };
    world.file("a", "a");
    world.dockerfile("FROM scratch\nCOPY a /\n");
    world.rbuild(&["-t", &mirror.image("proxy/team/base:1"), "."]).success();
    world.rbuild(&["-t", &mirror.image("team/base:1"), "."]).success();

    // The name of a host that there never is.
    world.dockerfile("FROM registry.invalid/team/base:1\nCOPY a /b\n");
    let image = |name: &str, flags: &[&str]| {
        let fresh = World::new();
        let output = format!("type=oci,dest={},tar=false", world.path(name).display());
        let context = world.context().display().to_string();
        let args: Vec<&str> = flags.iter().copied().chain(["-o", &output, &context]).collect();
        fresh.rbuild(&args).success();
        crate::support::Image::open(&world.path(name)).config["rootfs"].clone()
    };
    let flag = format!("registry.invalid={}/proxy", mirror.host());
    let by_flag = image("flag", &["--registry-mirror", &flag, "--registry-fallback", "never"]);

    let own = world.path("hosts/registry.invalid");
    std::fs::create_dir_all(&own).expect("folders");
    let text = format!("[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n", mirror.host());
    std::fs::write(own.join("hosts.toml"), text).expect("hosts.toml");
    let tree = world.path("hosts").display().to_string();
    assert_eq!(image("containerd", &["--hosts-dir", &tree]), by_flag);

    let conf = world.path("registries.conf");
    let text = format!(
        "[[registry]]\nprefix = \"registry.invalid\"\nlocation = \"{}\"\n[aliases]\n\"base\" = \"registry.invalid/team/base\"\n",
        mirror.host()
    );
    std::fs::write(&conf, text).expect("registries.conf");
    let conf = conf.display().to_string();
    assert_eq!(image("podman", &["--registries-conf", &conf]), by_flag);
    world.dockerfile("FROM base:1\nCOPY a /b\n");
    assert_eq!(image("alias", &["--registries-conf", &conf]), by_flag);

    world.dockerfile("FROM registry.invalid/team/base:1\n");
    let run =
        world.rbuild(&["-o", "type=cacheonly", "--registry-mirror", &mirror.image("none"), "."]).exits(3);
    assert!(run.stderr.contains("registry.invalid"), "{}", run.stderr);
    std::fs::write(&conf, "[[registry]]\nlocation = \"registry.invalid\"\nblocked = true\n")
        .expect("registries.conf");
    world.rbuild(&["-o", "type=cacheonly", "--registries-conf", &conf, "."]).exits(3).says("is blocked by");
    std::fs::write(&conf, "unqualified-search-registries = [\"a.invalid\", \"b.invalid\"]\n")
        .expect("registries.conf");
    world
        .rbuild(&["pull", "-q", "--registries-conf", &conf, "base"])
        .exits(3)
        .says("`base` is ambiguous")
        .says("hint");
    world.rbuild(&["pull", "-q", "--hosts-dir", "/none", "base"]).exits(2).says("/none");
}

#[test]
fn proxies_are_used_but_for_what_no_proxy_names() {
    let world = World::new();
    let (proxy, server) = (Web::serve([]), Web::serve([]));
    let port = server.address.rsplit(':').next().expect("a port");
    // To Linux 0.0.0.0 is this machine; no rule for loopback hosts covers the name.
    let host = format!("0.0.0.0:{port}");
    let pull = |no_proxy: &str| {
        let mut command = world.command();
        command.args(["pull", "-q", "--insecure-registry", &host, &format!("{host}/team/app:1")]);
        command.env("HTTP_PROXY", proxy.url("")).env("NO_PROXY", no_proxy);
        Run::of(command.output().expect("rbuild starts")).exits(3).says("404");
    };
    pull("10.0.0.0/8,other.example");
    let asked = format!("GET http://{host}/v2/team/app/manifests/1 ");
    assert!(proxy.heads.lock().expect("no panic")[0].starts_with(&asked));
    assert_eq!(server.requests(), 0);
    let before = proxy.requests();
    pull("other.example,0.0.0.0/8");
    assert_eq!((proxy.requests(), server.requests() > 0), (before, true));
}
