//! Durations as Go writes them: `1h30m`, `1.5s`, `300ms`.

use std::time::Duration;

/// Nanoseconds in each unit; the longer names come first where one begins with another.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration that is not negative; `None` if it is not one, or longer than 2^63 nanoseconds.
pub fn parse(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if matches!(text, "0" | "-0") {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, 0u64);
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, tail) = rest.split_at(digits);
        let (fraction, tail) = match tail.strip_prefix('.') {
            Some(tail) => tail.split_at(tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len())),
            None => ("", tail),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(*nanos)?)?;
        total = total.checked_add(part(fraction, *nanos))?;
        rest = tail;
        if rest.is_empty() {
            return (i64::try_from(total).is_ok()).then(|| Duration::from_nanos(total));
        }
    }
}

/// Multiplies the digits behind the point with a unit, rounded down.
fn part(fraction: &str, unit: u64) -> u64 {
    let (mut sum, mut scale) = (0u128, 1u128);
    for digit in fraction.bytes().take(18) {
        sum = sum * 10 + u128::from(digit.wrapping_sub(b'0'));
        scale *= 10;
    }
    u64::try_from(sum * u128::from(unit) / scale).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, millis: Option<u64>| {
            assert_eq!(parse(text), millis.map(Duration::from_millis), "{text:?}");
        };
        check("5m", Some(300_000));
        check("1h30m", Some(5_400_000));
        check("1.5s", Some(1500));
        check(".5s", Some(500));
        check("300ms", Some(300));
        check("2000us", Some(2));
        check("0", Some(0));
        check("0s", Some(0));
        check("+1s", Some(1000));
        for bad in ["", "1", "s", "1x", "-1s", "1s2", "1 s", ".s", "99999999999h", "300ms "] {
            check(bad, None);
        }
    }
}
