//! `RUN`: its mounts.

/// Finds the `from=` of a mount before anything is expanded: no variable is allowed in it.
///
/// The text is one CSV record; a field may be quoted, `""` inside quotes is one quote.
pub(super) fn mount_from(text: &str) -> Option<String> {
    let mut from = None;
    for field in fields(text) {
        if let Some((key, value)) = field.split_once('=')
            && key.eq_ignore_ascii_case("from")
        {
            from = Some(value.to_owned()).filter(|value| !value.is_empty());
        }
    }
    from
}

fn fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(field) = fields.last_mut() else { break };
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    fields
}
