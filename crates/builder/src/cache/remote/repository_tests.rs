//! Writers at the same time, writers that die, and registries that remove or keep.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use rbuild_image::{BytesContent, Content};
use rbuild_registry::{Client, ClientOptions};
use rbuild_test_registry::{Fault, Options, Registry};

use super::super::entry::tests::entry;
use super::super::entry::{CacheEntry, EMPTY};
use super::*;

/// The manifests of entries, and layers that hold the entry's own name.
struct Named<'a>(&'a ScopeIndex, Vec<Bytes>);

impl<'a> Named<'a> {
    fn new(index: &'a ScopeIndex, names: &[String]) -> Self {
        Self(index, names.iter().map(|name| name.clone().into()).chain([Bytes::from_static(EMPTY)]).collect())
    }
}

impl Source for Named<'_> {
    fn resolve<'a>(&'a self, _: &'a Reference) -> BoxFuture<'a, Result<Resolved, StoreError>> {
        Box::pin(async { Err(StoreError::new(StoreErrorKind::NotFound, "not asked for")) })
    }

    fn manifest<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        let bytes = self.0.entries[&descriptor.digest].manifest().bytes().clone();
        Box::pin(async move { Ok(bytes) })
    }

    fn content<'a>(&'a self, wanted: &'a Descriptor) -> BoxFuture<'a, Result<Arc<dyn Content>, StoreError>> {
        let bytes = self.1.iter().find(|bytes| Digest::of(bytes) == wanted.digest).cloned().expect("a blob");
        Box::pin(async move { Ok(Arc::new(BytesContent(bytes)) as Arc<dyn Content>) })
    }
}

fn client() -> Client {
    Client::new(ClientOptions::default()).expect("a client")
}

fn place(registry: &Registry) -> CachePlace {
    CachePlace::Registry(registry.name("team/cache:main"))
}

/// A repository with a client, and so connections, of its own.
fn opened(place: &CachePlace) -> CacheRepository {
    CacheRepository::new(place, &CacheScope::default(), Some(&client()), Use::Write).expect("sound names")
}

async fn add(place: &CachePlace, names: &[String]) -> Result<(), RemoteCacheError> {
    let index = ScopeIndex::of(names.iter().map(|name| entry(name)));
    let source = Named::new(&index, names);
    opened(place).add(index.clone(), &source, &names.concat()).await
}

/// The first keys of all entries, sorted.
async fn keys(place: &CachePlace) -> Vec<Digest> {
    let repository = opened(place);
    let index = repository.read(&repository.find().await.expect("an answer")).await.expect("ours");
    let mut keys: Vec<Digest> =
        index.entries.values().filter_map(|entry: &CacheEntry| entry.keys.first().copied()).collect();
    keys.sort_unstable();
    keys
}

fn expected(names: &[String]) -> Vec<Digest> {
    let mut keys: Vec<Digest> = names.iter().map(|name| Digest::of(name.as_bytes())).collect();
    keys.sort_unstable();
    keys
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("entry {number}")).collect()
}

async fn twenty_writers(place: &CachePlace) {
    let names = names(20);
    let writers = names.iter().map(|name| {
        let (place, name) = (place.clone(), name.clone());
        tokio::spawn(async move { add(&place, &[name]).await.expect("written") })
    });
    for written in join_all(writers).await {
        written.expect("a writer");
    }
    assert_eq!(keys(place).await, expected(&names));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_writers_at_once_lose_nothing_in_a_registry() {
    let registry = Registry::start(Options::default()).await;
    twenty_writers(&place(&registry)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_writers_at_once_lose_nothing_in_a_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    twenty_writers(&CachePlace::Directory(directory.path().join("cache"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_late_write_undoes_is_read_from_the_notes() {
    let registry = Registry::start(Options::default()).await;
    let place = place(&registry);
    let names = names(3);
    add(&place, &names[..1]).await.expect("written");
    let stale = registry.manifest("team/cache", "main").expect("the tag");
    add(&place, &names[1..2]).await.expect("written");
    assert_eq!(keys(&place).await, expected(&names[..2]));
    registry.put_manifest("team/cache", "main", rbuild_image::media_type::OCI_INDEX, stale);
    assert_eq!(keys(&place).await, expected(&names[..2]), "the tag lacks the second, its note has it");
    add(&place, &names[2..]).await.expect("written");
    let whole = registry.manifest("team/cache", "main").expect("the tag");
    let whole =
        Resolved { descriptor: Descriptor::of(rbuild_image::media_type::OCI_INDEX, &whole), bytes: whole };
    let index = ScopeIndex::parse(&whole, &CacheScope::default()).expect("ours");
    assert_eq!(index.entries.len(), 3, "the next writer brings all together");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_dies_before_it_merges_loses_nothing() {
    let registry = Registry::start(Options::default()).await;
    let place = place(&registry);
    let refused = rbuild_test_registry::Act::answer(403);
    registry.fault(Fault::on("PUT", "/manifests/main").act(refused).after(0).times(1));
    // The note's tag begins in the same way, so that the first PUT of all is what is refused.
    let names = names(2);
    assert!(add(&place, &names[..1]).await.is_err());
    assert_eq!(keys(&place).await, expected(&[]));
    let refused = rbuild_test_registry::Act::answer(403);
    registry.fault(Fault::on("PUT", "/manifests/main").act(refused).after(1).times(1));
    assert!(add(&place, &names[..1]).await.is_err(), "the merge is refused");
    assert_eq!(keys(&place).await, expected(&names[..1]), "the note speaks for itself");
    add(&place, &names[1..]).await.expect("written");
    assert_eq!(keys(&place).await, expected(&names));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_notes_go_and_what_the_registry_lost_is_dropped() {
    let registry = Registry::start(Options::default()).await;
    let place = place(&registry);
    let names = names(4);
    add(&place, &names[..2]).await.expect("written");
    let repository = opened(&place);
    let mut index = repository.read(&repository.find().await.expect("an answer")).await.expect("ours");
    assert_eq!(index.merged.len(), 1);
    let notes = || registry.requests().iter().filter(|request| request.starts_with("DELETE")).count();
    for since in index.merged.values_mut() {
        *since = seconds(SystemTime::now() - NOTE_AGE - Duration::from_secs(60));
    }
    repository.write(&index).await.expect("written");
    assert_eq!(notes(), 0);
    add(&place, &names[2..3]).await.expect("written");
    assert_eq!(notes(), 1, "the old note went");
    assert_eq!(keys(&place).await, expected(&names[..3]));

    let lost = entry(&names[0]).manifest().digest();
    let Kept::Registry(remote) = &repository.kept else { panic!("a registry") };
    assert_eq!(remote.remove_manifest(lost).await.expect("an answer"), Removal::Removed);
    add(&place, &names[3..]).await.expect("written");
    assert_eq!(keys(&place).await, expected(&names[1..]), "an index of what is not there is refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_ours_is_left_alone() {
    let registry = Registry::start(Options::default()).await;
    registry.put_image("team/cache", "main", &[Bytes::from_static(b"layer")]);
    let before = registry.manifest("team/cache", "main");
    let outcome = add(&place(&registry), &names(1)).await;
    assert!(matches!(outcome, Err(RemoteCacheError::Foreign(_))), "{outcome:?}");
    assert_eq!(registry.manifest("team/cache", "main"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_is_not_seen_for_a_moment_is_waited_for() {
    let registry = Registry::start(Options::default()).await;
    let unknown = rbuild_test_registry::Act::answer(400);
    registry.fault(Fault::on("PUT", "/manifests/sha256:").act(unknown).times(2));
    let names = names(3);
    add(&place(&registry), &names).await.expect("written");
    assert_eq!(keys(&place(&registry)).await, expected(&names));
}
