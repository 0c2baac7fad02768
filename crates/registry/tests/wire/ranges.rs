//! Large blobs, fetched in several parts at once.

use bytes::Bytes;
use rbuild_image::{Descriptor, Digest, Layout, Memory, Source as _, StoreErrorKind};
use rbuild_registry::{CopyError, CopyOptions, copy};
use rbuild_test_registry::Method;
use tokio::io::AsyncReadExt as _;

use crate::support::{Act, Fault, Options, Registry, Support, client, noise};

/// Just above the size from which blobs are fetched in parts, and no multiple of a part.
const SIZE: usize = (33 << 20) + 5;
const PART: usize = 4 << 20;

async fn pull(registry: &Registry) -> Result<Memory, StoreErrorKind> {
    let name = registry.name("team/app:1");
    let memory = Memory::new();
    match copy(&client().remote(&name), &memory, &name, &CopyOptions::default()).await {
        Ok(_) => Ok(memory),
        Err(CopyError::Store(error)) => Err(error.kind().clone()),
        Err(other) => panic!("{other}"),
    }
}

async fn start(options: Options) -> (Registry, Bytes, String) {
    let registry = Registry::start(options).await;
    let layer = noise(SIZE);
    registry.put_image("team/app", "1", std::slice::from_ref(&layer));
    let target = format!("/blobs/{}", Digest::of(&layer));
    (registry, layer, target)
}

fn ranges(registry: &Registry) -> Vec<String> {
    let range = |name: &str, logged: &rbuild_test_registry::Logged| {
        Some(logged.headers.get(name)?.to_str().unwrap().to_owned())
    };
    registry.log().iter().filter_map(|logged| range("range", logged)).collect()
}

#[tokio::test]
async fn parts_are_put_together() {
    let (registry, layer, target) = start(Options::default()).await;
    let memory = pull(&registry).await.unwrap();
    assert_eq!(memory.get(&Digest::of(&layer)), Some(layer.clone()));
    assert_eq!(registry.count(Method::GET, &target), SIZE.div_ceil(PART));
    let mut asked = ranges(&registry);
    assert_eq!(asked.first().map(String::as_str), Some("bytes=0-4194303"));
    asked.sort();
    assert!(asked.contains(&format!("bytes={}-", 8 * PART)), "{asked:?}");
    // From the middle too, as a broken upload reads it.
    let descriptor = Descriptor::of("x", &layer);
    let content = client().remote(&registry.name("team/app")).content(&descriptor).await.unwrap();
    let mut rest = Vec::new();
    content.open(7).await.unwrap().read_to_end(&mut rest).await.unwrap();
    assert!(rest == layer[7..]);
}

#[tokio::test]
async fn broken_parts_go_on_where_they_broke() {
    let (registry, layer, target) = start(Options::default()).await;
    registry.fault(Fault::on("GET", &target).after(2).times(2).act(Act::ResetAfter(1_000_000)));
    registry.fault(Fault::on("GET", &target).after(6).act(Act::answer(503)));
    let memory = pull(&registry).await.unwrap();
    assert_eq!(memory.get(&Digest::of(&layer)), Some(layer.clone()));
    let log = registry.log();
    let resumed: Vec<_> = log.iter().filter(|logged| logged.headers.contains_key("if-range")).collect();
    assert_eq!(resumed.len(), 2);
    for logged in resumed {
        assert_eq!(logged.headers["if-range"], format!("\"{}\"", Digest::of(&layer)));
        let from = logged.headers["range"].to_str().unwrap();
        assert!(
            from.trim_start_matches("bytes=")
                .split('-')
                .next()
                .unwrap()
                .ends_with(|c: char| c.is_ascii_digit())
        );
    }
    let sent = registry.traffic().sent as usize;
    assert!(sent < SIZE + SIZE / 100, "{sent} bytes for {SIZE}");
}

#[tokio::test]
async fn without_ranges_it_comes_in_one_stream() {
    let (registry, layer, target) = start(Options { ranges: Support::No, ..Options::default() }).await;
    registry.fault(Fault::on("GET", &target).act(Act::ResetAfter(1_000_000)));
    let memory = pull(&registry).await.unwrap();
    assert_eq!(memory.get(&Digest::of(&layer)), Some(layer));
    assert_eq!(registry.count(Method::GET, &target), 2);
}

#[tokio::test]
async fn lies_in_a_part_are_found_out() {
    let corrupt = |outcome: Result<Memory, StoreErrorKind>, what: &str| {
        assert!(matches!(outcome, Err(StoreErrorKind::Corrupt { .. })), "{what}: {outcome:?}");
    };
    let (registry, layer, target) = start(Options::default()).await;
    // The second part is sent in the place of the third.
    let second = layer.slice(PART..2 * PART);
    let moved = Act::Headers(vec![("content-range", format!("bytes {PART}-{}/{}", 2 * PART - 1, SIZE + 1))]);
    registry.fault(Fault::on("GET", &target).after(2).act(moved));
    corrupt(pull(&registry).await, "another total");
    let registry2 = start(Options::default()).await.0;
    registry2.fault(Fault::on("GET", &target).after(3).act(Act::Body(second)));
    corrupt(pull(&registry2).await, "a short whole answer");
    let directory = tempfile::tempdir().unwrap();
    let layout = Layout::create(directory.path()).unwrap();
    registry2.fault(Fault::on("GET", &target).act(Act::Body(noise(SIZE + 1))));
    let name = registry2.name("team/app:1");
    copy(&client().remote(&name), &layout, &name, &CopyOptions::default()).await.unwrap_err();
    assert!(!layout.blob_path(&Digest::of(&layer)).exists());
}
