use std::fs;
use std::io::{Read, Write};
use std::num::NonZeroUsize;

use rbuild_image::{Digest, media_type};

use super::*;
use crate::change::{Content, Entry};
use crate::compress::decompress;
use crate::meta::{Kind, Meta, Time};
use crate::root::Root;

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

fn bytes_file(content: Vec<u8>, seconds: i64) -> Entry {
    let size = content.len() as u64;
    let meta = Meta { size, mtime: Time::seconds(seconds), ..Meta::new(Kind::File, 0o644) };
    Entry::Node { meta, content: Content::Bytes(content.into()) }
}

fn sample() -> Changes {
    let mut changes = Changes::new();
    changes.insert("a", Entry::node(Meta::default_directory()));
    changes.insert("a/text", bytes_file(b"some text, ".repeat(300_000), 1_700_000_000));
    changes.insert("a/link", Entry::HardLink("a/text".into()));
    changes
        .insert("b", bytes_file((0..99_999_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect(), 5));
    changes
}

#[test]
fn one_layer_whatever_the_threads() {
    let (_directory, store) = store();
    let mut diff_ids = Vec::new();
    for (compression, expect) in [
        (Compression::None, media_type::OCI_LAYER),
        (Compression::Gzip, media_type::OCI_LAYER_GZIP),
        (Compression::Zstd, media_type::OCI_LAYER_ZSTD),
    ] {
        let write = |threads| {
            let options =
                LayerOptions { compression, threads: NonZeroUsize::new(threads), ..LayerOptions::default() };
            write_layer(&sample(), &store, &options).unwrap()
        };
        let layer = write(1);
        for threads in [2, 7] {
            assert_eq!(write(threads), layer, "{compression} with {threads} threads");
        }
        assert_eq!(layer.descriptor.media_type, expect);
        store.verify_blob(&layer.descriptor).unwrap();
        let mut plain = Vec::new();
        decompress(store.open_blob(&layer.descriptor).unwrap()).unwrap().read_to_end(&mut plain).unwrap();
        assert_eq!(Digest::of(&plain), layer.diff_id.0);
        diff_ids.push(layer.diff_id);
    }
    assert!(diff_ids.iter().all(|id| *id == diff_ids[0]));
}

#[test]
fn times_are_clamped_from_above() {
    let (_directory, store) = store();
    let write = |changes: &Changes, clamp| {
        let options = LayerOptions { clamp, ..LayerOptions::default() };
        write_layer(changes, &store, &options).unwrap().diff_id
    };
    let with = |seconds| {
        let mut changes = Changes::new();
        changes.insert("file", bytes_file(b"x".to_vec(), seconds));
        changes
    };
    assert_eq!(write(&with(2000), Some(1000)), write(&with(1000), None));
    assert_eq!(write(&with(500), Some(1000)), write(&with(500), None));
    assert_ne!(write(&with(2000), None), write(&with(1000), None));
}

#[test]
fn files_that_change_are_named_and_nothing_is_stored() {
    let (directory, store) = store();
    let tree = directory.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::File::create(tree.join("file")).unwrap().write_all(&[7; 5000]).unwrap();
    let root = Root::open(&tree).unwrap();
    for announced in [4999, 5001] {
        let meta = Meta { size: announced, ..Meta::new(Kind::File, 0o644) };
        let content = Content::Path { root: root.clone(), path: "file".into() };
        let mut changes = Changes::new();
        changes.insert("some/file", Entry::Node { meta, content });
        let error = write_layer(&changes, &store, &LayerOptions::default()).unwrap_err();
        assert!(matches!(&error, LayerError::Write(WriteError::Changed { .. })), "{error:?}");
        assert!(error.to_string().contains("some/file"), "{error}");
    }
    let blobs = store.path().join("blobs/sha256");
    assert_eq!(fs::read_dir(blobs).unwrap().count(), 0);
    assert_eq!(fs::read_dir(store.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn levels_that_do_not_exist_are_refused() {
    let (_directory, store) = store();
    let options = LayerOptions { level: Some(10), ..LayerOptions::default() };
    let error = write_layer(&Changes::new(), &store, &options).unwrap_err();
    assert_eq!(error.to_string(), "compression level 10 of gzip is not between 0 and 9");
}
