//! Maps of sparse members.

use super::pax::decimal;

/// The parts of an expanded file that hold data, as position and length, and the expanded length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) parts: Vec<(u64, u64)>,
    pub(super) length: u64,
}

/// Parts of one map, and bytes of a map in text: bounds on memory.
pub(super) const MAX_PARTS: usize = 1 << 16;

impl Map {
    /// Checks a map against the bytes stored for the member.
    ///
    /// # Errors
    /// Parts overlap, are out of order or lie behind the end, or are not as long together as what is stored.
    pub(super) fn new(parts: Vec<(u64, u64)>, length: u64, stored: u64) -> Result<Self, &'static str> {
        let mut end = 0;
        let mut sum: u64 = 0;
        for (position, size) in &parts {
            let next = position.checked_add(*size).filter(|next| *next <= length);
            if *position < end {
                return Err("sparse map out of order");
            }
            end = next.ok_or("sparse map behind the end of the file")?;
            sum = sum.saturating_add(*size);
        }
        if sum != stored {
            return Err("sparse map does not match the stored size");
        }
        Ok(Self { parts: parts.into_iter().filter(|(_, size)| *size > 0).collect(), length })
    }

    /// Reads the map of format 0.1: numbers between commas.
    pub(super) fn from_commas(text: &[u8]) -> Result<Vec<(u64, u64)>, &'static str> {
        let numbers = text.split(|byte| *byte == b',').take(2 * MAX_PARTS + 1).map(decimal);
        pairs(&numbers.collect::<Option<Vec<_>>>().ok_or("malformed sparse map")?)
    }
}

/// Pairs positions with lengths.
pub(super) fn pairs(numbers: &[u64]) -> Result<Vec<(u64, u64)>, &'static str> {
    if !numbers.len().is_multiple_of(2) || numbers.len() > 2 * MAX_PARTS {
        return Err("malformed sparse map");
    }
    Ok(numbers.chunks_exact(2).filter_map(|pair| Some((*pair.first()?, *pair.last()?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_fit_what_is_stored() {
        fn check(parts: &[(u64, u64)], length: u64, stored: u64, accepted: bool) {
            assert_eq!(
                Map::new(parts.to_vec(), length, stored).is_ok(),
                accepted,
                "{parts:?} {length} {stored}"
            );
        }
        check(&[], 0, 0, true);
        check(&[(0, 2), (4, 1), (8, 0)], 8, 3, true);
        check(&[(0, 2), (1, 1)], 8, 3, false);
        check(&[(4, 1), (0, 2)], 8, 3, false);
        check(&[(0, 9)], 8, 9, false);
        check(&[(0, 2)], 8, 3, false);
        check(&[(u64::MAX, 2)], u64::MAX, 2, false);
    }

    #[test]
    fn comma_maps_are_pairs() {
        assert_eq!(Map::from_commas(b"0,2,4,1"), Ok(vec![(0, 2), (4, 1)]));
        assert!(Map::from_commas(b"0,2,4").is_err());
        assert!(Map::from_commas(b"0,,2").is_err());
        assert!(Map::from_commas(b"").is_err());
    }
}
