//! Records of comma-separated values.

/// Splits one CSV record: `"` around a field protects commas, doubled inside it stands for itself.
///
/// # References
/// RFC 4180
pub(crate) fn split(text: &str) -> Result<Vec<String>, &'static str> {
    if text.is_empty() {
        return Err("no options");
    }
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, tail) = match rest.split_once(',') {
                Some((field, tail)) => (field, Some(tail)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err("bare \" in non-quoted field");
            }
            fields.push(field.to_owned());
            let Some(tail) = tail else { return Ok(fields) };
            rest = tail;
            continue;
        };
        let mut field = String::new();
        let mut tail = quoted;
        let after = loop {
            let Some((head, after)) = tail.split_once('"') else {
                return Err("a quoted field is not closed");
            };
            field.push_str(head);
            match after.strip_prefix('"') {
                Some(more) => {
                    field.push('"');
                    tail = more;
                }
                None => break after,
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(tail) => rest = tail,
            None if after.is_empty() => return Ok(fields),
            None => return Err("text behind a quoted field"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let check = |text: &str, expect: &[&str]| assert_eq!(split(text).unwrap(), expect, "{text:?}");
        check("a,b=c", &["a", "b=c"]);
        check("a,\"b,c\",d", &["a", "b,c", "d"]);
        check("\"a\"\"b\"", &["a\"b"]);
        check("a,", &["a", ""]);
        check("\"\"", &[""]);
        for bad in ["", "a\"b", "\"a", "\"a\"b", "\"a\" ,b"] {
            assert!(split(bad).is_err(), "{bad:?}");
        }
    }
}
