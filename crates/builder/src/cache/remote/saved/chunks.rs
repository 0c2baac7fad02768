//! Cuts a stream where its content says, so that a change moves no cut but those near it.
//!
//! A cut is where the gear hash of the last 64 bytes has 20 zero bits; a chunk has 256 KiB at least, 4 MiB at most and 1.25 MiB
//! on average. Whoever changes a number here makes every chunk new.
//!
//! # References
//! - Xia et al., "FastCDC: a Fast and Efficient Content-Defined Chunking Approach for Data Deduplication", USENIX ATC 2016

use std::io::{self, Read};

/// The fewest bytes of a chunk, but for the last.
const LEAST: usize = 256 << 10;

/// The most bytes of a chunk.
pub(super) const MOST: usize = 4 << 20;

/// The bits of the hash that are zero at a cut: the highest, which know most of the bytes.
const MASK: u64 = !0 << 44;

/// A number for each byte, from splitmix64 with the seed 0.
const GEAR: [u64; 256] = gear();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler; the index is below the length")]
const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let (mut state, mut index) = (0_u64, 0);
    while index < table.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[index] = mixed ^ (mixed >> 31);
        index += 1;
    }
    table
}

/// How many of these bytes the first chunk has; all when there is no cut among them.
fn cut(bytes: &[u8]) -> usize {
    let most = bytes.len().min(MOST);
    let mut hash = 0_u64;
    // Bytes before the last 64 are shifted out of the hash.
    for (at, byte) in bytes.iter().enumerate().take(most).skip(LEAST.saturating_sub(64)) {
        hash = (hash << 1).wrapping_add(GEAR.get(usize::from(*byte)).copied().unwrap_or_default());
        if at >= LEAST && hash & MASK == 0 {
            return at + 1;
        }
    }
    most
}

/// Hands the chunks of a stream on, in order.
///
/// # Errors
/// The stream cannot be read; what `each` returns.
pub(super) fn chunks<E: From<io::Error>>(
    mut stream: impl Read,
    mut each: impl FnMut(Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let mut pending: Vec<u8> = Vec::with_capacity(MOST);
    loop {
        let missing = MOST.saturating_sub(pending.len()) as u64;
        let read = stream.by_ref().take(missing).read_to_end(&mut pending)?;
        if pending.is_empty() {
            return Ok(());
        }
        let rest = pending.split_off(cut(&pending));
        each(std::mem::replace(&mut pending, rest))?;
        if read == 0 && pending.is_empty() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    fn cut_up(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        chunks::<io::Error>(bytes, |chunk| {
            all.push(chunk);
            Ok(())
        })
        .expect("in memory");
        all
    }

    #[test]
    fn chunks_are_the_stream_and_of_a_size() {
        for length in [0, 1, LEAST, MOST, MOST + 1, 20 << 20] {
            let bytes = noise(length);
            let all = cut_up(&bytes);
            assert_eq!(all.concat(), bytes, "{length}");
            let but_last = all.len().saturating_sub(1);
            assert!(all.iter().take(but_last).all(|chunk| (LEAST..=MOST).contains(&chunk.len())), "{length}");
        }
        let average = (20 << 20) / cut_up(&noise(20 << 20)).len();
        assert!((800 << 10..2 << 20).contains(&average), "{average}");
    }

    #[test]
    fn a_change_moves_the_cuts_near_it_only() {
        let before = noise(20 << 20);
        let mut after = before.clone();
        after.splice(5 << 20..5 << 20, *b"inserted");
        let known: HashSet<Vec<u8>> = cut_up(&before).into_iter().collect();
        let new = cut_up(&after).into_iter().filter(|chunk| !known.contains(chunk)).count();
        assert!((1..=2).contains(&new), "{new} chunks are new");
    }

    #[test]
    fn nothing_but_zeros_has_no_cut() {
        let all = cut_up(&vec![0; 2 * MOST]);
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [MOST, MOST]);
    }
}
