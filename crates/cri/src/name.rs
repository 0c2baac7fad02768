//! What the names in requests mean.

use rbuild_image::{Reference, ReferenceError};

/// Reads the name of an image as runtimes do: Docker's defaults apply, and beside a digest a tag means nothing.
///
/// # Errors
/// The name breaks the grammar.
pub fn normalised(text: &str) -> Result<Reference, ReferenceError> {
    text.parse().map(|name| plain(&name))
}

/// Leaves out the tag beside a digest.
pub(crate) fn plain(name: &Reference) -> Reference {
    let Some(digest) = name.digest().filter(|_| name.tag().is_some()) else { return name.clone() };
    let repository = format!("{}@{digest}", repository(name));
    // What one reference prints without its tag is a reference.
    repository.parse().unwrap_or_else(|_| name.clone())
}

/// Returns registry and repository.
pub(crate) fn repository(name: &Reference) -> String {
    format!("{}/{}", name.registry(), name.repository())
}

/// Reads an image ID or the beginning of one: hex digits, perhaps after `sha256:`.
pub(crate) fn id_prefix(text: &str) -> Option<&str> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let sound =
        (1..=64).contains(&hex.len()) && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    sound.then_some(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names() {
        let check = |text: &str, expect: &str| assert_eq!(normalised(text).unwrap().to_string(), expect);
        check("debian", "docker.io/library/debian:latest");
        check("team/app:1", "docker.io/team/app:1");
        check("localhost:5000/app", "localhost:5000/app:latest");
        check(&format!("debian@{D}"), &format!("docker.io/library/debian@{D}"));
        check(&format!("r.example/a/b:1@{D}"), &format!("r.example/a/b@{D}"));
        assert!(normalised("Debian").is_err());
    }

    #[test]
    fn ids() {
        assert_eq!(id_prefix(D), D.strip_prefix("sha256:"));
        assert_eq!(id_prefix("e3b0"), Some("e3b0"));
        assert_eq!(id_prefix("sha256:"), None);
        assert_eq!(id_prefix("busybox"), None);
        assert_eq!(id_prefix("E3"), None);
    }
}
