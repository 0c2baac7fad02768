//! The order and the economy of copies.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rbuild_image::{Descriptor, Index, Memory, Platform, Raw, media_type};
use rbuild_registry::{Client, ClientOptions, CopyError, CopyOptions, Progress, RetryPolicy, Transfer, copy};
use rbuild_test_registry::Method;

use crate::support::{Act, Demand, Fault, Registry, Unreliable, client, noise, quick};

fn tagged(name: &rbuild_image::Reference) -> CopyOptions {
    CopyOptions { tags: vec![name.clone()], ..CopyOptions::default() }
}

/// Stores an index of images, one for each platform.
fn put_index(registry: &Registry, platforms: &[&str]) -> Descriptor {
    let image = |(number, platform): (usize, &&str)| {
        let layers = [noise(5000), noise(100 + number)];
        let mut descriptor = registry.put_image("team/app", platform, &layers);
        descriptor.platform = Some(platform.parse::<Platform>().unwrap());
        descriptor
    };
    let index = Index::new(platforms.iter().enumerate().map(image).collect());
    registry.put_manifest("team/app", "1", media_type::OCI_INDEX, Raw::from_value(index).bytes().clone())
}

#[tokio::test]
async fn children_before_parents_and_the_tag_last() {
    let source = Registry::start(Demand::Nothing).await;
    let root = put_index(&source, &["linux/amd64", "linux/arm64/v8"]);
    let sink = Registry::start(Demand::Nothing).await;
    let (from, to) = (source.name("team/app:1"), sink.name("team/copy:2"));
    let client = client();
    let copied = copy(&client.remote(&from), &client.remote(&to), &from, &tagged(&to)).await.unwrap();
    assert_eq!(copied.digest, root.digest);
    assert_eq!(sink.manifest("team/copy", "2"), source.manifest("team/app", "1"));
    let puts: Vec<String> = sink.requests().into_iter().filter(|line| line.starts_with("PUT")).collect();
    let (blobs, manifests): (Vec<_>, Vec<_>) = puts.iter().partition(|line| line.contains("/blobs/"));
    assert_eq!(blobs.len(), 5, "two configs, two layers, and the one both share once");
    assert_eq!(manifests.len(), 3);
    assert_eq!(puts.iter().position(|line| line.contains("/manifests/")), Some(blobs.len()));
    assert_eq!(puts.last().unwrap(), "PUT /v2/team/copy/manifests/2");

    let before = sink.requests().len();
    copy(&client.remote(&from), &client.remote(&to), &from, &tagged(&to)).await.unwrap();
    let again = sink.requests().split_off(before);
    assert_eq!(
        again.iter().filter(|line| line.starts_with("HEAD")).count(),
        5,
        "one HEAD for each blob: {again:?}"
    );
    assert!(!again.iter().any(|line| line.starts_with("POST")), "{again:?}");
}

#[tokio::test]
async fn one_platform_of_an_index() {
    let registry = Registry::start(Demand::Nothing).await;
    put_index(&registry, &["linux/amd64", "linux/arm64/v8"]);
    let name = registry.name("team/app:1");
    let remote = client().remote(&name);
    let select = |platform: &str| CopyOptions { platform: Some(platform.parse().unwrap()), ..tagged(&name) };
    let memory = Memory::new();
    let copied = copy(&remote, &memory, &name, &select("linux/arm64")).await.unwrap();
    assert_eq!(copied.media_type, media_type::OCI_MANIFEST);
    assert_eq!(registry.count(Method::GET, "/blobs/"), 3);
    assert_eq!(memory.names().len(), 1);
    let error = copy(&remote, &memory, &name, &select("windows/amd64")).await.unwrap_err();
    let CopyError::Platform { available, .. } = &error else { panic!("{error}") };
    assert_eq!(available, &["linux/amd64", "linux/arm64/v8"]);
}

#[tokio::test]
async fn within_a_registry_nothing_is_sent() {
    let registry = Registry::start(Demand::Nothing).await;
    registry.put_image("team/app", "1", &[noise(9000)]);
    let (from, to) = (registry.name("team/app:1"), registry.name("team/copy:1"));
    let client = client();
    copy(&client.remote(&from), &client.remote(&to), &from, &tagged(&to)).await.unwrap();
    assert_eq!(registry.count(Method::GET, "/blobs/"), 0);
    assert_eq!(registry.count(Method::POST, "mount="), 2);
    assert_eq!(registry.count(Method::PUT, "/blobs/"), 0);
    assert!(registry.manifest("team/copy", "1").is_some());
}

#[tokio::test]
async fn a_failed_blob_leaves_no_manifest() {
    let source = Registry::start(Demand::Nothing).await;
    let layer = noise(9000);
    source.put_image("team/app", "1", std::slice::from_ref(&layer));
    let digest = rbuild_image::Digest::of(&layer).to_string();
    source.fault(Fault::on(Method::GET, digest).times(99).act(Act::Body(Bytes::from(vec![0; 9000]))));
    let sink = Registry::start(Demand::Nothing).await;
    let (from, to) = (source.name("team/app:1"), sink.name("team/copy:1"));
    let client = client();
    copy(&client.remote(&from), &client.remote(&to), &from, &tagged(&to)).await.unwrap_err();
    assert_eq!(sink.count(Method::PUT, "/manifests/"), 0);
}

#[tokio::test]
async fn progress_is_told() {
    let registry = Registry::start(Demand::Nothing).await;
    let layer = noise(300_000);
    registry.put_image("team/app", "1", std::slice::from_ref(&layer));
    let name = registry.name("team/app:1");
    let heard: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let ears = heard.clone();
    let options = CopyOptions {
        on_progress: Some(Arc::new(move |progress| ears.lock().unwrap().push(progress))),
        ..tagged(&name)
    };
    copy(&client().remote(&name), &Memory::new(), &name, &options).await.unwrap();
    let heard = heard.lock().unwrap();
    let of_layer: Vec<Transfer> =
        heard.iter().filter(|progress| progress.size == 300_000).map(|progress| progress.transfer).collect();
    assert_eq!(of_layer.first(), Some(&Transfer::Started));
    assert!(of_layer.contains(&Transfer::Advanced(300_000)), "{of_layer:?}");
    assert_eq!(of_layer.last(), Some(&Transfer::Finished));
}

#[tokio::test]
async fn indexes_without_end_are_refused() {
    let registry = Registry::start(Demand::Nothing).await;
    let mut child = registry.put_image("team/app", "deep", &[]);
    for _ in 0..12 {
        let index = Raw::from_value(Index::new(vec![child]));
        child = registry.put_manifest("team/app", "1", media_type::OCI_INDEX, index.bytes().clone());
    }
    let name = registry.name("team/app:1");
    let error =
        copy(&client().remote(&name), &Memory::new(), &name, &CopyOptions::default()).await.unwrap_err();
    assert!(matches!(error, CopyError::TooMany { .. }), "{error}");
}

#[tokio::test]
async fn a_bad_line_between_bad_registries() {
    let source = Registry::start(Demand::Nothing).await;
    let layers: Vec<Bytes> = (0..30).map(|number| noise(20_000 + number)).collect();
    source.put_image("team/app", "1", &layers);
    let demand = Demand::Bearer { realm: None, account: None, expires_in: Some(300) };
    let sink = Registry::start(demand).await;
    let (from, to) = (source.name("team/app:1"), sink.name("team/copy:1"));
    let unreliable = |seed| Some(Unreliable { seed, resets: 30, refusals: 14 });
    source.set_unreliable(unreliable(1));
    sink.set_unreliable(unreliable(2));
    let retry = RetryPolicy { attempts: 12, ..quick() };
    let client = Client::new(ClientOptions { retry, ..ClientOptions::default() }).unwrap();
    copy(&client.remote(&from), &client.remote(&to), &from, &tagged(&to)).await.unwrap();
    for layer in layers {
        assert_eq!(sink.blob("team/copy", rbuild_image::Digest::of(&layer)), Some(layer));
    }
    assert_eq!(sink.manifest("team/copy", "1"), source.manifest("team/app", "1"));
}
