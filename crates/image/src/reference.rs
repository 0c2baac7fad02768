//! Names of images: Docker's grammar and Docker Hub's defaults.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::digest::{Digest, DigestError};

const HUB: &str = "docker.io";
/// The longest repository path, in bytes, that distribution accepts.
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// The name of an image in a registry, with Docker Hub's defaults already applied.
///
/// `debian` is `docker.io/library/debian:latest`; with a digest and no tag there is no default tag; a tag beside a
/// digest is kept and the digest decides.
///
/// # References
/// - [distribution reference grammar](https://github.com/distribution/reference/blob/v0.6.0/reference.go)
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not a [`Reference`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// There is nothing to parse.
    #[error("image name is empty")]
    Empty,
    /// The repository holds upper-case letters.
    #[error("image name {0:?} must be lower case")]
    UpperCase(String),
    /// The registry is not a host name with an optional port.
    #[error("{registry:?} in image name {name:?} is not a registry host")]
    Registry {
        /// The whole text.
        name: String,
        /// Its first component.
        registry: String,
    },
    /// The repository path breaks the grammar.
    #[error("image name {0:?} is not a valid repository path")]
    Repository(String),
    /// The repository path is longer than 255 bytes.
    #[error("image name {0:?}… is longer than 255 bytes")]
    TooLong(String),
    /// The name is 64 hex digits, which Docker takes for an image ID.
    #[error("image name {0:?} looks like an image ID")]
    ImageId(String),
    /// The tag breaks the grammar.
    #[error("tag {tag:?} of image name {name:?} is not valid: 1 to 128 letters, digits, '_', '.' and '-'")]
    Tag {
        /// The whole text.
        name: String,
        /// What follows the colon.
        tag: String,
    },
    /// What follows `@` is not a digest.
    #[error("cannot read the digest of image name {name:?}")]
    Digest {
        /// The whole text.
        name: String,
        /// Why not.
        source: DigestError,
    },
}

impl Reference {
    /// Returns the registry as written in names: `docker.io`, or `host[:port]`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the repository below the registry, `library/debian` for `debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the tag; `None` only beside a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest, when the name pins one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Returns the name as people write it: without Docker Hub's host and `library/`.
    pub fn familiar(&self) -> String {
        let name = match (self.registry.as_str(), self.repository.strip_prefix("library/")) {
            (HUB, Some(name)) if !name.contains('/') => name.to_owned(),
            (HUB, _) => self.repository.clone(),
            _ => format!("{}/{}", self.registry, self.repository),
        };
        format!("{name}{}", Suffix(self))
    }

    /// Returns the same repository with another tag and no digest.
    ///
    /// # Errors
    /// Refuses a tag outside the grammar.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        check_tag(&self.to_string(), tag)?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// Returns the same name pinned to `digest`; the tag is kept.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// Returns what a registry is asked for: the digest if there is one, else the tag, else `latest`.
    pub fn manifest_key(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

/// Tells whether `name` names its registry: its first of several components has a `.` or a `:` or is `localhost`.
pub fn names_registry(name: &str) -> bool {
    name.split_once('/').is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost")
}

struct Suffix<'a>(&'a Reference);

impl fmt::Display for Suffix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tag) = &self.0.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.0.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, Suffix(self))
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let shown = || text.chars().take(MAX_REPOSITORY).collect::<String>();
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest =
                    digest.parse().map_err(|source| ReferenceError::Digest { name: shown(), source })?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        let (path, tag) = match name.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (name, None),
        };
        if let Some(tag) = tag {
            check_tag(&shown(), tag)?;
        }
        let (registry, repository) = split_registry(path);
        check_repository(text, path, &repository)?;
        if !is_registry(registry) {
            return Err(ReferenceError::Registry {
                name: shown(),
                registry: registry.chars().take(255).collect(),
            });
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Splits off the registry as Docker does: a first component with upper-case letters is a host too.
fn split_registry(path: &str) -> (&str, String) {
    let (registry, rest) = match path.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(|letter| letter.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (HUB, path),
    };
    match registry {
        HUB | "index.docker.io" if !rest.contains('/') => (HUB, format!("library/{rest}")),
        "index.docker.io" => (HUB, rest.to_owned()),
        _ => (registry, rest.to_owned()),
    }
}

fn check_repository(text: &str, path: &str, repository: &str) -> Result<(), ReferenceError> {
    let shown = || text.chars().take(MAX_REPOSITORY).collect::<String>();
    if path.len() == 64 && path.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(ReferenceError::ImageId(shown()));
    }
    if repository.len() > MAX_REPOSITORY {
        return Err(ReferenceError::TooLong(shown()));
    }
    if repository.split('/').all(is_component) {
        return Ok(());
    }
    if repository.to_ascii_lowercase().split('/').all(is_component) {
        return Err(ReferenceError::UpperCase(shown()));
    }
    Err(ReferenceError::Repository(shown()))
}

fn check_tag(name: &str, tag: &str) -> Result<(), ReferenceError> {
    let valid = (1..=MAX_TAG).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    match valid {
        true => Ok(()),
        false => Err(ReferenceError::Tag { name: name.to_owned(), tag: tag.chars().take(MAX_TAG).collect() }),
    }
}

/// Matches `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separators = component.split(|letter: char| u8::try_from(letter).is_ok_and(is_word));
    let edges =
        component.bytes().next().is_some_and(is_word) && component.bytes().last().is_some_and(is_word);
    edges
        && separators.all(|run| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|byte| byte == b'-'))
}

/// Matches a host name, an IPv4 address or a bracketed IPv6 address, with an optional port.
fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit())) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|address| {
            !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':')
        });
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn docker_defaults_apply() {
        let check = |text: &str, canonical: &str, familiar: &str| {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), canonical, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(canonical.parse(), Ok(reference), "{text}");
        };
        check("debian", "docker.io/library/debian:latest", "debian:latest");
        check("debian:12", "docker.io/library/debian:12", "debian:12");
        check("team/app", "docker.io/team/app:latest", "team/app:latest");
        check("docker.io/debian", "docker.io/library/debian:latest", "debian:latest");
        check("index.docker.io/debian", "docker.io/library/debian:latest", "debian:latest");
        check("index.docker.io/a/b:1", "docker.io/a/b:1", "a/b:1");
        check("docker.io/library/a/b:1", "docker.io/library/a/b:1", "library/a/b:1");
        check("localhost/app", "localhost/app:latest", "localhost/app:latest");
        check("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1");
        check("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest");
        check("Host/app", "Host/app:latest", "Host/app:latest");
        check(
            "ghcr.io/a/b_c/d__e/f--g.h:v1.2-x_Y",
            "ghcr.io/a/b_c/d__e/f--g.h:v1.2-x_Y",
            "ghcr.io/a/b_c/d__e/f--g.h:v1.2-x_Y",
        );
        check(&format!("debian@{D}"), &format!("docker.io/library/debian@{D}"), &format!("debian@{D}"));
        check(
            &format!("debian:12@{D}"),
            &format!("docker.io/library/debian:12@{D}"),
            &format!("debian:12@{D}"),
        );
    }

    #[test]
    fn bad_names_are_refused() {
        let check = |text: &str, expect: &str| {
            assert_eq!(text.parse::<Reference>().unwrap_err().to_string(), expect, "{text}");
        };
        check("", "image name is empty");
        check("Debian", "image name \"Debian\" must be lower case");
        check("a//b", "image name \"a//b\" is not a valid repository path");
        check("a/../b", "image name \"a/../b\" is not a valid repository path");
        check("/a", "image name \"/a\" is not a valid repository path");
        check("-a", "image name \"-a\" is not a valid repository path");
        check("a___b", "image name \"a___b\" is not a valid repository path");
        check("a..b", "image name \"a..b\" is not a valid repository path");
        check("a b", "image name \"a b\" is not a valid repository path");
        check("é", "image name \"é\" is not a valid repository path");
        check("-x.y/a", "\"-x.y\" in image name \"-x.y/a\" is not a registry host");
        check("x.y:port/a", "\"x.y:port\" in image name \"x.y:port/a\" is not a registry host");
        check("a:", "tag \"\" of image name \"a:\" is not valid: 1 to 128 letters, digits, '_', '.' and '-'");
        check(
            "a:-b",
            "tag \"-b\" of image name \"a:-b\" is not valid: 1 to 128 letters, digits, '_', '.' and '-'",
        );
        check("a@sha256:0", "cannot read the digest of image name \"a@sha256:0\"");
        check(&"0".repeat(64), &format!("image name {:?} looks like an image ID", "0".repeat(64)));
        assert!(matches!(
            format!("x/{}", "a".repeat(300)).parse::<Reference>(),
            Err(ReferenceError::TooLong(_))
        ));
    }

    #[test]
    fn keys_and_tags() {
        let digest: Digest = D.parse().unwrap();
        let reference: Reference = "debian".parse().unwrap();
        assert_eq!(reference.manifest_key(), "latest");
        assert_eq!(reference.with_digest(digest).manifest_key(), D);
        assert_eq!(
            reference.with_digest(digest).with_tag("12").unwrap().to_string(),
            "docker.io/library/debian:12"
        );
        assert!(reference.with_tag("a/b").is_err());
    }

    #[test]
    fn only_hosts_name_registries() {
        for (name, expect) in [
            ("app", false),
            ("app:1", false),
            ("team/app", false),
            ("localhost/app", true),
            ("localhost", false),
            ("reg.local/app", true),
            ("reg:5000/app", true),
            ("reg.local", false),
        ] {
            assert_eq!(names_registry(name), expect, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_back(text in "[a-zA-Z0-9._:/@-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
                prop_assert_eq!(reference.familiar().parse(), Ok(reference));
            }
        }

        #[test]
        fn well_formed_names_agree_with_oci_spec(
            name in "([a-z]{1,8}\\.[a-z]{2,3}(:[0-9]{1,4})?/)?[a-z0-9]{1,8}([._-][a-z0-9]{1,4})?(/[a-z0-9]{1,8})?",
            tag in proptest::option::of("[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,10}"),
        ) {
            let text = tag.map_or(name.clone(), |tag| format!("{name}:{tag}"));
            let ours: Reference = text.parse().unwrap();
            let theirs: oci_spec::distribution::Reference = text.parse().unwrap();
            prop_assert_eq!(ours.registry(), theirs.registry());
            prop_assert_eq!(ours.repository(), theirs.repository());
            prop_assert_eq!(ours.tag(), theirs.tag());
        }

        #[test]
        fn parsing_never_panics(text: String) {
            let _ = text.parse::<Reference>();
        }
    }
}
