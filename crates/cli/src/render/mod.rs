//! What people read: progress, diagnostics, reports.

pub(crate) mod diagnostic;
pub(crate) mod doctor;
pub(crate) mod findings;
pub(crate) mod progress;
pub(crate) mod report;

/// Writes a number of bytes as docker does: decimal units, three significant digits.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 || value >= 99.95 => 0,
        _ if value >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$}{}", UNITS.get(unit).copied().unwrap_or_default())
}

/// Drops what would move a terminal's cursor or colours: escape sequences and control characters.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => skip_escape(&mut letters),
            '\t' => out.push_str("    "),
            letter if letter.is_control() => {}
            letter => out.push(letter),
        }
    }
    out
}

/// Brings text that may hold line breaks on one line.
pub(crate) fn one_line(text: &str) -> String {
    printable(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Skips the rest of an escape sequence: `[` parameters and a final byte, `]` text up to a bell or a string terminator, or
/// one byte.
///
/// # References
/// - ECMA-48, 5.4 and 8.3.89
fn skip_escape(letters: &mut std::str::Chars<'_>) {
    match letters.next() {
        Some('[') => {
            letters.find(|letter| ('@'..='~').contains(letter));
        }
        Some(']') => {
            letters.find(|letter| matches!(letter, '\u{7}' | '\\' | '\u{9c}'));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (count, expect) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (1234, "1.23kB"),
            (12_345, "12.3kB"),
            (123_456, "123kB"),
            (999_900, "1.00MB"),
            (48_600_000, "48.6MB"),
            (u64::MAX, "18447PB"),
        ] {
            assert_eq!(bytes(count), expect);
        }
    }

    #[test]
    fn terminals_are_safe_from_text() {
        for (text, expect) in [
            ("plain é", "plain é"),
            ("\u{1b}[1;31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}x", "x"),
            ("\u{1b}]8;;http://x\u{1b}\\link", "link"),
            ("a\tb\rc\u{8}", "a    bc"),
            ("\u{1b}", ""),
            ("\u{1b}[", ""),
        ] {
            assert_eq!(printable(text), expect, "{text:?}");
        }
    }
}
