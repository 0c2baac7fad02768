//! Pulling from registries that misbehave.

use bytes::Bytes;
use rbuild_image::{Digest, Memory, Source as _, StoreError, StoreErrorKind};
use rbuild_registry::{CopyError, CopyOptions, Error, copy};
use rbuild_test_registry::Method;

use crate::support::{Act, Demand, Fault, Options, Registry, Support, client, noise};

const LAYER: usize = 300_000;

/// What a pull is expected to end with.
enum Expect {
    Pulled,
    Fails(fn(&StoreErrorKind) -> bool),
}
use Expect::{Fails, Pulled};

fn corrupt(kind: &StoreErrorKind) -> bool {
    matches!(kind, StoreErrorKind::Corrupt { .. })
}

fn unavailable(kind: &StoreErrorKind) -> bool {
    *kind == StoreErrorKind::Unavailable
}

async fn pull(registry: &Registry) -> (Memory, Result<(), StoreError>) {
    let name = registry.name("team/app:1");
    let memory = Memory::new();
    let options = CopyOptions { tags: vec![name.clone()], ..CopyOptions::default() };
    let outcome = match copy(&client().remote(&name), &memory, &name, &options).await {
        Ok(_) => Ok(()),
        Err(CopyError::Store(error)) => Err(error),
        Err(other) => panic!("{other}"),
    };
    (memory, outcome)
}

/// Pulls an image with one layer while `fault` is in force.
async fn check(what: &str, path: &str, (times, fault): (usize, Act), expect: Expect) -> Registry {
    let registry = Registry::start(Demand::Nothing).await;
    let layer = noise(LAYER);
    registry.put_image("team/app", "1", std::slice::from_ref(&layer));
    let digest = Digest::of(&layer);
    registry
        .fault(Fault::on(Method::GET, path.replace("LAYER", &digest.to_string())).times(times).act(fault));
    let (memory, outcome) = pull(&registry).await;
    match (expect, outcome) {
        (Pulled, Ok(())) => {
            assert_eq!(memory.get(&digest), Some(layer), "{what}");
            assert_eq!(memory.names().len(), 1, "{what}");
        }
        (Fails(kind), Err(error)) => {
            assert!(kind(error.kind()), "{what}: {error:?}");
            assert!(memory.names().is_empty(), "{what}: a name stands for something incomplete");
        }
        (Pulled, Err(error)) => panic!("{what}: {error:?}"),
        (Fails(_), Ok(())) => panic!("{what}: was pulled"),
    }
    registry
}

#[tokio::test]
async fn what_is_temporary_is_tried_again() {
    let retry_after = || Act::Answer(429, vec![("retry-after", "0".to_owned())]);
    check("429", "/manifests/1", (1, retry_after()), Pulled).await;
    check("429 for the blob", "/blobs/LAYER", (3, retry_after()), Pulled).await;
    for status in [408, 500, 502, 503, 504] {
        let what = status.to_string();
        check(&what, "/manifests/1", (2, Act::answer(status)), Pulled).await;
    }
    check("reset", "/manifests/1", (2, Act::Reset), Pulled).await;
    check("reset for the blob", "/blobs/LAYER", (2, Act::Reset), Pulled).await;
}

#[tokio::test]
async fn trying_ends() {
    let registry = check("503 for ever", "/manifests/1", (99, Act::answer(503)), Fails(unavailable)).await;
    assert_eq!(registry.requests().len(), 5, "the policy of these tests allows five tries");
    let registry = check("resets for ever", "/blobs/", (99, Act::Reset), Fails(unavailable)).await;
    assert!(registry.requests().len() <= 11);
    let late = Act::Answer(429, vec![("retry-after", "3600".to_owned())]);
    let registry = check("in an hour", "/manifests/1", (99, late), Fails(unavailable)).await;
    assert_eq!(registry.requests().len(), 1, "beyond the budget");
}

#[tokio::test]
async fn what_is_not_temporary_is_asked_once() {
    for (status, kind) in [
        (400, StoreErrorKind::Other),
        (401, StoreErrorKind::Unauthorized),
        (403, StoreErrorKind::Denied),
        (404, StoreErrorKind::NotFound),
        (418, StoreErrorKind::Other),
        (501, StoreErrorKind::Other),
    ] {
        let registry = Registry::start(Demand::Nothing).await;
        registry.put_image("team/app", "1", &[]);
        registry.fault(Fault::on(Method::GET, "/manifests/1").times(99).act(Act::answer(status)));
        let (_, outcome) = pull(&registry).await;
        assert_eq!(outcome.unwrap_err().kind(), &kind, "{status}");
        assert_eq!(registry.requests().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn broken_downloads_go_on_where_they_broke() {
    let registry = check("cut", "/blobs/LAYER", (2, Act::ResetAfter(100_000)), Pulled).await;
    let ranges: Vec<String> = registry
        .log()
        .iter()
        .filter_map(|logged| Some(logged.headers.get("range")?.to_str().unwrap().to_owned()))
        .collect();
    assert_eq!(ranges, ["bytes=100000-", "bytes=200000-"]);

    let registry = Registry::start(Options { ranges: Support::No, ..Options::default() }).await;
    let layer = noise(LAYER);
    registry.put_image("team/app", "1", std::slice::from_ref(&layer));
    registry.fault(Fault::on(Method::GET, Digest::of(&layer).to_string()).act(Act::ResetAfter(100_000)));
    let (memory, outcome) = pull(&registry).await;
    outcome.unwrap();
    assert_eq!(memory.get(&Digest::of(&layer)), Some(layer));
}

#[tokio::test]
async fn lies_are_found_out() {
    let mut other = noise(LAYER).to_vec();
    other[LAYER / 2] ^= 1;
    check("other bytes", "/blobs/LAYER", (9, Act::Body(other.into())), Fails(corrupt)).await;
    check("too short", "/blobs/LAYER", (9, Act::Body(noise(LAYER - 1))), Fails(corrupt)).await;
    check("too long", "/blobs/LAYER", (9, Act::Body(noise(LAYER + 1))), Fails(corrupt)).await;
    check("empty", "/blobs/LAYER", (9, Act::Body(Bytes::new())), Fails(corrupt)).await;
    let wrong = Digest::of(b"other").to_string();
    let headers = Act::Headers(vec![("docker-content-digest", wrong)]);
    check("digest header", "/manifests/1", (9, headers), Fails(corrupt)).await;
    let other = |kind: &StoreErrorKind| *kind == StoreErrorKind::Other;
    check("login page", "/manifests/1", (9, Act::Body("<html>".into())), Fails(other)).await;
    let large = Act::Body(noise((4 << 20) + 1));
    check("endless manifest", "/manifests/1", (9, large), Fails(other)).await;
    let moved = Act::Headers(vec![("content-range", "bytes 7-9/10".to_owned())]);
    let registry = Registry::start(Demand::Nothing).await;
    let layer = noise(1000);
    registry.put_image("team/app", "1", std::slice::from_ref(&layer));
    registry.fault(Fault::on(Method::GET, Digest::of(&layer).to_string()).act(Act::ResetAfter(1)));
    registry.fault(Fault::on(Method::GET, Digest::of(&layer).to_string()).act(moved));
    let (_, outcome) = pull(&registry).await;
    assert!(Error::find(&outcome.unwrap_err()).is_some(), "a range that starts elsewhere leaves a gap");
}

#[tokio::test]
async fn pinned_names_are_checked() {
    let registry = Registry::start(Demand::Nothing).await;
    let image = registry.put_image("team/app", "1", &[]);
    let name = registry.name("team/app:1").with_digest(image.digest);
    let remote = client().remote(&name);
    assert_eq!(remote.resolve(&name).await.unwrap().descriptor.digest, image.digest);
    let evil = Bytes::from_static(b"{\"schemaVersion\":2,\"layers\":[]}");
    registry.fault(Fault::on(Method::GET, "/manifests/sha256").act(Act::Body(evil)));
    let error = remote.resolve(&name).await.unwrap_err();
    assert!(corrupt(error.kind()), "{error:?}");
    let error = remote.resolve(&registry.name("other/app:1")).await.unwrap_err();
    assert!(matches!(Error::find(&error), Some(Error::OtherRepository { .. })), "{error:?}");
}

#[tokio::test]
async fn a_registry_that_is_not_there() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/app:1", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let error = client().remote(&name).resolve(&name).await.unwrap_err();
    assert_eq!(error.kind(), &StoreErrorKind::Unavailable);
    let error = Error::find(&error).unwrap().to_string();
    assert_eq!(error, format!("GET http://{}/v2/app/manifests/1: no answer", name.registry()));
}

#[tokio::test]
async fn redirects_are_followed_and_end() {
    let elsewhere = Registry::start(Demand::Nothing).await;
    let layer = noise(LAYER);
    elsewhere.put_blob("cdn", layer.clone());
    let target = elsewhere.url(&format!("/v2/cdn/blobs/{}", Digest::of(&layer)));
    for status in [301, 302, 303, 307, 308] {
        let redirect = Act::Answer(status, vec![("location", target.clone())]);
        check("redirect", "/blobs/LAYER", (1, redirect), Pulled).await;
    }
    let other = |kind: &StoreErrorKind| *kind == StoreErrorKind::Other;
    let circle = Act::Answer(307, vec![("location", "1".to_owned())]);
    let registry = check("circle", "/manifests/1", (99, circle), Fails(other)).await;
    assert_eq!(registry.requests().len(), 9);
    let nowhere = Act::Answer(307, vec![]);
    check("no location", "/manifests/1", (99, nowhere), Fails(other)).await;
    let file = Act::Answer(307, vec![("location", "file:///etc/passwd".to_owned())]);
    check("another scheme", "/manifests/1", (99, file), Fails(other)).await;
}
