//! Pax extended header records: `LENGTH KEY=VALUE\n`, where the length counts the whole record.

use std::collections::BTreeMap;

use crate::meta::Time;

/// The keys that say which entry this is and where its bytes end. Programs that disagree about one of them read
/// different archives.
pub(super) const STRUCTURAL: [&[u8]; 3] = [b"path", b"linkpath", b"size"];

/// The prefix of the keys of GNU tar's sparse members.
pub(super) const SPARSE: &[u8] = b"GNU.sparse.";

/// The prefix of the keys of extended attributes.
pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";

/// The records of one extended header.
#[derive(Debug, Default)]
pub(super) struct Records {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The pairs of a sparse map in format 0.0, where the keys repeat: offset and length by turns.
    pub(super) sparse_pairs: Vec<u64>,
}

impl Records {
    /// Reads the content of an extended header.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, &'static str> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or("malformed pax record")?;
            bytes = rest;
            if key.is_empty() || key.contains(&0) {
                return Err("malformed pax key");
            }
            match key {
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => records.sparse_pair(key, value)?,
                _ => match records.values.insert(key.to_vec(), value.to_vec()) {
                    Some(before) if before != value => return Err("pax record given twice"),
                    _ => {}
                },
            }
        }
        Ok(records)
    }

    fn sparse_pair(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let offset_is_next = self.sparse_pairs.len().is_multiple_of(2);
        if offset_is_next != (key == b"GNU.sparse.offset") {
            return Err("malformed sparse map");
        }
        self.sparse_pairs.push(decimal(value).ok_or("malformed sparse map")?);
        Ok(())
    }

    /// Returns a value. An empty one means that the record is not there.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.values.get(key).map(Vec::as_slice).filter(|value| !value.is_empty())
    }

    /// Returns the value of a record that holds a number.
    pub(super) fn number(&self, key: &[u8]) -> Result<Option<u64>, &'static str> {
        self.get(key).map(|value| decimal(value).ok_or("malformed number in a pax record")).transpose()
    }

    /// Returns the extended attributes.
    pub(super) fn xattrs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let from_first = self.values.range(XATTR.to_vec()..);
        from_first.map_while(|(key, value)| Some((key.strip_prefix(XATTR)?, value.as_slice())))
    }

    /// Returns the keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.values.keys().map(Vec::as_slice)
    }
}

/// Splits the first record off. The key ends at the first `=`.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(21).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(bytes.get(..space)?)?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let (newline, record) = record.get(space + 1..)?.split_last()?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    (*newline == b'\n').then_some((record.get(..equals)?, record.get(equals + 1..)?, rest))
}

/// Reads decimal digits alone.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

/// Reads a time: decimal seconds, perhaps negative, perhaps with a fraction, of which nine digits count.
pub(super) fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (text.get(..dot)?, text.get(dot + 1..)?),
        None => (text, &[][..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanos) {
        (false, nanos) => Time { seconds, nanos },
        (true, 0) => Time { seconds: -seconds, nanos: 0 },
        (true, nanos) => Time { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}

/// Appends a record to an extended header.
pub(super) fn append(header: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    // the digits of the length count too, and may become one more by that
    if length.to_string().len() != rest.to_string().len() {
        length = rest + length.to_string().len();
    }
    header.extend_from_slice(format!("{length} ").as_bytes());
    header.extend_from_slice(key);
    header.push(b'=');
    header.extend_from_slice(value);
    header.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_framed_by_their_length() {
        let mut header = Vec::new();
        let long = vec![b'\n'; 95];
        let pairs: [(&[u8], &[u8]); 5] = [
            (b"SCHILY.xattr.user.a", b"1\n10 size=9\n\0=x"),
            (b"path", b"p"),
            (b"comment", b""),
            (b"x", &long[..93]),
            (b"y", &long),
        ];
        for (key, value) in pairs {
            append(&mut header, key, value);
        }
        let records = Records::parse(&header).unwrap();
        for (key, value) in pairs {
            assert_eq!(records.get(key), Some(value).filter(|value| !value.is_empty()));
        }
        assert_eq!(records.number(b"size"), Ok(None));
        assert_eq!(records.xattrs().collect::<Vec<_>>(), [(&b"user.a"[..], pairs[0].1)]);
    }

    #[test]
    fn malformed_records_are_refused() {
        fn check(header: &[u8], accepted: bool) {
            assert_eq!(Records::parse(header).is_ok(), accepted, "{}", header.escape_ascii());
        }
        check(b"", true);
        check(b"9 path=a\n", true);
        check(b"9 path=a\n9 path=a\n", true);
        check(b"9 path=a\n9 path=b\n", false);
        check(b"8 path=a\n", false);
        check(b"11 path=a\n", false);
        check(b"9 path=a\n\0", false);
        check(b"9 path=aa", false);
        check(b"+9 path=a\n", false);
        check(b" 9 path=a\n", false);
        check(b"4 =\n", false);
        check(b"5 p\0=\n", false);
        check(b"0 a=\n", false);
        check(b"99999999999999999999999 a=b\n", false);
        check(b"18446744073709551615 a=b\n", false);
        check(b"22 GNU.sparse.offset=1\n", false);
        check(b"23 GNU.sparse.offset=1\n", true);
        check(b"25 GNU.sparse.numbytes=1\n", false);
    }

    #[test]
    fn times_have_signs_and_fractions() {
        fn check(text: &str, expect: Option<(i64, u32)>) {
            let time = time(text.as_bytes());
            assert_eq!(time.map(|time| (time.seconds, time.nanos)), expect, "{text}");
        }
        check("0", Some((0, 0)));
        check("1700000000.5", Some((1_700_000_000, 500_000_000)));
        check("1.0000000019", Some((1, 1)));
        check("-1", Some((-1, 0)));
        check("-0.25", Some((-1, 750_000_000)));
        check("-1.5", Some((-2, 500_000_000)));
        check("1.", Some((1, 0)));
        check("", None);
        check("-", None);
        check(".5", None);
        check("1.x", None);
        check("1e3", None);
        check("9223372036854775808", None);
    }
}
