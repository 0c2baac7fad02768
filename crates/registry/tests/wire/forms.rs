//! Registries that take uploads in one form only.

use std::sync::Arc;

use bytes::Bytes;
use rbuild_image::{BytesContent, Descriptor, Sink as _, StoreErrorKind, media_type};
use rbuild_registry::Error;

use rbuild_test_registry::Method;

use crate::support::{Act, Fault, Options, Registry, Support, Uploads, client, noise};

const SIZE: usize = 3 << 20;

fn blob() -> (Descriptor, Arc<BytesContent>) {
    let bytes = noise(SIZE);
    (Descriptor::of(media_type::OCI_LAYER, &bytes), Arc::new(BytesContent(bytes)))
}

/// Pushes one blob and then another, and compares how often bytes were sent by PUT and PATCH for each.
async fn check(options: Options, faults: Vec<Fault>, expect: [(usize, usize); 2]) {
    let what = format!("{options:?} {faults:?}");
    let registry = Registry::start(options).await;
    faults.into_iter().for_each(|fault| registry.fault(fault));
    let remote = client().remote(&registry.name("team/app"));
    let mut before = (0, 0);
    for (bytes, expect) in [noise(SIZE), noise(SIZE - 1)].into_iter().zip(expect) {
        let descriptor = Descriptor::of(media_type::OCI_LAYER, &bytes);
        remote.push(&descriptor, Arc::new(BytesContent(bytes.clone()))).await.unwrap();
        assert_eq!(registry.blob("team/app", descriptor.digest), Some(bytes), "{what}");
        let carries = |method: Method| {
            let log = registry.log();
            let carries = |length: &reqwest::header::HeaderValue| length != "0";
            log.iter()
                .filter(|logged| {
                    logged.method == method && logged.headers.get("content-length").is_none_or(carries)
                })
                .count()
        };
        let now = (carries(Method::PUT), carries(Method::PATCH));
        assert_eq!((now.0 - before.0, now.1 - before.1), expect, "{what}");
        before = now;
    }
}

#[tokio::test]
async fn what_a_registry_does_not_take_is_tried_once() {
    let uploads = |uploads| Options { uploads, ..Options::default() };
    check(uploads(Uploads::Any), vec![], [(1, 0), (1, 0)]).await;
    check(uploads(Uploads::ChunkedOnly), vec![], [(1, 1), (0, 1)]).await;
    check(uploads(Uploads::MonolithicOnly), vec![], [(1, 0), (1, 0)]).await;
    let cut = || Fault::on("PUT", "/uploads/").act(Act::ResetUploadAfter(100_000));
    check(uploads(Uploads::MonolithicOnly), vec![cut()], [(2, 1), (1, 0)]).await;
}

#[tokio::test]
async fn bodies_are_cut_to_what_passes() {
    let limited = |max| Options { max_body: Some(max), ..Options::default() };
    // 3 MiB: one PUT that is too large, then parts of 1 MiB.
    check(limited(1 << 20), vec![], [(1, 3), (0, 3)]).await;
    check(limited(300 << 10), vec![], [(1, 13), (0, 12)]).await;
    let least = Act::Headers(vec![("oci-chunk-min-length", (2 << 20).to_string())]);
    let least = Fault::on("POST", "/uploads/").times(9).act(least);
    check(limited(2 << 20), vec![least], [(1, 2), (0, 2)]).await;
    let registry = Registry::start(limited(1000)).await;
    let (descriptor, content) = blob();
    let error = client().remote(&registry.name("team/app")).push(&descriptor, content).await.unwrap_err();
    assert_eq!(
        Error::find(&error).and_then(Error::status).map(|status| status.as_u16()),
        Some(413),
        "{error:?}"
    );
}

#[tokio::test]
async fn parts_go_on_where_the_registry_is() {
    // Parts of 1 MiB, of which the second is cut and the third one's answer lost.
    let registry = Registry::start(Options { max_body: Some(1 << 20), ..Options::default() }).await;
    registry.fault(Fault::on("PATCH", "/uploads/").after(1).act(Act::ResetUploadAfter(1000)));
    registry.fault(Fault::on("PATCH", "/uploads/").after(3).act(Act::LoseAnswer));
    let (descriptor, content) = blob();
    client().remote(&registry.name("team/app")).push(&descriptor, content).await.unwrap();
    assert!(registry.blob("team/app", descriptor.digest).is_some());
    let ranges: Vec<String> = registry
        .log()
        .iter()
        .filter_map(|logged| Some(logged.headers.get("content-range")?.to_str().unwrap().to_owned()))
        .collect();
    let mib = 1 << 20;
    let range = |from: usize, to: usize| format!("{from}-{}", to - 1);
    let second = mib + 1000;
    assert_eq!(
        ranges,
        [range(0, mib), range(mib, 2 * mib), range(second, second + mib), range(second + mib, SIZE),]
    );
}

#[tokio::test]
async fn what_is_not_kept_is_sent_anew() {
    let options = Options { partial_uploads: Support::No, ..Options::default() };
    let registry = Registry::start(options).await;
    registry.fault(Fault::on("PUT", "/uploads/").times(2).act(Act::ResetUploadAfter(1 << 20)));
    let (descriptor, content) = blob();
    client().remote(&registry.name("team/app")).push(&descriptor, content).await.unwrap();
    assert!(registry.blob("team/app", descriptor.digest).is_some());
    assert_eq!(registry.count(Method::PATCH, ""), 0);
}

#[tokio::test]
async fn locations_may_be_odd() {
    let elsewhere = Registry::start(Options::default()).await;
    let path = "/v2/team/app/blobs/uploads/session-1";
    for (location, foreign) in [
        ("session-1".to_owned(), false),
        (path.to_owned(), false),
        (format!("{path}?a=b%2Fc&state=x#fragment"), false),
        (elsewhere.url(path), true),
    ] {
        let registry = Registry::start(Options::default()).await;
        let target = if foreign { &elsewhere } else { &registry };
        if foreign {
            elsewhere.open_session();
        }
        registry.fault(Fault::on("POST", "").act(Act::Headers(vec![("location", location.clone())])));
        let (descriptor, content) = blob();
        client().remote(&registry.name("team/app")).push(&descriptor, content).await.unwrap();
        assert!(target.blob("team/app", descriptor.digest).is_some(), "{location}");
    }
}

#[tokio::test]
async fn refusals_are_final() {
    for status in [403, 409, 415, 507] {
        let registry = Registry::start(Options::default()).await;
        registry.fault(Fault::on("PUT", "/uploads/").times(9).act(Act::answer(status)));
        let (descriptor, content) = blob();
        let error = client().remote(&registry.name("team/app")).push(&descriptor, content).await.unwrap_err();
        assert_ne!(error.kind(), &StoreErrorKind::Unavailable, "{status}");
        assert_eq!(registry.count(Method::PUT, ""), 1, "{status}");
    }
}

#[tokio::test]
async fn empty_blobs_are_blobs() {
    let registry = Registry::start(Options { uploads: Uploads::ChunkedOnly, ..Options::default() }).await;
    let descriptor = Descriptor::of(media_type::OCI_LAYER, b"");
    let content = Arc::new(BytesContent(Bytes::new()));
    client().remote(&registry.name("team/app")).push(&descriptor, content).await.unwrap();
    assert_eq!(registry.blob("team/app", descriptor.digest), Some(Bytes::new()));
}
