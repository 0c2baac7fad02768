//! One result of one step, as caches elsewhere keep it.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_image::media_type::{self, OCI_EMPTY, OCI_MANIFEST};
use rbuild_image::{Descriptor, DiffId, Digest, Manifest, Raw};

use crate::cache::local::StepResult;

/// The kind of artifact that holds one entry.
pub(crate) const ENTRY_TYPE: &str = "application/vnd.rbuild.cache.entry.v1";

/// The keys it stands under, separated by spaces.
const KEYS: &str = "dev.rbuild.cache.keys";
/// Compression, level and time limit of the layer.
const VARIANT: &str = "dev.rbuild.cache.variant";
/// The layer's digest when uncompressed.
const DIFF_ID: &str = "dev.rbuild.cache.diff-id";
/// When the layer was made.
const CREATED: &str = "org.opencontainers.image.created";
/// Media type, digest and size of the layer, where only the entry's descriptor is at hand.
const LAYER: &str = "dev.rbuild.cache.layer";
/// When the entry was last written, in seconds since 1970.
const WRITTEN: &str = "dev.rbuild.cache.written";

/// The most keys of one entry.
const MAX_KEYS: usize = 16;
/// The longest text of an annotation other than the keys, in bytes.
const MAX_TEXT: usize = 256;
/// The largest layer that is believed, in bytes.
const MAX_LAYER: u64 = 1 << 40;

/// A result, the keys it stands under, and how its layer was made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CacheEntry {
    pub keys: BTreeSet<Digest>,
    pub variant: String,
    pub result: StepResult,
    /// When it was last written, in seconds since 1970.
    pub written: u64,
}

impl CacheEntry {
    /// Reads what an index says of an entry; none when anything about it is not as this version writes it.
    pub(crate) fn parse(descriptor: &Descriptor) -> Option<Self> {
        if descriptor.artifact_type.as_deref() != Some(ENTRY_TYPE) || descriptor.media_type != OCI_MANIFEST {
            return None;
        }
        let text = |key: &str| descriptor.annotations.get(key).filter(|text| text.len() <= MAX_TEXT);
        let mut layer = text(LAYER)?.split(' ');
        let (media_type, digest, size) = (layer.next()?, layer.next()?, layer.next()?);
        let descriptor_of_layer = Descriptor::new(media_type, digest.parse().ok()?, size.parse().ok()?);
        let entry = Self {
            keys: parse_keys(descriptor.annotations.get(KEYS)?)?,
            variant: text(VARIANT)?.clone(),
            result: StepResult {
                descriptor: descriptor_of_layer,
                diff_id: DiffId(text(DIFF_ID)?.parse().ok()?),
                created: text(CREATED)?.clone(),
            },
            written: text(WRITTEN)?.parse().ok()?,
        };
        (layer.next().is_none() && entry.is_sound()).then_some(entry)
    }

    /// Tells whether an entry can be what this version writes.
    pub(crate) fn is_sound(&self) -> bool {
        let StepResult { descriptor, created, .. } = &self.result;
        let is_layer = media_type::layer_compression(&descriptor.media_type).is_some()
            && !media_type::is_foreign_layer(&descriptor.media_type);
        is_layer
            && descriptor.size <= MAX_LAYER
            && (1..=MAX_KEYS).contains(&self.keys.len())
            && created.parse::<jiff::Timestamp>().is_ok()
    }

    /// The manifest of the entry, the same bytes wherever the same result is written.
    pub(crate) fn manifest(&self) -> Raw<Manifest> {
        let layer = &self.result.descriptor;
        Raw::from_value(Manifest {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.to_owned()),
            artifact_type: Some(ENTRY_TYPE.to_owned()),
            config: Descriptor::of(OCI_EMPTY, EMPTY),
            layers: vec![Descriptor::new(&layer.media_type, layer.digest, layer.size)],
            subject: None,
            annotations: self.annotations(),
            extra: BTreeMap::new(),
        })
    }

    /// The manifest's descriptor, with everything that a reader needs to know.
    pub(crate) fn descriptor(&self) -> Descriptor {
        let Descriptor { media_type, digest, size, .. } = &self.result.descriptor;
        let mut annotations = self.annotations();
        annotations.insert(LAYER.to_owned(), format!("{media_type} {digest} {size}"));
        annotations.insert(WRITTEN.to_owned(), self.written.to_string());
        Descriptor {
            artifact_type: Some(ENTRY_TYPE.to_owned()),
            annotations,
            ..self.manifest().descriptor(OCI_MANIFEST)
        }
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let keys: Vec<String> = self.keys.iter().map(Digest::to_string).collect();
        BTreeMap::from([
            (KEYS.to_owned(), keys.join(" ")),
            (VARIANT.to_owned(), self.variant.clone()),
            (DIFF_ID.to_owned(), self.result.diff_id.0.to_string()),
            (CREATED.to_owned(), self.result.created.clone()),
        ])
    }
}

/// The config of an entry's manifest.
pub(crate) const EMPTY: &[u8] = b"{}";

fn parse_keys(text: &str) -> Option<BTreeSet<Digest>> {
    // Of each key 71 characters and a space.
    if text.len() > MAX_KEYS * 72 {
        return None;
    }
    text.split(' ').map(|key| key.parse().ok()).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An entry that nothing else is like.
    pub(crate) fn entry(name: &str) -> CacheEntry {
        CacheEntry {
            keys: [Digest::of(name.as_bytes())].into(),
            variant: "gzip-2-keep".to_owned(),
            result: StepResult {
                descriptor: Descriptor::of(media_type::OCI_LAYER_GZIP, name.as_bytes()),
                diff_id: DiffId(Digest::of(b"plain")),
                created: "2026-11-20T22:00:00Z".to_owned(),
            },
            written: 1_800_000_000,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut entry = entry("a");
        entry.keys.insert(Digest::of(b"other"));
        assert_eq!(CacheEntry::parse(&entry.descriptor()), Some(entry.clone()));
        let later = CacheEntry { written: 1, ..entry.clone() };
        assert_eq!(later.manifest().digest(), entry.manifest().digest(), "the time of writing is outside");
    }

    #[test]
    fn what_is_not_as_we_write_it_is_no_entry() {
        let sound = entry("a").descriptor();
        let check = |name: &str, change: &dyn Fn(&mut Descriptor)| {
            let mut descriptor = sound.clone();
            change(&mut descriptor);
            assert_eq!(CacheEntry::parse(&descriptor), None, "{name}");
        };
        let set = |key: &'static str, value: &str| {
            let value = value.to_owned();
            move |descriptor: &mut Descriptor| {
                descriptor.annotations.insert(key.to_owned(), value.clone());
            }
        };
        for key in [KEYS, VARIANT, DIFF_ID, CREATED, LAYER, WRITTEN] {
            check(key, &|descriptor| drop(descriptor.annotations.remove(key)));
            check(key, &set(key, &"a".repeat(2 * MAX_KEYS * 72)));
        }
        let digest = Digest::of(b"x");
        let many: Vec<String> = (0..=MAX_KEYS).map(|n| Digest::of(&[n as u8]).to_string()).collect();
        check("no key", &set(KEYS, ""));
        check("another separator", &set(KEYS, &format!("{digest},{digest}")));
        check("too many keys", &set(KEYS, &many.join(" ")));
        check("no time", &set(CREATED, "yesterday"));
        check("no digest", &set(DIFF_ID, "sha256:0"));
        check("negative", &set(WRITTEN, "-1"));
        check("no layer", &set(LAYER, &format!("text/plain {digest} 1")));
        let foreign = media_type::OCI_FOREIGN_LAYER;
        check("foreign layer", &set(LAYER, &format!("{foreign} {digest} 1")));
        check("huge layer", &set(LAYER, &format!("{} {digest} {}", media_type::OCI_LAYER, u64::MAX)));
        check("more of a layer", &set(LAYER, &format!("{} {digest} 1 1", media_type::OCI_LAYER)));
        check("another kind", &|descriptor| descriptor.artifact_type = None);
        check("no manifest", &|descriptor| media_type::OCI_LAYER.clone_into(&mut descriptor.media_type));
    }
}
