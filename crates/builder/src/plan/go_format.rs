//! Texts as Go's `fmt` package writes them, because history entries are made of them.

use std::fmt::Write as _;

/// Formats strings as `%q` does a `[]string`: `["a" "b"]`.
pub(super) fn quoted_list(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", quoted.join(" "))
}

/// Formats strings as `%v` does a `[]string`: `[a b]`.
pub(super) fn list(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

/// Formats a string as `%q` does.
///
/// # References
/// <https://pkg.go.dev/strconv#Quote>
pub(super) fn quoted(word: &str) -> String {
    let mut out = String::with_capacity(word.len() + 2);
    out.push('"');
    for c in word.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if is_print(c) => out.push(c),
            c => push_escaped(&mut out, c),
        }
    }
    out.push('"');
    out
}

fn push_escaped(out: &mut String, c: char) {
    let code = u32::from(c);
    // Writing to a String cannot fail.
    let _ = match code {
        0..=0x7f => write!(out, "\\x{code:02x}"),
        0x80..=0xffff => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
}

/// Whether Go's `unicode.IsPrint` holds. Rust's own table of printable characters is reachable only through
/// `escape_debug`, which additionally escapes combining marks, but only at the start of a string.
fn is_print(c: char) -> bool {
    c == ' ' || c == '\'' || ['a', c].iter().collect::<String>().escape_debug().nth(1) == Some(c)
}

/// Formats nanoseconds as `time.Duration` does: `1h0m0s`, `1.5s`, `250ms`, `0s`.
///
/// # References
/// <https://pkg.go.dev/time#Duration.String>
pub(super) fn duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let value = nanoseconds.unsigned_abs();
    match value {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{value}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(value, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(value, 1_000_000)),
        _ => {
            let minutes = value / 60_000_000_000;
            let seconds = fraction(value % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// Formats `value / unit` without trailing zeros; `unit` is a power of ten.
fn fraction(value: u64, unit: u64) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = format!("{:0width$}", rest, width = unit.ilog10() as usize);
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_like_go() {
        let check = |input: &[&str], expect: &str| {
            let words: Vec<String> = input.iter().map(|&word| word.to_owned()).collect();
            assert_eq!(quoted_list(&words), expect, "{input:?}");
        };
        check(&[], "[]");
        check(&[""], r#"[""]"#);
        check(&["/bin/sh", "-c", "echo \"hi\" \\ 'x'"], r#"["/bin/sh" "-c" "echo \"hi\" \\ 'x'"]"#);
        check(&["a\tb\n\x07\x08\x0c\r\x0b\x00\x1b\x7f"], r#"["a\tb\n\a\b\f\r\v\x00\x1b\x7f"]"#);
        check(&["é \u{301}日本😀"], "[\"é \u{301}日本😀\"]");
        check(&["\u{a0}\u{200b}\u{feff}\u{2028}\u{e000}"], r#"["\u00a0\u200b\ufeff\u2028\ue000"]"#);
        check(&["\u{e0001}"], r#"["\U000e0001"]"#);
    }

    #[test]
    fn durations_like_go() {
        let check = |input: i64, expect: &str| assert_eq!(duration(input), expect, "{input}");
        check(0, "0s");
        check(1, "1ns");
        check(1_500, "1.5µs");
        check(1_000_000, "1ms");
        check(1_100_000_000, "1.1s");
        check(300_000_000_000, "5m0s");
        check(3_600_000_000_000, "1h0m0s");
        check(5_400_500_000_000, "1h30m0.5s");
        check(-1_500_000_000, "-1.5s");
        check(i64::MIN, "-2562047h47m16.854775808s");
    }
}
