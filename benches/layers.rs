//! Hot loops of trees: writing an archive, unpacking one, finding what changed.

use std::path::Path;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rbuild_image::Digest;
use rbuild_layers::compress::{compress, decompress};
use rbuild_layers::tar::{Reader, write_changes};
use rbuild_layers::{
    Changes, Compression, Content, Encoding, Entry, Kind, LayerOptions, Limits, Meta, Overlay, Plain, Root,
    Snapshotter, Store, View, from_upper, unpack, write_layer,
};

/// Files of 8 KiB, a hundred to a directory.
fn changes(files: u64) -> Changes {
    let content = Content::Bytes(vec![b'x'; 8192].into());
    let file = |number: u64| {
        let meta = Meta { size: 8192, ..Meta::new(Kind::File, 0o644) };
        let path = format!("usr/share/d{:04}/f{number:06}", number / 100);
        (path.into(), Entry::Node { meta, content: content.clone() })
    };
    let changes: Changes = (0..files).map(file).collect();
    changes.with_parents(&View::empty()).expect("an empty view is always readable")
}

fn archive(files: u64) -> Vec<u8> {
    write_changes(&changes(files), Vec::new(), None).expect("memory takes everything")
}

fn tree(directory: &Path, archive: &[u8]) -> Root {
    let root = Root::open(directory).expect("the directory was just made");
    unpack(archive, &root, &View::empty(), &Limits::default()).expect("the archive is our own");
    root
}

fn tar(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tar");
    for files in [1_000, 10_000] {
        let (changes, archive) = (changes(files), archive(files));
        group.throughput(Throughput::Bytes(archive.len() as u64));
        group.bench_function(BenchmarkId::new("write", files), |bencher| {
            bencher.iter(|| write_changes(&changes, std::io::sink(), None));
        });
        group.bench_function(BenchmarkId::new("read", files), |bencher| {
            bencher.iter(|| {
                let mut reader = Reader::new(&archive[..]);
                while let Ok(Some(_)) = reader.next_member() {}
            });
        });
    }
}

fn trees(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("trees");
    group.sample_size(10);
    for files in [1_000, 10_000] {
        let archive = archive(files);
        group.throughput(Throughput::Elements(files));
        group.bench_function(BenchmarkId::new("unpack", files), |bencher| {
            let directory = || tempfile::tempdir().expect("a temporary directory");
            bencher.iter_batched_ref(directory, |it| tree(it.path(), &archive), BatchSize::PerIteration);
        });
        let directory = tempfile::tempdir().expect("a temporary directory");
        let upper = tree(directory.path(), &archive);
        group.bench_function(BenchmarkId::new("diff of new files", files), |bencher| {
            bencher.iter(|| from_upper(&upper, &View::empty()));
        });
    }
}

/// A stage without overlayfs: its tree is made from layers, and looked through for what a step changed.
fn plain(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plain");
    group.sample_size(10);
    for files in [1_000, 10_000] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(&directory.path().join("store")).expect("a new store");
        let layer = write_layer(&changes(files), &store, &LayerOptions::default()).expect("our own layer");
        let overlay = Overlay::new(store, Limits::default());
        overlay.view(std::slice::from_ref(&layer)).expect("our own layer");
        group.throughput(Throughput::Elements(files));
        group.bench_function(BenchmarkId::new("prepare", files), |bencher| {
            let plain = Plain::new(overlay.clone());
            bencher.iter_with_large_drop(|| plain.prepare(std::slice::from_ref(&layer)));
        });
        let plain = Plain::new(overlay.clone());
        let mut active = plain.prepare(std::slice::from_ref(&layer)).expect("our own layer");
        group.bench_function(BenchmarkId::new("diff of nothing", files), |bencher| {
            bencher.iter(|| active.changes());
        });
    }
}

/// Text, machine code of this program and noise: what a layer is made of.
fn mixture(length: usize) -> Vec<u8> {
    let program = std::fs::read("/proc/self/exe").expect("this program");
    let text: Vec<u8> =
        (0..40_000).flat_map(|line| format!("line {line} of a log with words\n").into_bytes()).collect();
    let mut state = 1_u64;
    let noise: Vec<u8> = (0..1 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    [text, program, noise].concat().into_iter().cycle().take(length).collect()
}

fn bytes(criterion: &mut Criterion) {
    let mixture = mixture(64 << 20);
    let mut group = criterion.benchmark_group("bytes");
    group.sample_size(10).throughput(Throughput::Bytes(mixture.len() as u64));
    group.bench_function("digest", |bencher| bencher.iter(|| Digest::of(&mixture)));
    for compression in [Compression::Gzip, Compression::Zstd] {
        let encoding = Encoding::new(compression, None, None).expect("the default level");
        let compressed = |sink: &mut Vec<u8>| compress(&encoding, sink, |out| out.write_all(&mixture));
        let mut stored = Vec::new();
        compressed(&mut stored).expect("memory takes everything");
        group.bench_function(format!("compress {compression}"), |bencher| {
            bencher.iter(|| compressed(&mut Vec::new()));
        });
        group.bench_function(format!("decompress {compression}"), |bencher| {
            bencher.iter(|| std::io::copy(&mut decompress(&stored[..])?, &mut std::io::sink()));
        });
    }
}

/// The walk must be linear in the number of files.
fn walk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("walk");
    group.sample_size(10);
    for files in [1_000, 10_000, 100_000] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let empty: Changes = (0..files)
            .map(|number| {
                let path = format!("d{:04}/f{number:06}", number / 100);
                (path.into(), Entry::node(Meta::new(Kind::File, 0o644)))
            })
            .collect();
        let archive = write_changes(&empty, Vec::new(), None).expect("memory takes everything");
        let upper = tree(directory.path(), &archive);
        group.throughput(Throughput::Elements(files));
        group.bench_function(BenchmarkId::new("diff", files), |bencher| {
            bencher.iter(|| from_upper(&upper, &View::empty()));
        });
    }
}

criterion_group!(benches, tar, trees, plain, bytes, walk);
criterion_main!(benches);
