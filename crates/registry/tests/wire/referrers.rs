//! Manifests that say something about others.

use std::sync::Arc;

use bytes::Bytes;
use rbuild_image::{BytesContent, Descriptor, Index, Manifest, Raw, Sink as _, media_type};
use rbuild_test_registry::Method;

use crate::support::{Options, Registry, Support, client};

const KIND: &str = "application/vnd.example.sbom";

/// A manifest of an artifact about `subject`.
fn about(subject: &Descriptor, number: u32) -> (Descriptor, Bytes) {
    let empty = Descriptor::of(media_type::OCI_EMPTY, b"{}");
    let manifest: Raw<Manifest> = Raw::parse(
        serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "artifactType": KIND,
            "config": empty,
            "layers": [empty],
            "subject": subject,
            "annotations": {"number": number.to_string()},
        })
        .to_string()
        .into(),
    )
    .unwrap();
    let bytes = manifest.bytes().clone();
    (Descriptor::of(media_type::OCI_MANIFEST, &bytes), bytes)
}

async fn check(referrers: Support) -> Registry {
    let registry = Registry::start(Options { referrers, ..Options::default() }).await;
    let image = registry.put_image("team/app", "1", &[]);
    let subject = Descriptor { platform: None, ..image };
    let remote = client().remote(&registry.name("team/app"));
    assert_eq!(remote.referrers(subject.digest, None).await.unwrap(), []);
    let empty = Descriptor::of(media_type::OCI_EMPTY, b"{}");
    remote.push(&empty, Arc::new(BytesContent("{}".into()))).await.unwrap();
    let mut pushed = Vec::new();
    for number in [1, 2, 2] {
        let (descriptor, bytes) = about(&subject, number);
        remote.push_manifest(&descriptor, bytes).await.unwrap();
        pushed.push(descriptor.digest);
    }
    let listed = remote.referrers(subject.digest, Some(KIND)).await.unwrap();
    let mut digests: Vec<_> = listed.iter().map(|found| found.digest).collect();
    digests.sort();
    pushed.sort();
    pushed.dedup();
    assert_eq!(digests, pushed);
    assert!(listed.iter().all(|found| found.annotations.contains_key("number")));
    assert_eq!(remote.referrers(subject.digest, Some("other")).await.unwrap(), []);
    registry
}

#[tokio::test]
async fn the_registry_keeps_account() {
    let registry = check(Support::Yes).await;
    assert_eq!(registry.count(Method::PUT, "/manifests/sha256-"), 0);
}

#[tokio::test]
async fn a_tag_stands_in_for_the_api() {
    let registry = check(Support::No).await;
    assert_eq!(
        registry.count(Method::PUT, "/manifests/sha256-"),
        2,
        "the one that is listed is not listed again"
    );
}

#[tokio::test]
async fn an_index_may_have_a_subject() {
    let registry = Registry::start(Options { referrers: Support::No, ..Options::default() }).await;
    let subject = Descriptor { platform: None, ..registry.put_image("team/app", "1", &[]) };
    let index = Index { subject: Some(subject.clone()), ..Index::new(vec![]) };
    let bytes = Raw::from_value(index).bytes().clone();
    let descriptor = Descriptor::of(media_type::OCI_INDEX, &bytes);
    let remote = client().remote(&registry.name("team/app"));
    remote.push_manifest(&descriptor, bytes).await.unwrap();
    let listed = remote.referrers(subject.digest, None).await.unwrap();
    assert_eq!(listed.iter().map(|found| found.digest).collect::<Vec<_>>(), [descriptor.digest]);
}
