//! Findings for programs: the document of docker buildx, and SARIF.

use base64::Engine as _;
use rbuild_dockerfile::{Diagnostic, line_col, lint};
use serde_json::{Map, Value, json};

/// What was found in one Dockerfile.
pub(crate) struct Findings<'a> {
    /// Its path.
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
    pub(crate) warnings: &'a [Diagnostic],
    /// Why it must not be built.
    pub(crate) errors: &'a [Diagnostic],
}

/// The document of `docker buildx build --call=check,format=json`, but for the `definition` of a source, which says how a
/// daemon can load the file again. Warnings stand in the order of the lines; where there are none they are null.
pub(crate) fn json(found: &Findings<'_>) -> Value {
    let warning = |warning: &Diagnostic| {
        let mut fields = Map::new();
        fields.insert("ruleName".to_owned(), json!(warning.rule));
        let description = warning.rule.and_then(lint::find).map(|rule| rule.description.to_owned());
        fields.extend(description.map(|text| ("description".to_owned(), json!(text))));
        fields.extend(warning.url.map(|url| ("url".to_owned(), json!(url))));
        fields.insert("detail".to_owned(), json!(warning.message));
        fields.insert("location".to_owned(), warning.lines.map_or_else(|| json!({}), location));
        Value::Object(fields)
    };
    let warnings: Vec<Value> = found.warnings.iter().map(warning).collect();
    let name = found.name.rsplit('/').next().unwrap_or_default();
    let mut document = json!({
        "warnings": if warnings.is_empty() { Value::Null } else { Value::Array(warnings) },
        "sources": [{"filename": name, "data": in_base64(found.text), "language": "Dockerfile"}],
    });
    if let (Some(error), Some(fields)) = (found.errors.first(), document.as_object_mut()) {
        let location = error.lines.map_or_else(|| json!({}), location);
        fields.insert("buildError".to_owned(), json!({"message": error.message, "location": location}));
    }
    document
}

/// A text as JSON documents hold bytes.
pub(crate) fn in_base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// Lines as docker buildx writes them: a range for each, counted from 1.
pub(crate) fn location((first, last): (u32, u32)) -> Value {
    let range = |line: u32| json!({"start": {"line": line}, "end": {"line": line}});
    json!({"ranges": (first..=last).map(range).collect::<Vec<_>>()})
}

/// A log of one run in the Static Analysis Results Interchange Format.
///
/// # References
/// - SARIF 2.1.0, 3.13 sarifLog, 3.14 run, 3.27 result
/// - <https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>
pub(crate) fn sarif(found: &Findings<'_>) -> Value {
    let rules: Vec<Value> = lint::all()
        .map(|rule| {
            let mut descriptor = json!({
                "id": rule.name,
                "shortDescription": {"text": rule.description},
                "defaultConfiguration": {"level": "warning", "enabled": !rule.experimental},
            });
            if let (Some(url), Some(fields)) = (rule.url, descriptor.as_object_mut()) {
                fields.insert("helpUri".to_owned(), json!(url));
            }
            descriptor
        })
        .collect();
    let results: Vec<Value> =
        found.errors.iter().chain(found.warnings).map(|one| result(found, one)).collect();
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "rbuild",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(found: &Findings<'_>, finding: &Diagnostic) -> Value {
    let mut place = json!({"artifactLocation": {"uri": uri(found.name)}});
    if let (Some(region), Some(fields)) = (region(found.text, finding), place.as_object_mut()) {
        fields.insert("region".to_owned(), region);
    }
    let message = match &finding.hint {
        Some(hint) => format!("{} ({hint})", finding.message),
        None => finding.message.clone(),
    };
    let mut result = json!({
        "level": if finding.is_error() { "error" } else { "warning" },
        "message": {"text": message},
        "locations": [{"physicalLocation": place}],
    });
    let index = finding.rule.and_then(|rule| lint::all().position(|one| one.name == rule));
    if let (Some(index), Some(fields)) = (index, result.as_object_mut()) {
        fields.insert("ruleId".to_owned(), json!(finding.rule));
        fields.insert("ruleIndex".to_owned(), json!(index));
    }
    result
}

fn region(text: &str, finding: &Diagnostic) -> Option<Value> {
    if let Some(span) = finding.span {
        let ((line, column), (end_line, end_column)) = (line_col(text, span.start), line_col(text, span.end));
        return Some(json!({
            "startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column,
        }));
    }
    let (first, last) = finding.lines.filter(|(first, _)| *first > 0)?;
    Some(json!({"startLine": first, "endLine": last}))
}

/// A path as a URI reference.
///
/// # References
/// - RFC 3986, 2.3 and 3.3
fn uri(path: &str) -> String {
    let mut out = String::from(if path.starts_with('/') { "file://" } else { "" });
    for byte in path.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_uris() {
        for (path, expect) in [
            ("Dockerfile", "Dockerfile"),
            ("a b/é", "a%20b/%C3%A9"),
            ("/x/Dockerfile", "file:///x/Dockerfile"),
            ("a:b", "a%3Ab"),
        ] {
            assert_eq!(uri(path), expect);
        }
    }
}
