//! The permission bits of `--chmod`.

/// Whether a text is an octal mode up to 07777 or a symbolic one.
///
/// # References
/// chmod(1p), "EXTENDED DESCRIPTION"
pub(super) fn is_mode(text: &str) -> bool {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return text.bytes().all(|byte| matches!(byte, b'0'..=b'7'))
            && u32::from_str_radix(text, 8).is_ok_and(|mode| mode <= 0o7777);
    }
    text.split(',').all(is_clause)
}

fn is_clause(clause: &str) -> bool {
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    let permissions = |c: char| "+-=rwxXstugo".contains(c);
    actions.starts_with(['+', '-', '=']) && actions.chars().all(permissions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_modes() {
        for mode in
            ["0", "755", "0755", "7777", "1777", "u=rwX,go=rX", "+x", "a-w", "u+rw-x", "g=u", "=", "+t"]
        {
            assert!(is_mode(mode), "{mode}");
        }
        for mode in
            ["10000", "8", "0o755", "755x", "", "u", "x", "u=q", "u=r,", ",u=r", "-x,z+r", "99999999999"]
        {
            assert!(!is_mode(mode), "{mode}");
        }
    }
}
