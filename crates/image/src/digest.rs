//! Content addresses: [`Digest`], the two roles a digest plays for layers, and verification while reading.

use std::fmt;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll, ready};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, ReadBuf};

/// A sha256 content address, written `sha256:<64 lower-case hex digits>`.
///
/// Every digest in this workspace went through [`Digest::from_str`] or was computed, so a value is always well formed.
///
/// # References
/// - [OCI image spec, descriptor, digests](https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md#digests)
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Why a text is not a [`Digest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` in front.
    #[error("digest {0:?} names no algorithm, expected sha256:<64 hex digits>")]
    NoAlgorithm(String),
    /// The algorithm is not sha256.
    #[error("digest algorithm {0:?} is not supported, only sha256 is")]
    Algorithm(String),
    /// What follows `sha256:` is not 64 lower-case hex digits.
    #[error("sha256 digest {0:?} is not 64 lower-case hex digits")]
    Hex(String),
}

impl Digest {
    /// Computes the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Wraps an already computed sha256.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the 64 hex digits without the algorithm: the file name below `blobs/sha256/` of a layout.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 0xf)]);
        self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let shown = || text.chars().take(100).collect::<String>();
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| DigestError::NoAlgorithm(shown()))?;
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm(algorithm.chars().take(32).collect()));
        }
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        if hex.len() != 64 {
            return Err(DigestError::Hex(shown()));
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = match (nibble(pair[0]), nibble(pair[1])) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(DigestError::Hex(shown())),
            };
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

macro_rules! digest_role {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                text.parse().map(Self)
            }
        }
    };
}

/// The digest of a layer's **uncompressed** tar, as `rootfs.diff_ids` of an image config lists it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

/// The identity of a stack of layers: what unpacking them one over the other gives.
///
/// # References
/// - [OCI image spec, layer ChainID](https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md#layer-chainid)
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

digest_role!(DiffId);
digest_role!(ChainId);

impl ChainId {
    /// Computes the chain ID of layers listed lowest first; an empty stack has none.
    pub fn of(diff_ids: &[DiffId]) -> Option<Self> {
        let (first, rest) = diff_ids.split_first()?;
        let chain =
            rest.iter().fold(first.0, |chain, diff_id| Digest::of(format!("{chain} {diff_id}").as_bytes()));
        Some(Self(chain))
    }
}

/// Computes a [`Digest`] piece by piece; writing to it hashes.
#[derive(Clone, Debug, Default)]
pub struct Digester(Sha256);

impl Digester {
    /// Starts with no bytes seen.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hashes `bytes` after everything seen so far.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of everything seen.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What [`Verified`] found instead of the promised content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The content ended early.
    #[error("content of {expected} ends after {actual} of {size} bytes")]
    Short {
        /// The promised digest.
        expected: Digest,
        /// The promised size in bytes.
        size: u64,
        /// The bytes that came.
        actual: u64,
    },
    /// More bytes came than promised.
    #[error("content of {expected} is longer than {size} bytes")]
    Long {
        /// The promised digest.
        expected: Digest,
        /// The promised size in bytes.
        size: u64,
    },
    /// The size is right and the bytes are others.
    #[error("content has digest {actual}, expected {expected}")]
    Mismatch {
        /// The promised digest.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
}

impl VerifyError {
    /// Finds the verification failure inside an I/O error that a [`Verified`] returned.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<VerifyError> for io::Error {
    fn from(error: VerifyError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// A reader that hands out exactly the promised content, or an error in place of its end.
///
/// It stops an endless body at the promised size, and a swapped one at the last byte: whoever read up to end of file
/// without an error has read bytes of that digest. The last piece is withheld when the digest does not match.
/// Works over [`Read`] and over [`AsyncRead`]; errors are [`VerifyError`] inside [`io::Error`].
#[derive(Debug)]
pub struct Verified<R> {
    inner: R,
    expected: Digest,
    size: u64,
    seen: u64,
    /// Taken when the promised size was reached and the digest matched.
    digester: Option<Digester>,
}

impl<R> Verified<R> {
    /// Wraps `inner`, which must deliver `size` bytes with digest `expected`.
    pub fn new(inner: R, expected: Digest, size: u64) -> Self {
        Self { inner, expected, size, seen: 0, digester: Some(Digester::new()) }
    }

    /// Returns the wrapped reader.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// Takes account of one read: `piece` is what came, empty at end of file.
    pub(crate) fn account(&mut self, piece: &[u8]) -> Result<(), VerifyError> {
        let Self { expected, size, .. } = *self;
        if piece.is_empty() && self.seen < size {
            return Err(VerifyError::Short { expected, size, actual: self.seen });
        }
        self.seen = self.seen.saturating_add(piece.len() as u64);
        if self.seen > size {
            return Err(VerifyError::Long { expected, size });
        }
        let Some(digester) = &mut self.digester else { return Ok(()) };
        digester.update(piece);
        if self.seen < size {
            return Ok(());
        }
        let actual = std::mem::take(digester).finish();
        if actual != expected {
            return Err(VerifyError::Mismatch { expected, actual });
        }
        self.digester = None;
        Ok(())
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        self.account(buffer.get(..count).unwrap_or_default())?;
        Ok(count)
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Verified<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let checked = self.account(buffer.filled().get(before..).unwrap_or_default());
        if checked.is_err() {
            buffer.set_filled(before);
        }
        Poll::Ready(checked.map_err(Into::into))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn parses_only_sha256_in_lower_case() {
        let check = |text: &str, expect: Result<Digest, &str>| {
            let got = text.parse::<Digest>().map_err(|error| error.to_string());
            assert_eq!(got, expect.map_err(str::to_owned), "{text}");
        };
        check(EMPTY, Ok(Digest::of(b"")));
        check("sha256", Err("digest \"sha256\" names no algorithm, expected sha256:<64 hex digits>"));
        check("sha512:00", Err("digest algorithm \"sha512\" is not supported, only sha256 is"));
        check("sha256:00", Err("sha256 digest \"sha256:00\" is not 64 lower-case hex digits"));
        check("", Err("digest \"\" names no algorithm, expected sha256:<64 hex digits>"));
        let upper = EMPTY.replace("e3b0", "E3B0");
        check(&upper, Err(&format!("sha256 digest {upper:?} is not 64 lower-case hex digits")));
        let wide = format!("sha256:{}", "é".repeat(32));
        check(&wide, Err(&format!("sha256 digest {wide:?} is not 64 lower-case hex digits")));
    }

    #[test]
    fn chain_ids_follow_the_image_spec() {
        let [a, b] = [DiffId(Digest::of(b"a")), DiffId(Digest::of(b"b"))];
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(ChainId::of(&[a]), Some(ChainId(a.0)));
        let two = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(ChainId::of(&[a, b]), Some(ChainId(two)));
        let three = Digest::of(format!("{two} {a}").as_bytes());
        assert_eq!(ChainId::of(&[a, b, a]), Some(ChainId(three)));
    }

    #[test]
    fn verified_refuses_every_other_content() {
        let check = |content: &[u8], size: u64, expect: Result<(), &str>| {
            let reader = Verified::new(content, Digest::of(b"hello"), size);
            let mut out = Vec::new();
            let got = io::BufReader::with_capacity(2, reader).read_to_end(&mut out);
            let got = got.map(|_| ()).map_err(|error| match VerifyError::of(&error) {
                Some(VerifyError::Short { .. }) => "short",
                Some(VerifyError::Long { .. }) => "long",
                Some(VerifyError::Mismatch { .. }) => "mismatch",
                None => "other",
            });
            assert_eq!(got, expect, "{content:?} {size}");
        };
        check(b"hello", 5, Ok(()));
        check(b"hell", 5, Err("short"));
        check(b"", 5, Err("short"));
        check(b"hello!", 5, Err("long"));
        check(b"hullo", 5, Err("mismatch"));
        check(b"hello", 4, Err("long"));
        check(b"", 0, Err("mismatch"));
    }

    #[test]
    fn verified_withholds_the_last_piece() {
        let mut reader = Verified::new(&b"hullo"[..], Digest::of(b"hello"), 5);
        assert!(reader.read_exact(&mut [0; 5]).is_err());
    }

    #[tokio::test]
    async fn verified_works_over_async_readers() {
        use tokio::io::AsyncReadExt;
        let reader = |content: &'static [u8; 5]| Verified::new(&content[..], Digest::of(b"hello"), 5);
        let mut out = Vec::new();
        let good = AsyncReadExt::read_to_end(&mut reader(b"hello"), &mut out).await;
        assert_eq!((good.unwrap(), out.as_slice()), (5, &b"hello"[..]));
        out.clear();
        let bad = AsyncReadExt::read_to_end(&mut reader(b"hullo"), &mut out).await;
        assert!(VerifyError::of(&bad.unwrap_err()).is_some());
        assert!(out.is_empty());
    }

    proptest! {
        #[test]
        fn display_and_parse_are_inverse(bytes: [u8; 32]) {
            let digest = Digest::from_bytes(bytes);
            prop_assert_eq!(digest.to_string().parse(), Ok(digest));
            let oracle: oci_spec::image::Digest = digest.to_string().parse().unwrap();
            prop_assert_eq!(oracle.digest(), digest.hex());
        }

        #[test]
        fn parsing_never_panics(text: String) {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }
    }
}
