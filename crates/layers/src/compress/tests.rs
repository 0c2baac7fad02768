use std::io::{Cursor, Read, Write};
use std::num::NonZeroUsize;

use rbuild_image::Digest;

use super::*;

fn threads(count: usize) -> Option<NonZeroUsize> {
    NonZeroUsize::new(count)
}

/// Text-like, zero and incompressible stretches of half a MiB, so that members are cut inside of each.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|at| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match (at >> 19) % 3 {
                0 => b"the quick brown fox"[(state % 19) as usize],
                1 => 0,
                _ => (state >> 32) as u8,
            }
        })
        .collect()
}

fn packed(encoding: &Encoding, bytes: &[u8], cut: usize) -> Vec<u8> {
    let mut out = Vec::new();
    compress(encoding, &mut out, |sink| bytes.chunks(cut.max(1)).try_for_each(|chunk| sink.write_all(chunk)))
        .unwrap();
    out
}

fn unpacked(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    decompress_with(Cursor::new(bytes.to_vec()), threads(2).unwrap())?.read_to_end(&mut out)?;
    Ok(out)
}

fn encoding(compression: Compression) -> Encoding {
    Encoding::new(compression, None, threads(2)).unwrap()
}

#[test]
fn same_bytes_for_any_thread_count_and_cut() {
    // Thirteen gzip members, four zstd jobs.
    let bytes = sample(13 * MEMBER_INPUT - 12345);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let of = |count, cut| packed(&Encoding::new(compression, None, threads(count)).unwrap(), &bytes, cut);
        let one = of(1, 4096);
        assert_eq!(unpacked(&one).unwrap(), bytes, "{compression}");
        for (count, cut) in [(1, bytes.len()), (2, 4097), (7, 100_000)] {
            assert!(of(count, cut) == one, "{compression} with {count} threads");
        }
    }
}

#[test]
fn golden_digests() {
    // A change here changes every layer that users rebuild: say so, and bump the cache key version unless it is only another
    // default level, which caches name by its number.
    let digest = |compression, level| {
        let encoding = Encoding::new(compression, level, threads(2)).unwrap();
        Digest::of(&packed(&encoding, &sample(2 * MEMBER_INPUT + 7), 65536)).to_string()
    };
    let expect = [
        (Compression::Gzip, None, "sha256:def96c1af4e2d61d0a4614b5da306731a4d49667f87f21b44f271473be38f325"),
        (
            Compression::Gzip,
            Some(1),
            "sha256:0e1db2cfbc787562634b3f33a441602dbbc25702fb63b9059419ca2454fd1444",
        ),
        (
            Compression::Gzip,
            Some(9),
            "sha256:45b31d5d02df53d7b73723d1150889e65fdb75af1a576732910bb6f6669b1063",
        ),
        (Compression::Zstd, None, "sha256:ed9080736e5292731067292618ada0f80de0b5bb258294d7179747fff6f849d0"),
    ];
    assert_eq!(expect.map(|(compression, level, _)| digest(compression, level)), expect.map(|case| case.2));
}

#[test]
fn sizes_at_member_borders() {
    for length in [0, 1, MEMBER_INPUT - 1, MEMBER_INPUT, MEMBER_INPUT + 1, 2 * MEMBER_INPUT] {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let bytes = sample(length);
            let stored = packed(&encoding(compression), &bytes, 1 << 16);
            assert!(unpacked(&stored).unwrap() == bytes, "{compression} of {length}");
        }
    }
}

#[test]
fn empty_input_is_one_empty_member() {
    let stored = packed(&encoding(Compression::Gzip), b"", 1);
    assert_eq!(member::announced_length(&stored[..20]), Some(stored.len()));
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(&stored[..]).read_to_end(&mut out).unwrap();
    assert!(out.is_empty());
}

#[test]
fn incompressible_input_hardly_grows() {
    let bytes: Vec<u8> = sample(6 << 19)[2 << 19..3 << 19].to_vec();
    let stored = packed(&encoding(Compression::Gzip), &bytes, 1 << 16);
    assert!(stored.len() < bytes.len() + 200, "{} of {}", stored.len(), bytes.len());
}

#[test]
fn what_cannot_shrink_is_stored_and_what_repeats_is_not() {
    let noise = &sample(6 << 19)[2 << 19..3 << 19];
    let gzip = |bytes: &[u8]| packed(&encoding(Compression::Gzip), bytes, 1 << 16).len();
    // Stored blocks add five bytes for every 65535.
    let stored = |length: usize| length + 28 + 5 * length.div_ceil(65535);
    assert_eq!(gzip(noise), stored(noise.len()));
    assert_eq!(gzip(&noise[..1000]), stored(1000));
    // All bytes equally often, but twice within the window of 32 KiB.
    let repeated = noise[..15_000].repeat(20);
    assert!(gzip(&repeated) < repeated.len() / 10, "{} of {}", gzip(&repeated), repeated.len());
    let counting: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    assert!(gzip(&counting) < counting.len() / 50);
}

/// RFC 1952, section 2.2: a file is a series of members. Not every program believes it.
#[test]
fn gzip_and_python_read_what_we_write() {
    let bytes = sample(5 * MEMBER_INPUT + 99);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layer.gz");
    std::fs::write(&path, packed(&encoding(Compression::Gzip), &bytes, 1 << 16)).unwrap();
    let python = "import gzip,sys; sys.stdout.buffer.write(gzip.open(sys.argv[1]).read())";
    let readers: [&[&str]; 2] = [&["gzip", "-cd"], &["python3", "-c", python]];
    for reader in readers {
        let mut command = std::process::Command::new(reader[0]);
        match command.args(&reader[1..]).arg(&path).output() {
            Ok(output) => assert!(output.status.success() && output.stdout == bytes, "{reader:?}"),
            Err(error) => println!("skipped: {}: {error}", reader[0]),
        }
    }
}

#[test]
fn other_readers_see_plain_gzip() {
    let bytes = sample(2 * MEMBER_INPUT + 99);
    let stored = packed(&encoding(Compression::Gzip), &bytes, 1 << 16);
    let mut out = Vec::new();
    flate2::read::MultiGzDecoder::new(&stored[..]).read_to_end(&mut out).unwrap();
    assert!(out == bytes);
}

#[test]
fn foreign_members_are_streamed() {
    let mut foreign = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    foreign.write_all(b"foreign").unwrap();
    let foreign = foreign.finish().unwrap();
    let ours = packed(&encoding(Compression::Gzip), b"ours", 1);
    let check = |parts: &[&[u8]], expect: &[u8]| assert_eq!(unpacked(&parts.concat()).unwrap(), expect);
    check(&[&foreign], b"foreign");
    check(&[&foreign, &foreign], b"foreignforeign");
    check(&[&ours, &foreign, &ours], b"oursforeignours");
    check(&[&foreign, &ours], b"foreignours");
    assert!(unpacked(&[&foreign[..], b"x"].concat()).is_err());
    assert!(unpacked(&[&foreign[..], &[0; 40]].concat()).is_err());
    for cut in 2..foreign.len() {
        assert!(unpacked(&foreign[..cut]).is_err(), "cut at {cut}");
        assert!(unpacked(&[&ours[..], &foreign[..cut]].concat()).is_err(), "second cut at {cut}");
    }
}

#[test]
fn truncated_streams_are_refused() {
    let bytes = sample(MEMBER_INPUT + 5000);
    for compression in [Compression::Gzip, Compression::Zstd] {
        let stored = packed(&encoding(compression), &bytes, 1 << 16);
        let second = member::announced_length(&stored[..20]).unwrap_or(10);
        let near = [4, 5, 19, 20, 21, 1000, second - 1, second + 1, second + 19, second + 21];
        for cut in near.into_iter().chain([stored.len() - 1]).filter(|cut| *cut < stored.len()) {
            assert!(unpacked(&stored[..cut]).is_err(), "{compression} cut at {cut} of {}", stored.len());
        }
        assert!(unpacked(&[&stored[..], b"garbage"].concat()).is_err(), "{compression} with garbage");
    }
}

#[test]
fn every_flipped_byte_of_a_member_is_refused_or_harmless() {
    let bytes = b"some content that is not long, not long".repeat(3);
    let stored = packed(&encoding(Compression::Gzip), &bytes, 1 << 16);
    for at in 2..stored.len() {
        let mut flipped = stored.clone();
        flipped[at] ^= 0x11;
        // Header fields that gzip itself ignores (time, system) do not change the content.
        if let Ok(out) = unpacked(&flipped) {
            assert_eq!(out, bytes, "flip at {at}");
            assert!(at < 20, "flip at {at} of the data went unnoticed");
        }
    }
}

#[test]
fn hidden_bytes_between_stream_and_trailer_are_refused() {
    let mut stored = packed(&encoding(Compression::Gzip), b"seen", 1);
    let trailer = stored.split_off(stored.len() - 8);
    stored.extend_from_slice(&trailer);
    stored.extend_from_slice(b"hidden");
    stored.extend_from_slice(&trailer);
    let length = u32::try_from(stored.len()).unwrap();
    stored[16..20].copy_from_slice(&length.to_le_bytes());
    assert!(unpacked(&stored).is_err());
}

#[test]
fn plain_and_short_streams_pass() {
    for bytes in [&b""[..], b"a", b"abc", b"abcdefgh"] {
        assert_eq!(unpacked(bytes).unwrap(), bytes);
    }
    assert!(unpacked(GZIP_MAGIC).is_err());
}

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

#[test]
fn failed_readers_stay_failed() {
    let mut stored = packed(&encoding(Compression::Gzip), b"content", 1);
    stored.truncate(stored.len() - 1);
    let mut reader = decompress(Cursor::new(stored)).unwrap();
    let mut buffer = [0; 16];
    assert!(reader.read(&mut buffer).is_err());
    assert!(reader.read(&mut buffer).is_err());
}

#[test]
fn errors_of_both_ends_are_reported() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let bytes = sample(20 * MEMBER_INPUT);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let error =
            compress(&encoding(compression), &mut Full(1), |sink| sink.write_all(&bytes)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{compression}");
        let failed: io::Result<()> = compress(&encoding(compression), &mut io::sink(), |sink| {
            sink.write_all(b"begun")?;
            Err(io::ErrorKind::InvalidInput.into())
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{compression}");
    }
}

#[test]
fn levels_are_checked() {
    let check = |compression, level, ok| {
        assert_eq!(Encoding::new(compression, Some(level), None).is_ok(), ok, "{compression} {level}");
    };
    check(Compression::Gzip, 0, true);
    check(Compression::Gzip, 9, true);
    check(Compression::Gzip, 10, false);
    check(Compression::Zstd, 0, false);
    check(Compression::Zstd, 22, true);
    check(Compression::Zstd, 23, false);
    check(Compression::None, 1, false);
    assert_eq!("gzip".parse(), Ok(Compression::Gzip));
    assert_eq!("estargz".parse::<Compression>(), Err(CompressionError::Unknown("estargz".into())));
}

#[test]
fn reading_ahead_passes_bytes_errors_and_early_ends() {
    let bytes = sample(3 << 20);
    let mut out = Vec::new();
    let (count, rest) = read_ahead(Cursor::new(&bytes), |ahead| ahead.read_to_end(&mut out).unwrap());
    assert!(out == bytes && count == bytes.len());
    assert_eq!(rest.position(), 3 << 20);
    let ((), _) = read_ahead(io::repeat(7), |ahead| ahead.read_exact(&mut [0; 10]).unwrap());
    let ((), _) = read_ahead(FailingAfter(5), |ahead| {
        assert_eq!(ahead.read_to_end(&mut Vec::new()).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(ahead.read(&mut [0; 1]).is_err(), "a failure is not an end");
    });
}

struct FailingAfter(usize);

impl Read for FailingAfter {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::ConnectionReset)?;
        buffer.fill(1);
        Ok(buffer.len())
    }
}
