//! Registries that lie, break off or are not there, and a disk that remembers.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use rbuild_test_registry::{Act, Fault, Method, Options, Support};
use tonic::Code;

use crate::support::{Node, put};

#[tokio::test]
async fn what_is_not_there_or_not_reached() {
    let node = Node::start().await;
    let error = node.pull(&node.name("none:1")).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let error = node.pull(&format!("{address}/app:1")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unknown, "{error}");
    assert!(error.message().starts_with("RegistryUnavailable: "), "{error}");
}

#[tokio::test]
async fn lies_land_nowhere() {
    let node = Node::start().await;
    let parts = put(&node.registry, "app", "1", "", &[vec![1; 5000].into()]);
    let path = format!("/blobs/{}", parts.layers[0].digest);
    for lie in [vec![2; 5000], vec![1; 4999], vec![1; 6000]] {
        // One that breaks off is asked for the rest, and sends a beginning again.
        node.registry.fault(Fault::on("GET", &path).times(1).act(Act::Body(Bytes::from(lie))));
        assert!(node.pull(&node.name("app:1")).await.is_err());
        assert!(!node.has_blob(&parts.layers[0].digest));
        assert_eq!(node.list(None).await, []);
    }
    node.pull(&node.name("app:1")).await.unwrap();
}

#[tokio::test]
async fn an_attempt_goes_on_where_the_one_before_it_ended() {
    let node = Node::start().await;
    let layer: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    let parts = put(&node.registry, "app", "1", "", &[layer.clone().into()]);
    let partial = node.root.join("partial");
    fs::create_dir_all(&partial).unwrap();
    fs::write(partial.join(parts.layers[0].digest.hex()), &layer[..900_000]).unwrap();
    node.pull(&node.name("app:1")).await.unwrap();
    let logged = node.registry.log();
    let ranges: Vec<_> = logged.iter().filter_map(|request| request.headers.get("range")).collect();
    assert_eq!(ranges, ["bytes=900000-"]);
    assert!(!partial.exists());
}

#[tokio::test]
async fn a_damaged_beginning_is_fetched_again() {
    for ranges in [Support::Yes, Support::No] {
        let node = Node::with(Options { ranges, ..Options::default() }, |_| {}).await;
        let parts = put(&node.registry, "app", "1", "", &[vec![1; 50_000].into()]);
        let partial = node.root.join("partial");
        fs::create_dir_all(&partial).unwrap();
        fs::write(partial.join(parts.layers[0].digest.hex()), vec![0; 40_000]).unwrap();
        node.pull(&node.name("app:1")).await.unwrap();
        assert!(node.has_blob(&parts.layers[0].digest));
    }
}

#[tokio::test]
async fn broken_lines_and_refusals_are_tried_again() {
    let node = Node::start().await;
    let parts = put(&node.registry, "app", "1", "", &[vec![1; 50_000].into()]);
    let path = format!("/blobs/{}", parts.layers[0].digest);
    node.registry.fault(Fault::on("GET", &path).act(Act::ResetAfter(30_000)));
    node.registry.fault(Fault::on("GET", &path).act(Act::Answer(429, vec![("retry-after", "0".into())])));
    node.pull(&node.name("app:1")).await.unwrap();
    assert!(node.registry.count(Method::GET, &path) >= 3);
}

#[tokio::test]
async fn pulls_that_stand_still_are_ended() {
    let node = Node::with(Options::default(), |options| options.patience = Duration::from_millis(50)).await;
    let parts = put(&node.registry, "app", "1", "", &["one".into()]);
    let path = format!("/blobs/{}", parts.layers[0].digest);
    node.registry.fault(Fault::on("GET", path).act(Act::Silence));
    let error = node.pull(&node.name("app:1")).await.unwrap_err();
    assert!(error.message().contains("made no progress"), "{error}");
}

#[tokio::test]
async fn policies_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.json");
    let node = Node::with(Options::default(), |options| options.policy = Some(path.clone())).await;
    put(&node.registry, "app", "1", "", &["one".into()]);
    for (policy, expect) in [
        (r#"{"default": [{"type": "reject"}]}"#, "is rejected by the policy"),
        (r#"{"default": [{"type": "signedBy"}]}"#, "cannot be checked here"),
        ("", "cannot parse"),
    ] {
        fs::write(&path, policy).unwrap();
        let error = node.pull(&node.name("app:1")).await.unwrap_err();
        assert_eq!(error.code(), Code::Unknown);
        assert!(error.message().starts_with("SignatureValidationFailed: "), "{error}");
        assert!(error.message().contains(expect), "{error}");
    }
    fs::write(&path, r#"{"default": [{"type": "insecureAcceptAnything"}]}"#).unwrap();
    node.pull(&node.name("app:1")).await.unwrap();
}
