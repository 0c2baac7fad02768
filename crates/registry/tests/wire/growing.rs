//! Layers that are sent while they are written.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use rbuild_image::{Descriptor, StoreError, media_type};
use rbuild_registry::{Error, GrowingFile, Growth};
use rbuild_test_registry::Method;

use crate::support::{Act, Fault, Options, Registry, Uploads, client, noise};

const SIZE: usize = 2 << 20;
const STEP: usize = 100_000;

/// Writes a layer bit by bit, each bit once the one before has been asked for.
fn write(path: &Path, growth: Growth) -> Descriptor {
    let bytes = noise(SIZE);
    let mut file = std::fs::File::create(path).unwrap();
    for (number, piece) in bytes.chunks(STEP).enumerate() {
        file.write_all(piece).unwrap();
        growth.advance((number * STEP + piece.len()) as u64);
    }
    let descriptor = Descriptor::of(media_type::OCI_LAYER, &bytes);
    growth.complete(descriptor.clone());
    descriptor
}

/// Pushes a layer of which the first step is there when the push begins.
async fn push(registry: &Registry) -> Result<Descriptor, StoreError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layer");
    std::fs::write(&path, &noise(SIZE)[..STEP]).unwrap();
    let (file, growth) = GrowingFile::new(&path);
    growth.advance(STEP as u64);
    let remote = client().remote(&registry.name("team/app"));
    let pushing = tokio::spawn(async move { remote.push_growing(Arc::new(file)).await });
    // The stream is open, or was refused, before the layer goes on.
    while registry.count(Method::PATCH, "") == 0 && !pushing.is_finished() {
        tokio::task::yield_now().await;
    }
    write(&path, growth);
    pushing.await.unwrap()
}

async fn check(options: Options, faults: Vec<Fault>, expect: &[&str]) {
    let what = format!("{faults:?}");
    let registry = Registry::start(options).await;
    faults.into_iter().for_each(|fault| registry.fault(fault));
    let descriptor = push(&registry).await.unwrap();
    assert_eq!(registry.blob("team/app", descriptor.digest), Some(noise(SIZE)), "{what}");
    let requests: Vec<String> = registry
        .requests()
        .iter()
        .map(|line| line.replace("/v2/team/app/blobs/", "").replace(&descriptor.digest.to_string(), "DIGEST"))
        .collect();
    assert_eq!(requests, expect, "{what}");
}

#[tokio::test]
async fn one_stream_while_it_is_written() {
    let straight = ["POST uploads/", "PATCH uploads/session-1", "HEAD DIGEST", "PUT uploads/session-1"];
    check(Options::default(), vec![], &straight).await;
}

#[tokio::test]
async fn a_broken_stream_goes_on() {
    let cut = |length| Fault::on("PATCH", "/uploads/").act(Act::ResetUploadAfter(length));
    let resumed = [
        "POST uploads/",
        "PATCH uploads/session-1",
        "GET uploads/session-1",
        "PATCH uploads/session-1",
        "HEAD DIGEST",
        "PUT uploads/session-1",
    ];
    check(Options::default(), vec![cut(1_000_000)], &resumed).await;
    let lost = Fault::on("PUT", "/uploads/").act(Act::Reset);
    let resumed = [
        "POST uploads/",
        "PATCH uploads/session-1",
        "HEAD DIGEST",
        "PUT uploads/session-1",
        "HEAD DIGEST",
        "GET uploads/session-1",
        "PUT uploads/session-1",
    ];
    check(Options::default(), vec![lost], &resumed).await;
}

#[tokio::test]
async fn registries_without_streams_get_it_whole() {
    let options = Options { uploads: Uploads::MonolithicOnly, ..Options::default() };
    let whole = ["POST uploads/", "PATCH uploads/session-1", "POST uploads/", "PUT uploads/session-2"];
    check(options, vec![], &whole).await;
}

#[tokio::test]
async fn a_layer_that_came_another_way_is_not_stored_twice() {
    let registry = Registry::start(Options::default()).await;
    let descriptor = registry.put_blob("team/app", noise(SIZE));
    assert_eq!(push(&registry).await.unwrap(), descriptor);
    assert_eq!(registry.count(Method::PUT, ""), 0);
    assert_eq!(registry.count(Method::DELETE, "/uploads/session-1"), 1);
}

#[tokio::test]
async fn a_writer_that_gives_up_stores_nothing() {
    let registry = Registry::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layer");
    std::fs::write(&path, "some").unwrap();
    let (file, growth) = GrowingFile::new(&path);
    growth.advance(4);
    let remote = client().remote(&registry.name("team/app"));
    let (pushed, ()) = tokio::join!(remote.push_growing(Arc::new(file)), async { drop(growth) });
    let error = pushed.unwrap_err();
    assert!(matches!(Error::find(&error), Some(Error::Local { .. } | Error::Abandoned)), "{error:?}");
    assert_eq!(registry.count(Method::PUT, ""), 0);
}
