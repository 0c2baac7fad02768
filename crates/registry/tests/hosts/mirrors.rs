//! What comes of mirrors that fail, with the registry behind them and without.

use bytes::Bytes;
use rbuild_image::{Descriptor, Memory, Reference, Sink as _, Source as _, StoreErrorKind};
use rbuild_registry::{ClientOptions, Fallback, Hosts};
use rbuild_test_registry::{Act, Fault, Options, Registry};
use tokio::net::TcpSocket;

use crate::tls::Authority;
use crate::{client, kind, pull};

fn layers() -> [Bytes; 2] {
    [Bytes::from(vec![1; 20_000]), Bytes::from(vec![2; 300])]
}

/// A registry with one image.
async fn registry() -> (Registry, Descriptor) {
    let registry = Registry::start(Options::default()).await;
    let image = registry.put_image("team/app", "1", &layers());
    (registry, image)
}

fn options(origin: &Registry, mirrors: &[String], fallback: Fallback) -> ClientOptions {
    let mirrors = [(origin.host(), mirrors.to_vec())].into();
    ClientOptions { mirrors, fallback, ..ClientOptions::default() }
}

/// A mirror that fails, its address, and what keeps it so.
async fn broken(how: &str) -> (String, Box<dyn std::any::Any>) {
    let always = |act| Fault::on("*", "/v2/").times(usize::MAX).act(act);
    if how == "down" {
        // A port that is taken, and where nobody listens.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        return (socket.local_addr().unwrap().to_string(), Box::new(socket));
    }
    let mut tls = None;
    if how == "unknown authority" {
        tls = Some(Authority::new().server(false, &["h2"]));
    }
    let mirror = Registry::start(Options { tls, ..Options::default() }).await;
    if how != "404" {
        mirror.put_image("team/app", "1", &layers());
    }
    match how {
        "403" => mirror.fault(always(Act::answer(403))),
        "503" => mirror.fault(always(Act::answer(503))),
        "other bytes" => {
            let body = Act::Body("{}".into());
            mirror.fault(Fault::on("GET", "/manifests/").times(usize::MAX).act(body));
        }
        _ => {}
    }
    (mirror.url(""), Box::new(mirror))
}

#[tokio::test]
async fn mirrors_that_fail() {
    for (how, alone) in [
        ("down", StoreErrorKind::Unavailable),
        ("403", StoreErrorKind::Denied),
        ("404", StoreErrorKind::NotFound),
        ("unknown authority", StoreErrorKind::Unavailable),
        ("503", StoreErrorKind::Unavailable),
        ("other bytes", StoreErrorKind::Other),
    ] {
        let (origin, image) = registry().await;
        let (address, _alive) = broken(how).await;
        let name = origin.name("team/app:1");
        let pinned = name.with_digest(image.digest);

        let never = client(options(&origin, std::slice::from_ref(&address), Fallback::Never));
        for name in [&name, &pinned] {
            let error = pull(&never, name).await.unwrap_err();
            match error.kind() {
                // A name that pins a digest is not what came.
                StoreErrorKind::Corrupt { .. } if how == "other bytes" && name.digest().is_some() => {}
                other => assert_eq!(other, &alone, "{how}: {error:?}"),
            }
            let host = address.trim_start_matches("https://").trim_start_matches("http://");
            assert!(chain(&error).contains(host), "{how}: {}", chain(&error));
        }
        assert_eq!(origin.requests(), [""; 0], "{how}: nothing may reach the registry");

        let always = client(options(&origin, &[address], Fallback::Always));
        for name in [&name, &pinned] {
            assert_eq!(kind(pull(&always, name).await), Ok(()), "{how}");
        }
        assert!(!origin.requests().is_empty());
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[tokio::test]
async fn when_all_fail_all_are_named() {
    let (origin, _) = registry().await;
    let (down, _alive) = broken("down").await;
    let (empty, _alive) = broken("404").await;
    let name = origin.name("team/other:1");
    let client = client(options(&origin, &[down.clone(), empty.clone()], Fallback::Always));
    let error = pull(&client, &name).await.unwrap_err();
    assert_eq!(error.kind(), &StoreErrorKind::NotFound);
    for host in [&down, empty.trim_start_matches("http://"), &origin.host()] {
        assert!(chain(&error).contains(host), "{}", chain(&error));
    }
}

#[tokio::test]
async fn the_first_that_has_it_serves_and_is_told_for_whom() {
    let (origin, _) = registry().await;
    let (first, _) = registry().await;
    let (second, _) = registry().await;
    let (down, _alive) = broken("down").await;
    let client = client(options(&origin, &[down, first.host(), second.host()], Fallback::Never));
    pull(&client, &origin.name("team/app:1")).await.unwrap();
    assert_eq!((origin.requests(), second.requests()), (vec![], vec![]));
    let namespace = format!("ns={}", origin.host().replace(':', "%3A"));
    assert!(first.log().iter().all(|logged| logged.target.contains(&namespace)), "{:?}", first.log());
}

#[tokio::test]
async fn blobs_that_a_mirror_lacks_or_breaks_off_come_from_the_registry() {
    for fault in [
        Fault::on("GET", "/blobs/").times(usize::MAX).act(Act::answer(404)),
        Fault::on("GET", "/blobs/").times(usize::MAX).act(Act::answer(503)),
    ] {
        for breaks in [false, true] {
            let (origin, _) = registry().await;
            let (mirror, _) = registry().await;
            if breaks {
                mirror.fault(Fault::on("GET", "/blobs/").times(1).act(Act::ResetAfter(100)));
            }
            mirror.fault(fault.clone());
            let name = origin.name("team/app:1");
            let fallen_back = client(options(&origin, &[mirror.host()], Fallback::Always));
            pull(&fallen_back, &name).await.unwrap();
            assert!(
                origin.requests().iter().all(|request| request.contains("/blobs/")),
                "{:?}",
                origin.requests()
            );
            let before = origin.requests().len();
            let alone = client(options(&origin, &[mirror.host()], Fallback::Never));
            pull(&alone, &name).await.unwrap_err();
            assert_eq!(origin.requests().len(), before);
        }
    }
}

#[tokio::test]
async fn a_mirror_that_is_down_is_found_out_once() {
    let (origin, _) = registry().await;
    let (down, _alive) = broken("down").await;
    let client = client(options(&origin, std::slice::from_ref(&down), Fallback::Always));
    pull(&client, &origin.name("team/app:1")).await.unwrap();
    // A failure now tells of the registry alone: the mirror was not asked again.
    let error = pull(&client, &origin.name("team/other:1")).await.unwrap_err();
    assert!(!chain(&error).contains(&down), "{}", chain(&error));
}

#[tokio::test]
async fn blobs_that_a_mirror_falsifies_are_refused() {
    for body in ["{}".to_owned(), "x".repeat(20_000), "x".repeat(30_000)] {
        let (origin, _) = registry().await;
        let (mirror, _) = registry().await;
        let falsified = format!("/blobs/{}", rbuild_image::Digest::of(&layers()[0]));
        mirror.fault(Fault::on("GET", falsified).times(usize::MAX).act(Act::Body(body.into())));
        let client = client(options(&origin, &[mirror.host()], Fallback::Always));
        let error = pull(&client, &origin.name("team/app:1")).await.unwrap_err();
        assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn what_counts_for_digests_only_says_nothing_about_tags() {
    let (origin, image) = registry().await;
    let (mirror, _) = registry().await;
    let directory = tempfile::tempdir().unwrap();
    let conf = directory.path().join("registries.conf");
    let text = format!(
        "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}/deep/er\"\npull-from-mirror = \"digest-only\"\n",
        origin.host(),
        mirror.host()
    );
    std::fs::write(&conf, text).unwrap();
    mirror.put_image("deep/er/team/app", "1", &layers());
    let hosts = Hosts { registries_conf: Some(conf), ..Hosts::none() };
    let client = client(ClientOptions { hosts, ..ClientOptions::default() });
    pull(&client, &origin.name("team/app:1")).await.unwrap();
    assert_eq!(origin.requests(), ["GET /v2/team/app/manifests/1"]);
    assert!(mirror.requests().iter().all(|request| request.contains("/v2/deep/er/team/app/blobs/")));
    pull(&client, &origin.name("team/app:1").with_digest(image.digest)).await.unwrap();
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn pushes_go_to_the_registry_itself() {
    let (origin, _) = registry().await;
    let (mirror, _) = registry().await;
    let client = client(options(&origin, &[mirror.host()], Fallback::Never));
    let memory = Memory::new();
    let bytes = Bytes::from("pushed");
    let descriptor = Descriptor::of("application/octet-stream", &bytes);
    memory.put(bytes.clone());
    let name: Reference = origin.name("team/new:1");
    let remote = client.remote(&name);
    remote.push(&descriptor, memory.content(&descriptor).await.unwrap()).await.unwrap();
    assert_eq!(origin.blob("team/new", descriptor.digest), Some(bytes));
    assert_eq!(mirror.requests(), [""; 0]);
}

#[tokio::test]
async fn a_blocked_registry_is_not_asked() {
    let (origin, _) = registry().await;
    let directory = tempfile::tempdir().unwrap();
    let conf = directory.path().join("registries.conf");
    std::fs::write(&conf, format!("[[registry]]\nprefix = \"{}/team\"\nblocked = true\n", origin.host()))
        .unwrap();
    let hosts = Hosts { registries_conf: Some(conf), ..Hosts::none() };
    let client = client(ClientOptions { hosts, ..ClientOptions::default() });
    let error = pull(&client, &origin.name("team/app:1")).await.unwrap_err();
    assert_eq!(error.kind(), &StoreErrorKind::Denied);
    assert!(chain(&error).contains("blocked by"), "{}", chain(&error));
    assert_eq!(origin.requests(), [""; 0]);
}
