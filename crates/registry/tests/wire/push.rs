//! Pushing to registries that misbehave.

use std::sync::Arc;

use bytes::Bytes;
use rbuild_image::{BytesContent, Descriptor, Digest, Sink as _, StoreErrorKind, media_type};
use rbuild_registry::{Credentials, Error};
use rbuild_test_registry::Method;

use crate::support::{Act, Demand, Fault, Options, Registry, Support, basic, client, client_with, noise};

const SIZE: usize = 400_000;

fn blob() -> (Descriptor, Arc<BytesContent>) {
    let bytes = noise(SIZE);
    (Descriptor::of(media_type::OCI_LAYER, &bytes), Arc::new(BytesContent(bytes)))
}

/// Pushes a blob while `faults` are in force and compares the requests made, their paths cut to the last two parts.
async fn check(faults: Vec<(Method, &str, usize, Act)>, expect: &[&str]) -> Registry {
    let registry = Registry::start(Demand::Nothing).await;
    for (method, path, times, act) in faults {
        registry.fault(Fault::on(method, path).times(times).act(act));
    }
    let (descriptor, content) = blob();
    let remote = client().remote(&registry.name("team/app"));
    remote.push(&descriptor, content).await.unwrap();
    assert_eq!(registry.blob("team/app", descriptor.digest), Some(noise(SIZE)));
    assert_eq!(short(&registry, descriptor.digest), expect);
    registry
}

fn short(registry: &Registry, digest: Digest) -> Vec<String> {
    let cut = |line: String| line.replace("/v2/team/app/blobs/", "").replace(&digest.to_string(), "DIGEST");
    registry.requests().into_iter().map(cut).collect()
}

#[tokio::test]
async fn one_post_and_one_put() {
    let registry = check(vec![], &["POST uploads/", "PUT uploads/session-1"]).await;
    let log = registry.log();
    assert_eq!(log[1].headers["content-length"], SIZE.to_string());
    assert!(log[1].target.contains("state=s3cret&digest=sha256"), "the session's own query stays");
    check(
        vec![(Method::POST, "uploads/", 1, Act::Headers(vec![("location", "session-1".into())]))],
        &["POST uploads/", "PUT uploads/session-1"],
    )
    .await;
}

#[tokio::test]
async fn absolute_locations() {
    let registry = Registry::start(Demand::Nothing).await;
    let location = registry.url("/v2/team/app/blobs/uploads/session-1?a=b");
    registry.fault(Fault::on(Method::POST, "uploads/").act(Act::Headers(vec![("location", location)])));
    let (descriptor, content) = blob();
    client().remote(&registry.name("team/app")).push(&descriptor, content).await.unwrap();
    assert!(registry.blob("team/app", descriptor.digest).is_some());
}

#[tokio::test]
async fn broken_uploads() {
    check(
        vec![(Method::POST, "uploads/", 2, Act::answer(503))],
        &["POST uploads/", "POST uploads/", "POST uploads/", "PUT uploads/session-1"],
    )
    .await;
    let resumed = [
        "POST uploads/",
        "PUT uploads/session-1",
        "HEAD DIGEST",
        "GET uploads/session-1",
        "PATCH uploads/session-1",
        "PUT uploads/session-1",
    ];
    let registry = check(vec![(Method::PUT, "uploads/", 1, Act::ResetUploadAfter(100_000))], &resumed).await;
    assert_eq!(registry.log()[4].headers["content-range"], format!("100000-{}", SIZE - 1));
    assert_eq!(registry.log()[4].headers["content-length"], (SIZE - 100_000).to_string());
    // Nothing was kept: the upload is begun anew.
    check(
        vec![(Method::PUT, "uploads/", 1, Act::ResetUploadAfter(0))],
        &[
            "POST uploads/",
            "PUT uploads/session-1",
            "HEAD DIGEST",
            "GET uploads/session-1",
            "POST uploads/",
            "PUT uploads/session-2",
        ],
    )
    .await;
    check(
        vec![(Method::PUT, "uploads/", 1, Act::LoseAnswer)],
        &["POST uploads/", "PUT uploads/session-1", "HEAD DIGEST"],
    )
    .await;
    check(
        vec![(Method::PUT, "uploads/", 1, Act::Answer(404, vec![]))],
        &["POST uploads/", "PUT uploads/session-1", "POST uploads/", "PUT uploads/session-2"],
    )
    .await;
}

#[tokio::test]
async fn a_token_that_dies_before_the_put() {
    let demand = Demand::Bearer { realm: None, account: Some("me:secret"), expires_in: None };
    let registry = Registry::start(demand).await;
    let challenge = format!(r#"Bearer realm="{}",service="test""#, registry.url("/token"));
    registry.fault(
        Fault::on(Method::PUT, "uploads/").act(Act::Answer(401, vec![("www-authenticate", challenge)])),
    );
    let (descriptor, content) = blob();
    let client = client_with(Credentials::none().with(registry.host(), basic("me", "secret")));
    client.remote(&registry.name("team/app")).push(&descriptor, content).await.unwrap();
    assert!(registry.blob("team/app", descriptor.digest).is_some());
    assert_eq!(registry.count(Method::PUT, "uploads/"), 2);
    assert_eq!(registry.count(Method::GET, "/token"), 2);
}

#[tokio::test]
async fn mounts() {
    let (descriptor, content) = blob();
    let registry = Registry::start(Demand::Nothing).await;
    registry.put_blob("team/base", noise(SIZE));
    let remote = client().remote(&registry.name("team/app"));
    assert!(remote.mount(&descriptor, &registry.name("team/base")).await.unwrap());
    assert!(registry.blob("team/app", descriptor.digest).is_some());
    assert_eq!(short(&registry, descriptor.digest), ["POST uploads/"]);

    let registry = Registry::start(Options { mounts: Support::No, ..Options::default() }).await;
    registry.put_blob("team/base", noise(SIZE));
    let remote = client().remote(&registry.name("team/app"));
    assert!(!remote.mount(&descriptor, &registry.name("team/base")).await.unwrap());
    remote.push(&descriptor, content.clone()).await.unwrap();
    let expect = ["POST uploads/", "PUT uploads/session-1"];
    assert_eq!(short(&registry, descriptor.digest), expect, "the declined mount goes on as that upload");

    for status in [400, 401, 403, 404, 405] {
        let registry = Registry::start(Demand::Nothing).await;
        registry.fault(Fault::on(Method::POST, "mount=").act(Act::Answer(status, vec![])));
        let remote = client().remote(&registry.name("team/app"));
        assert!(!remote.mount(&descriptor, &registry.name("team/base")).await.unwrap(), "{status}");
        remote.push(&descriptor, content.clone()).await.unwrap();
    }
    let elsewhere = Registry::start(Demand::Nothing).await;
    assert!(!remote.mount(&descriptor, &elsewhere.name("team/base")).await.unwrap());
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn a_mount_asks_for_both_repositories() {
    let demand = Demand::Bearer { realm: None, account: None, expires_in: None };
    let registry = Registry::start(demand).await;
    let descriptor = registry.put_blob("team/base", noise(10));
    let remote = client().remote(&registry.name("team/app"));
    assert!(remote.mount(&descriptor, &registry.name("team/base")).await.unwrap());
    let log = registry.log();
    let token = log.iter().find(|logged| logged.target.starts_with("/token")).unwrap();
    assert!(token.target.contains("repository%3Ateam%2Fapp%3Apull%2Cpush"), "{}", token.target);
    assert!(token.target.contains("repository%3Ateam%2Fbase%3Apull"), "{}", token.target);
}

#[tokio::test]
async fn content_that_is_not_what_it_is_called() {
    let (descriptor, _) = blob();
    for (bytes, what) in [
        (noise(SIZE - 1), "short"),
        (Bytes::new(), "empty"),
        (noise(SIZE).iter().map(|byte| byte ^ 1).collect(), "other"),
    ] {
        let registry = Registry::start(Demand::Nothing).await;
        let remote = client().remote(&registry.name("team/app"));
        let error = remote.push(&descriptor, Arc::new(BytesContent(bytes))).await.unwrap_err();
        assert!(registry.blob("team/app", descriptor.digest).is_none());
        assert!(registry.count(Method::PUT, "uploads/") <= 1, "{what} is not tried again");
        match what {
            "other" => assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }), "{error:?}"),
            _ => assert!(matches!(Error::find(&error), Some(Error::Local { .. })), "{what}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn manifests_the_registry_changes_are_refused() {
    let registry = Registry::start(Demand::Nothing).await;
    let bytes = Bytes::from_static(b"{}");
    let descriptor = Descriptor::of(media_type::OCI_MANIFEST, &bytes);
    let name = registry.name("team/app:1");
    let remote = client().remote(&name);
    remote.tag(&descriptor, bytes.clone(), &name).await.unwrap();
    assert_eq!(registry.manifest("team/app", "1"), Some(bytes.clone()));
    let other = Digest::of(b"other").to_string();
    registry.fault(
        Fault::on(Method::PUT, "/manifests/").act(Act::Headers(vec![("docker-content-digest", other)])),
    );
    let error = remote.tag(&descriptor, bytes, &name).await.unwrap_err();
    assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }), "{error:?}");
    let error = remote.tag(&descriptor, Bytes::from_static(b"[]"), &name).await.unwrap_err();
    assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }), "{error:?}");
    assert_eq!(registry.requests().len(), 2, "what is wrong before it is sent is not sent");
}
