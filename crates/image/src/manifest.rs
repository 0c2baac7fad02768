//! Descriptors, manifests and indexes, and the bytes they were parsed from.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::media_type;
use crate::platform::Platform;

/// The largest manifest, index or config that is read, in bytes; registries refuse larger ones too.
pub const MAX_DOCUMENT: usize = 4 << 20;

/// Fields that this crate does not know, kept as they came.
pub type Extra = BTreeMap<String, serde_json::Value>;

/// What something is, its digest and its size: how one piece of content points to another.
///
/// # References
/// - [OCI image spec, descriptor](https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Media type of the content, empty when its writer left it out.
    #[serde(rename = "mediaType", default)]
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content in bytes.
    pub size: u64,
    /// Other places the content can be had from.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free annotations.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What the content runs on, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Kind of artifact, when the content is one.
    #[serde(rename = "artifactType", default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Fields unknown to this crate.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Descriptor {
    /// Makes a descriptor with nothing but the three required fields.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
            extra: Extra::new(),
        }
    }

    /// Describes `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }
}

/// An image manifest: one config and the layers, lowest first.
///
/// # References
/// - [OCI image spec, manifest](https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u32,
    /// Media type of this manifest.
    #[serde(rename = "mediaType", default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Kind of artifact, when this is not an image.
    #[serde(rename = "artifactType", default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free annotations.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Fields unknown to this crate.
    #[serde(flatten)]
    pub extra: Extra,
}

/// An image index: one manifest per platform, as a rule.
///
/// # References
/// - [OCI image spec, index](https://github.com/opencontainers/image-spec/blob/v1.1.1/image-index.md)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u32,
    /// Media type of this index.
    #[serde(rename = "mediaType", default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Kind of artifact, when this is not an image.
    #[serde(rename = "artifactType", default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What the index points to.
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest this index says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free annotations.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Fields unknown to this crate.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Index {
    /// Makes an OCI index of `manifests`.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.to_owned()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
            extra: Extra::new(),
        }
    }
}

/// Why bytes are not the document they should be.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The document is larger than [`MAX_DOCUMENT`].
    #[error("{what} of {size} bytes is larger than {MAX_DOCUMENT} bytes")]
    TooLarge {
        /// Which kind of document.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
    },
    /// The bytes are not JSON of this shape.
    #[error("cannot read {what}")]
    Malformed {
        /// Which kind of document.
        what: &'static str,
        /// Why not.
        source: serde_json::Error,
    },
    /// The document claims to be a manifest and an index at once, an attack on readers that disagree.
    #[error("document has both layers and manifests")]
    Ambiguous,
    /// `schemaVersion` is not 2.
    #[error("manifest has schema version {0}, only version 2 is supported")]
    SchemaVersion(u64),
    /// The document is neither a manifest nor an index.
    #[error("media type {0:?} is neither an image manifest nor an index")]
    MediaType(String),
    /// The document names another media type than the one it was delivered as.
    #[error("document delivered as {delivered:?} says it is {says:?}")]
    MediaTypeMismatch {
        /// What whoever delivered it said.
        delivered: String,
        /// What the document says.
        says: String,
    },
}

/// The documents of an image: what may stand inside [`Raw`].
pub trait Document: Serialize + DeserializeOwned + sealed::Sealed {
    /// Name of the kind, for messages.
    const WHAT: &'static str;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Manifest {}
    impl Sealed for super::Index {}
    impl Sealed for crate::config::ImageConfig {}
}

impl Document for Manifest {
    const WHAT: &'static str = "manifest";
}
impl Document for Index {
    const WHAT: &'static str = "index";
}
impl Document for crate::config::ImageConfig {
    const WHAT: &'static str = "image config";
}

/// A parsed document beside the bytes its digest is over; the bytes are never re-serialised.
#[derive(Clone, PartialEq)]
pub struct Raw<T> {
    bytes: Bytes,
    digest: Digest,
    value: Box<T>,
}

impl<T: Document> Raw<T> {
    /// Parses `bytes` and keeps them.
    ///
    /// # Errors
    /// Refuses more than [`MAX_DOCUMENT`] bytes, and what is not JSON of this shape.
    pub fn parse(bytes: Bytes) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_DOCUMENT {
            return Err(DocumentError::TooLarge { what: T::WHAT, size: bytes.len() });
        }
        let value = serde_json::from_slice(&bytes)
            .map_err(|source| DocumentError::Malformed { what: T::WHAT, source })?;
        Ok(Self { digest: Digest::of(&bytes), bytes, value: Box::new(value) })
    }

    /// Serialises `value`; the same value always gives the same bytes.
    pub fn from_value(value: T) -> Self {
        let bytes =
            serde_json::to_vec(&value).expect("documents have string keys only, which always serialise");
        Self { digest: Digest::of(&bytes), bytes: bytes.into(), value: Box::new(value) }
    }
}

impl<T> Raw<T> {
    /// Returns the bytes the digest is over.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the parsed value.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Returns the parsed value alone.
    pub fn into_value(self) -> T {
        *self.value
    }

    /// Returns the digest of the bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Describes the bytes under `media_type`.
    pub fn descriptor(&self, media_type: &str) -> Descriptor {
        Descriptor::new(media_type, self.digest, self.bytes.len() as u64)
    }
}

impl<T: fmt::Debug> fmt::Debug for Raw<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raw")
            .field("digest", &self.digest)
            .field("value", &self.value)
            .finish_non_exhaustive()
    }
}

/// What a reference resolves to.
#[derive(Clone, Debug, PartialEq)]
pub enum ManifestOrIndex {
    /// One image.
    Manifest(Raw<Manifest>),
    /// Several, by platform.
    Index(Raw<Index>),
}

impl ManifestOrIndex {
    /// Parses what was delivered as `media_type`, which may be empty or unknown; the document's own one counts then.
    ///
    /// # Errors
    /// Refuses documents above [`MAX_DOCUMENT`], schema version 1, documents that could be read as both kinds, and those
    /// whose own media type contradicts the delivered one.
    pub fn parse(media_type: &str, bytes: Bytes) -> Result<Self, DocumentError> {
        let what = "manifest";
        if bytes.len() > MAX_DOCUMENT {
            return Err(DocumentError::TooLarge { what, size: bytes.len() });
        }
        let shape: Shape =
            serde_json::from_slice(&bytes).map_err(|source| DocumentError::Malformed { what, source })?;
        match shape.is_index(media_type)? {
            true => Raw::parse(bytes).map(Self::Index),
            false => Raw::parse(bytes).map(Self::Manifest),
        }
    }

    /// Returns the digest of the bytes.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Manifest(raw) => raw.digest(),
            Self::Index(raw) => raw.digest(),
        }
    }

    /// Returns the bytes the digest is over.
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Manifest(raw) => raw.bytes(),
            Self::Index(raw) => raw.bytes(),
        }
    }

    /// Returns the document's own media type, the OCI one of its kind when it names none.
    pub fn media_type(&self) -> &str {
        match self {
            Self::Manifest(raw) => raw.value().media_type.as_deref().unwrap_or(media_type::OCI_MANIFEST),
            Self::Index(raw) => raw.value().media_type.as_deref().unwrap_or(media_type::OCI_INDEX),
        }
    }

    /// Lists what the document points to, in the order it must be copied: config and layers, or manifests.
    pub fn children(&self) -> Vec<&Descriptor> {
        match self {
            Self::Manifest(raw) => raw.value().layers.iter().chain([&raw.value().config]).collect(),
            Self::Index(raw) => raw.value().manifests.iter().collect(),
        }
    }
}

/// The few fields that tell a manifest from an index.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

impl Shape {
    fn is_index(&self, delivered: &str) -> Result<bool, DocumentError> {
        if self.manifests.is_some() && (self.layers.is_some() || self.config.is_some()) {
            return Err(DocumentError::Ambiguous);
        }
        if self.schema_version != Some(2) {
            return Err(DocumentError::SchemaVersion(self.schema_version.unwrap_or(0)));
        }
        let known = |media_type: &str| match media_type {
            _ if media_type::is_index(media_type) => Some(true),
            _ if media_type::is_manifest(media_type) => Some(false),
            _ => None,
        };
        let says = self.media_type.as_deref().filter(|says| !says.is_empty());
        match (known(delivered), says) {
            (Some(_), Some(says)) if says != delivered => Err(DocumentError::MediaTypeMismatch {
                delivered: delivered.to_owned(),
                says: says.chars().take(200).collect(),
            }),
            (Some(index), _) => Ok(index),
            (None, Some(says)) => {
                known(says).ok_or_else(|| DocumentError::MediaType(says.chars().take(200).collect()))
            }
            (None, None) if self.manifests.is_some() => Ok(true),
            (None, None) if self.config.is_some() => Ok(false),
            (None, None) => Err(DocumentError::MediaType(delivered.chars().take(200).collect())),
        }
    }
}

/// Reads `null` as the default: Go writes it for nil slices and maps.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAYER: &str = r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"urls":["u"],"annotations":{"a":"b"},"platform":{"architecture":"arm","os":"linux","os.version":"1","os.features":["f"],"variant":"v7"},"artifactType":"t","data":"eA=="}"#;

    #[test]
    fn manifests_survive_in_order() {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","artifactType":"t","config":{LAYER},"layers":[{LAYER}],"subject":{LAYER},"annotations":{{"x":"y"}},"later":1}}"#,
            media_type::OCI_MANIFEST
        );
        let raw = Raw::<Manifest>::parse(text.clone().into()).unwrap();
        assert_eq!(raw.bytes(), text.as_bytes());
        assert_eq!(String::from_utf8_lossy(Raw::from_value(raw.value().clone()).bytes()), text);
        let theirs: oci_spec::image::ImageManifest = serde_json::from_str(&text).unwrap();
        assert_eq!(theirs.layers()[0].digest().to_string(), raw.value().layers[0].digest.to_string());
        assert_eq!(theirs.config().size(), raw.value().config.size);
    }

    #[test]
    fn the_kind_is_certain_or_refused() {
        let config = LAYER;
        let check = |media_type: &str, text: String, expect: Result<&str, &str>| {
            let got = ManifestOrIndex::parse(media_type, text.clone().into());
            let got = got.map(|document| document.media_type().to_owned()).map_err(|error| error.to_string());
            assert_eq!(got, expect.map(str::to_owned).map_err(str::to_owned), "{media_type} {text}");
        };
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":null}}"#);
        let index = r#"{"schemaVersion":2,"manifests":null}"#.to_owned();
        let says = |media_type: &str| {
            format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":[]}}"#)
        };
        check("", manifest.clone(), Ok(media_type::OCI_MANIFEST));
        check("text/plain", manifest.clone(), Ok(media_type::OCI_MANIFEST));
        check(
            media_type::DOCKER_MANIFEST,
            says(media_type::DOCKER_MANIFEST),
            Ok(media_type::DOCKER_MANIFEST),
        );
        check("", says(media_type::DOCKER_MANIFEST), Ok(media_type::DOCKER_MANIFEST));
        check(media_type::OCI_INDEX, index.clone(), Ok(media_type::OCI_INDEX));
        check(media_type::OCI_MANIFEST, index, Err("cannot read manifest"));
        check("", r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(), Ok(media_type::OCI_INDEX));
        check(
            media_type::OCI_INDEX,
            says(media_type::OCI_MANIFEST),
            Err(
                r#"document delivered as "application/vnd.oci.image.index.v1+json" says it is "application/vnd.oci.image.manifest.v1+json""#,
            ),
        );
        let both = r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.to_owned();
        check(media_type::OCI_INDEX, both, Err("document has both layers and manifests"));
        let old = r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned();
        check("", old, Err("manifest has schema version 1, only version 2 is supported"));
        check(
            "",
            r#"{"schemaVersion":2}"#.to_owned(),
            Err("media type \"\" is neither an image manifest nor an index"),
        );
        check(
            "",
            says("text/plain"),
            Err("media type \"text/plain\" is neither an image manifest nor an index"),
        );
        check("", "[".to_owned(), Err("cannot read manifest"));
        let large = format!("{manifest}{}", " ".repeat(MAX_DOCUMENT));
        check(
            "",
            large.clone(),
            Err(&format!("manifest of {} bytes is larger than 4194304 bytes", large.len())),
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes: Vec<u8>) {
            let _ = ManifestOrIndex::parse("", bytes.into());
        }
    }
}
