//! The JSON form of an instruction: an array of strings.

/// What a text that may be a JSON array is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Json {
    /// An array of strings.
    Strings(Vec<String>),
    /// An array that holds something else.
    OtherArray,
    /// No JSON array: the text is meant for a shell, or for splitting.
    Text,
}

/// Reads the JSON form; what does not parse completely is [`Json::Text`].
pub(crate) fn read(text: &str) -> Json {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Json::Text;
    }
    if let Ok(strings) = serde_json::from_str(text) {
        return Json::Strings(strings);
    }
    match serde_json::from_str::<Vec<serde::de::IgnoredAny>>(text) {
        Ok(_) if has_only_strings(text) => Json::Strings(replace_surrogates(text)),
        Ok(_) => Json::OtherArray,
        // Too deep for serde_json; whatever it is, it is not an array of strings.
        Err(error) if error.to_string().starts_with("recursion limit") => Json::OtherArray,
        Err(_) => Json::Text,
    }
}

/// Tells whether every element of a valid JSON array is a string.
fn has_only_strings(text: &str) -> bool {
    let mut in_string = false;
    let mut bytes = text.trim_end().bytes().skip(1).peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => {
                bytes.next();
            }
            _ if in_string => {}
            b' ' | b'\t' | b'\r' | b'\n' | b',' => {}
            b']' => return bytes.peek().is_none(),
            _ => return false,
        }
    }
    false
}

/// Reads an array whose strings hold unpaired surrogates, which become U+FFFD as in Go's encoding/json.
fn replace_surrogates(text: &str) -> Vec<String> {
    let mut fixed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (head, tail) = rest.split_at(at);
        fixed.push_str(head);
        let length = match (surrogate(tail), surrogate(tail.get(6..).unwrap_or_default())) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => 6,
            _ => 2,
        };
        let escape = tail.get(..length).unwrap_or(tail);
        fixed.push_str(if length == 6 { "\\ufffd" } else { escape });
        rest = tail.get(length..).unwrap_or_default();
    }
    fixed.push_str(rest);
    serde_json::from_str(&fixed).unwrap_or_default()
}

fn surrogate(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok().filter(|code| (0xD800..=0xDFFF).contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_arrays_are_json() {
        let check = |text: &str, expect: Json| assert_eq!(read(text), expect, "{text:?}");
        let strings = |list: &[&str]| Json::Strings(list.iter().map(|text| (*text).to_owned()).collect());
        check("[\"a\", \"b c\"]", strings(&["a", "b c"]));
        check(" [ ] ", strings(&[]));
        check("[\"\\u00e4\\n\"]", strings(&["ä\n"]));
        check("[\"\\ud83d\\ude00\"]", strings(&["😀"]));
        check("[\"x\\ud800y\", \"\\\\ud800\"]", strings(&["x\u{fffd}y", "\\ud800"]));
        check("['a']", Json::Text);
        check("[\"a\"] b", Json::Text);
        check("[\"a\",]", Json::Text);
        check("[a, b]", Json::Text);
        check("a", Json::Text);
        check("", Json::Text);
        check("[1]", Json::OtherArray);
        check("[\"a\", [\"b\"]]", Json::OtherArray);
        check("[null]", Json::OtherArray);
        check(&format!("{}{}", "[".repeat(500), "]".repeat(500)), Json::OtherArray);
    }
}
