//! A cache within the manifest of an image.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_image::{Descriptor, DiffId, Digest, Manifest};
use serde::{Deserialize, Serialize};

use super::CacheScope;
use super::entry::CacheEntry;
use crate::cache::local::StepResult;

/// The annotation of a manifest that holds the entries of its layers, as JSON.
pub(crate) const ANNOTATION: &str = "dev.rbuild.cache.inline.v1";

/// More entries than these are not read.
const MAX_ENTRIES: usize = 1000;

#[derive(Serialize, Deserialize)]
struct Inline {
    scope: String,
    variant: String,
    entries: Vec<InlineEntry>,
}

/// An entry whose layer is in the manifest that holds it.
#[derive(Serialize, Deserialize)]
struct InlineEntry {
    keys: BTreeSet<Digest>,
    layer: Digest,
    diff_id: DiffId,
    created: String,
}

/// The annotation for an image with these layers; empty when none of them has an entry.
pub(crate) fn annotations<'a>(
    entries: impl IntoIterator<Item = &'a CacheEntry>,
    layers: &[Descriptor],
    variant: &str,
) -> BTreeMap<String, String> {
    let is_own = |entry: &&CacheEntry| {
        layers.iter().any(|layer| layer.digest == entry.result.descriptor.digest) && entry.variant == variant
    };
    let inline = |entry: &CacheEntry| InlineEntry {
        keys: entry.keys.clone(),
        layer: entry.result.descriptor.digest,
        diff_id: entry.result.diff_id,
        created: entry.result.created.clone(),
    };
    let entries: Vec<InlineEntry> =
        entries.into_iter().filter(is_own).take(MAX_ENTRIES).map(inline).collect();
    if entries.is_empty() {
        return BTreeMap::new();
    }
    let inline = Inline { scope: CacheScope::default().to_string(), variant: variant.to_owned(), entries };
    let text = serde_json::to_string(&inline).unwrap_or_default();
    BTreeMap::from([(ANNOTATION.to_owned(), text)])
}

/// The entries that a manifest holds for a scope; those of layers that are not its own are left out.
pub(crate) fn parse(manifest: &Manifest, scope: &CacheScope) -> Vec<CacheEntry> {
    let text = manifest.annotations.get(ANNOTATION);
    let Some(inline) = text.and_then(|text| serde_json::from_str::<Inline>(text).ok()) else {
        return Vec::new();
    };
    if inline.scope != scope.as_str() {
        return Vec::new();
    }
    let entry = |entry: InlineEntry| {
        let layer = manifest.layers.iter().find(|layer| layer.digest == entry.layer)?;
        let descriptor = Descriptor::new(&layer.media_type, layer.digest, layer.size);
        let result = StepResult { descriptor, diff_id: entry.diff_id, created: entry.created };
        let entry = CacheEntry { keys: entry.keys, variant: inline.variant.clone(), result, written: 0 };
        entry.is_sound().then_some(entry)
    };
    inline.entries.into_iter().take(MAX_ENTRIES).filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::entry;
    use super::*;

    #[test]
    fn an_image_holds_what_its_own_layers_came_from() {
        let (own, other) = (entry("own"), entry("other"));
        let manifest = |layers: Vec<Descriptor>| {
            let annotations =
                annotations([&own, &other], std::slice::from_ref(&own.result.descriptor), &own.variant);
            Manifest { annotations, layers, ..own.manifest().into_value() }
        };
        let scope = CacheScope::default();
        let image = manifest(vec![own.result.descriptor.clone()]);
        assert_eq!(parse(&image, &scope), [CacheEntry { written: 0, ..own.clone() }]);
        assert_eq!(parse(&image, &"other".parse().expect("a scope")), []);
        assert_eq!(parse(&manifest(vec![other.result.descriptor.clone()]), &scope), [], "not its layer");
        let mut broken = image;
        broken.annotations.insert(ANNOTATION.to_owned(), "{".to_owned());
        assert_eq!(parse(&broken, &scope), []);
        assert!(annotations([&other], std::slice::from_ref(&own.result.descriptor), "other").is_empty());
    }
}
