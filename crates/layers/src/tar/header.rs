//! The 512-byte header block: its fields, and the numbers in them.

use std::io::{Error, ErrorKind, Result};
use std::ops::Range;

use super::BLOCK;

pub(super) const NAME: Range<usize> = 0..100;
pub(super) const MODE: Range<usize> = 100..108;
pub(super) const UID: Range<usize> = 108..116;
pub(super) const GID: Range<usize> = 116..124;
pub(super) const SIZE: Range<usize> = 124..136;
pub(super) const MTIME: Range<usize> = 136..148;
pub(super) const CHECKSUM: Range<usize> = 148..156;
pub(super) const TYPE: usize = 156;
pub(super) const LINK: Range<usize> = 157..257;
pub(super) const MAGIC: Range<usize> = 257..265;
pub(super) const DEV_MAJOR: Range<usize> = 329..337;
pub(super) const DEV_MINOR: Range<usize> = 337..345;
pub(super) const PREFIX: Range<usize> = 345..500;
/// The map of an old GNU sparse member: four pairs, a flag, the expanded size.
pub(super) const GNU_SPARSE: Range<usize> = 386..482;
pub(super) const GNU_EXTENDED: usize = 482;
pub(super) const GNU_REAL_SIZE: Range<usize> = 483..495;

/// Magic and version of POSIX.
pub(super) const USTAR: &[u8; 8] = b"ustar\x0000";
/// Magic and version of GNU tar, which has other fields in place of the prefix.
pub(super) const GNU: &[u8; 8] = b"ustar  \0";

/// One header block.
#[derive(Clone)]
pub(super) struct Block(pub(super) [u8; BLOCK]);

impl Block {
    pub(super) fn field(&self, range: Range<usize>) -> &[u8] {
        self.0.get(range).unwrap_or_default()
    }

    pub(super) fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    /// Returns a field up to its first zero byte.
    pub(super) fn text(&self, range: Range<usize>) -> &[u8] {
        until_zero(self.field(range))
    }

    pub(super) fn number(&self, range: Range<usize>) -> Option<i64> {
        number(self.field(range))
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0 == [0; BLOCK]
    }

    /// Sums the bytes, the checksum field taken as spaces.
    pub(super) fn sum(&self) -> i64 {
        let all: i64 = self.0.iter().map(|byte| i64::from(*byte)).sum();
        let own: i64 = self.field(CHECKSUM).iter().map(|byte| i64::from(*byte)).sum();
        all - own + 8 * i64::from(b' ')
    }

    /// Sums the bytes as some old programs do, as signed numbers.
    #[expect(clippy::cast_possible_wrap, reason = "this is what those programs do")]
    pub(super) fn signed_sum(&self) -> i64 {
        let all: i64 = self.0.iter().map(|byte| i64::from(*byte as i8)).sum();
        let own: i64 = self.field(CHECKSUM).iter().map(|byte| i64::from(*byte as i8)).sum();
        all - own + 8 * i64::from(b' ')
    }
}

pub(super) fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Reads a number: octal digits between spaces and zero bytes, or base 256 where the first bit is set. An empty
/// field is 0; none if it is neither.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        return base_256(field);
    }
    let digits = until_zero(field).trim_ascii();
    if digits.len() > 20 || !digits.iter().all(|digit| matches!(digit, b'0'..=b'7')) {
        return None;
    }
    digits.iter().try_fold(0_i64, |number, digit| number.checked_mul(8)?.checked_add(i64::from(digit - b'0')))
}

/// Reads a two's complement number whose second bit is its sign.
fn base_256(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    let start = if first & 0x40 == 0 { i64::from(first & 0x3f) } else { i64::from(first & 0x3f) - 0x40 };
    rest.iter().try_fold(start, |number, byte| number.checked_mul(256)?.checked_add(i64::from(*byte)))
}

/// Writes a number as octal digits and a zero byte; none if it does not fit.
pub(super) fn octal(field: &mut [u8], number: u64) -> Result<()> {
    let mut rest = number;
    if let Some((end, digits)) = field.split_last_mut() {
        *end = 0;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' | (rest & 7) as u8;
            rest >>= 3;
        }
    }
    if rest > 0 {
        return Err(Error::new(ErrorKind::InvalidInput, "number too large for its header field"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        fn check(field: &[u8], expect: Option<i64>) {
            assert_eq!(number(field), expect, "{field:?}");
        }
        check(b"0000644\0", Some(0o644));
        check(b"   644 \0", Some(0o644));
        check(b"77777777", Some(0o7777_7777));
        check(b"\0\0\0\0\0\0\0\0", Some(0));
        check(b"        ", Some(0));
        check(b"12x\0\0\0\0\0", None);
        check(b"-1\0\0\0\0\0\0", None);
        check(b"0000648\0", None);
        check(b"\x80\0\0\0\0\0\x01\0", Some(256));
        check(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2));
        check(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX));
        check(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", None);
        check(b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None);
    }

    #[test]
    fn octal_fits_or_fails() {
        let mut field = [0; 8];
        octal(&mut field, 0o755).unwrap();
        assert_eq!(&field, b"0000755\0");
        octal(&mut field, 0o777_7777).unwrap();
        assert!(octal(&mut field, 0o1000_0000).is_err());
    }
}
