use std::fs;
use std::io::{Read, Write};
use std::num::NonZeroUsize;

use rbuild_image::{Digest, media_type};

use super::*;
use crate::change::Entry;
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
    let mut diff_ids = Vec::new();
    for (compression, expect) in [
        (Compression::None, media_type::OCI_LAYER),
        (Compression::Gzip, media_type::OCI_LAYER_GZIP),
        (Compression::Zstd, media_type::OCI_LAYER_ZSTD),
    ] {
        let write = |threads| {
            let options =
                LayerOptions { compression, threads: NonZeroUsize::new(threads), ..LayerOptions::default() };
            // a store of its own: none has the layer already
            let (directory, store) = store();
            (write_layer(&sample(), &store, &options).unwrap(), store, directory)
        };
        let (layer, store, _directory) = write(1);
        for threads in [2, 7] {
            assert_eq!(write(threads).0, layer, "{compression} with {threads} threads");
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

#[test]
fn a_layer_that_is_there_is_not_compressed_again() {
    let (directory, store) = store();
    let tree = directory.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let write = |content: &[u8]| {
        fs::write(tree.join("file"), content).unwrap();
        let meta = Meta { size: content.len() as u64, ..Meta::new(Kind::File, 0o644) };
        let content = Content::Path { root: Root::open(&tree).unwrap(), path: "file".into() };
        let mut changes = Changes::new();
        changes.insert("file", Entry::Node { meta, content });
        write_layer(&changes, &store, &LayerOptions::default()).unwrap()
    };
    let inode = |layer: &Layer| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(store.blob_path(&layer.descriptor.digest)).unwrap().ino()
    };
    let first = write(b"some bytes");
    let made = inode(&first);
    assert_eq!((write(b"some bytes"), inode(&first)), (first.clone(), made));
    let other = write(b"same sizes");
    assert_ne!(other, first, "attributes alone say nothing");
    assert_eq!(write(b"some bytes"), first);

    let damaged = store.blob_path(&first.descriptor.digest);
    let size = usize::try_from(first.descriptor.size).unwrap();
    fs::write(&damaged, vec![0; size]).unwrap();
    assert_eq!(write(b"some bytes"), first);
    store.verify_blob(&first.descriptor).unwrap();
    fs::remove_file(&damaged).unwrap();
    assert_eq!(write(b"some bytes"), first);
    store.verify_blob(&first.descriptor).unwrap();
}

#[test]
fn a_layer_that_is_there_is_of_the_level_that_is_asked_for() {
    let sizes = |levels: &[Option<u32>], store: &Store| -> Vec<u64> {
        let options = |level| LayerOptions { level, ..LayerOptions::default() };
        let write = |level| write_layer(&sample(), store, &options(level)).unwrap();
        let layers: Vec<_> = levels.iter().map(|level| write(*level)).collect();
        assert!(layers.iter().all(|layer| layer.diff_id == layers[0].diff_id));
        layers.iter().map(|layer| layer.descriptor.size).collect()
    };
    let (_directory, one) = store();
    let levels = [Some(0), Some(1), None, Some(9), Some(1), Some(0), None];
    let found = sizes(&levels, &one);
    let alone: Vec<u64> = levels.iter().flat_map(|level| sizes(&[*level], &store().1)).collect();
    assert_eq!(found, alone);
    assert!(found[0] > found[1] && found[1] > found[3], "{found:?}");
}

#[test]
fn converted_layers_are_of_the_level_that_is_asked_for() {
    let (_directory, store) = store();
    let options = |compression, level| LayerOptions { compression, level, ..LayerOptions::default() };
    let plain = write_layer(&sample(), &store, &options(Compression::None, None)).unwrap();
    for level in [Some(0), Some(1), None, Some(9), Some(0)] {
        let of_level = options(Compression::Gzip, level);
        let written = write_layer(&sample(), &store, &of_level).unwrap();
        assert_eq!(recompress(&plain, &store, &of_level).unwrap(), written, "{level:?}");
    }
}

#[test]
fn recompressed_layers_keep_their_diff_id() {
    let (_directory, store) = store();
    let options = |compression| LayerOptions { compression, ..LayerOptions::default() };
    let gzip = write_layer(&sample(), &store, &options(Compression::Gzip)).unwrap();
    assert_eq!(recompress(&gzip, &store, &options(Compression::Gzip)).unwrap(), gzip);
    for compression in [Compression::Zstd, Compression::None] {
        let written = write_layer(&sample(), &store, &options(compression)).unwrap();
        let converted = recompress(&gzip, &store, &options(compression)).unwrap();
        assert_eq!(converted, written, "{compression}");
        assert_eq!(recompress(&gzip, &store, &options(compression)).unwrap(), converted);
    }
    let wrong = Layer { diff_id: DiffId(Digest::of(b"another")), ..gzip };
    let error = recompress(&wrong, &store, &options(Compression::Zstd)).unwrap_err();
    assert!(matches!(error, LayerError::DiffId { .. }), "{error:?}");
}

#[test]
fn what_is_read_is_seen_once_per_pass() {
    let (_directory, store) = store();
    let write = || {
        let mut seen = Vec::new();
        let mut see = |_: &Content, digest| seen.push(digest);
        let layer = write_layer_seeing(&sample(), &store, &LayerOptions::default(), &mut see).unwrap();
        (layer, seen)
    };
    let text = Digest::of(&b"some text, ".repeat(300_000));
    let (layer, seen) = write();
    assert_eq!((seen.len(), seen.first()), (2, Some(&text)));
    assert_eq!(write(), (layer.clone(), seen));
    assert_eq!(write_layer(&sample(), &store, &LayerOptions::default()).unwrap(), layer);
}
