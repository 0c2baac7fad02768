//! All entries of one scope, as one document.

use std::collections::BTreeMap;

use rbuild_image::media_type::OCI_INDEX;
use rbuild_image::{Descriptor, Digest, Index, ManifestOrIndex, Raw, Resolved};
use thiserror::Error;

use super::CacheScope;
use super::entry::CacheEntry;

/// The kind of artifact that an index of entries is.
pub(crate) const INDEX_TYPE: &str = "application/vnd.rbuild.cache.v1";

/// Whose entries these are.
const SCOPE: &str = "dev.rbuild.cache.scope";
/// Which notes are merged already, and since when: `<hex>:<seconds since 1970>`, separated by spaces.
const MERGED: &str = "dev.rbuild.cache.merged";
/// Makes one writer's note another than everybody else's.
const NONCE: &str = "dev.rbuild.cache.nonce";

/// More entries than these are not kept; those written longest ago go first. As text they are below 4 MiB.
const MAX_ENTRIES: usize = 2000;

/// More notes than these are not remembered as merged.
const MAX_MERGED: usize = 5000;

/// The entries of a scope.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ScopeIndex {
    /// By the digest of the entry's manifest.
    pub entries: BTreeMap<Digest, CacheEntry>,
    /// Notes whose entries are among these, and when they were first found to be, in seconds since 1970.
    pub merged: BTreeMap<Digest, u64>,
}

/// Why a document is not the index of a scope.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ForeignCache {
    /// Something else goes by the name.
    #[error("it is no cache of rbuild, but {0}")]
    Kind(String),
    /// Another scope's.
    #[error("it is the cache of scope {0:?}")]
    Scope(String),
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Malformed(String),
}

impl ScopeIndex {
    /// Adds entries, as written now.
    pub(crate) fn of(entries: impl IntoIterator<Item = CacheEntry>) -> Self {
        let entries = entries.into_iter().map(|entry| (entry.manifest().digest(), entry)).collect();
        Self { entries, merged: BTreeMap::new() }
    }

    /// Reads a document. Entries that are not as this version writes them are left out.
    ///
    /// # Errors
    /// It is none of ours, or another scope's.
    pub(crate) fn parse(document: &Resolved, scope: &CacheScope) -> Result<Self, ForeignCache> {
        let parsed = ManifestOrIndex::parse(&document.descriptor.media_type, document.bytes.clone());
        let index = match parsed {
            Ok(ManifestOrIndex::Index(index)) => index.into_value(),
            Ok(ManifestOrIndex::Manifest(manifest)) => {
                let manifest = manifest.into_value();
                let kind = manifest.artifact_type.unwrap_or(manifest.config.media_type);
                return Err(ForeignCache::Kind(shown(&kind)));
            }
            Err(error) => return Err(ForeignCache::Malformed(error.to_string())),
        };
        if index.artifact_type.as_deref() != Some(INDEX_TYPE) {
            return Err(ForeignCache::Kind(shown(
                index.artifact_type.as_deref().unwrap_or("an image index"),
            )));
        }
        let whose = index.annotations.get(SCOPE).map(String::as_str).unwrap_or_default();
        if whose != scope.as_str() {
            return Err(ForeignCache::Scope(shown(whose)));
        }
        let sound = |descriptor: &Descriptor| {
            let entry = CacheEntry::parse(descriptor)?;
            // The manifest follows from the entry: what is listed under another digest was changed.
            (entry.manifest().digest() == descriptor.digest).then_some((descriptor.digest, entry))
        };
        let merged = index.annotations.get(MERGED).map(String::as_str).unwrap_or_default();
        Ok(Self {
            entries: index.manifests.iter().take(2 * MAX_ENTRIES).filter_map(sound).collect(),
            merged: merged.split(' ').take(MAX_MERGED).filter_map(parse_merged).collect(),
        })
    }

    /// Takes everything of another index over; of one entry the later time of writing counts.
    pub(crate) fn merge(&mut self, other: Self) {
        for (digest, entry) in other.entries {
            let written = entry.written;
            let known = self.entries.entry(digest).or_insert(entry);
            known.written = known.written.max(written);
        }
        for (note, since) in other.merged {
            let known = self.merged.entry(note).or_insert(since);
            *known = since.min(*known);
        }
        self.shorten();
    }

    fn shorten(&mut self) {
        let surplus = self.entries.len().saturating_sub(MAX_ENTRIES);
        if surplus == 0 {
            return;
        }
        let mut oldest: Vec<(u64, Digest)> =
            self.entries.iter().map(|(digest, entry)| (entry.written, *digest)).collect();
        oldest.sort_unstable();
        for (_, digest) in oldest.into_iter().take(surplus) {
            self.entries.remove(&digest);
        }
    }

    /// The document. A note is given a `nonce`, so that no two are the same.
    pub(crate) fn document(&self, scope: &CacheScope, nonce: Option<&str>) -> Resolved {
        let merged: Vec<String> = self
            .merged
            .iter()
            .take(MAX_MERGED)
            .map(|(note, since)| format!("{}:{since}", note.hex()))
            .collect();
        let mut index = Index::new(self.entries.values().map(CacheEntry::descriptor).collect());
        index.artifact_type = Some(INDEX_TYPE.to_owned());
        index.annotations.insert(SCOPE.to_owned(), scope.to_string());
        if !merged.is_empty() {
            index.annotations.insert(MERGED.to_owned(), merged.join(" "));
        }
        index.annotations.extend(nonce.map(|nonce| (NONCE.to_owned(), nonce.to_owned())));
        let raw = Raw::from_value(index);
        Resolved { descriptor: raw.descriptor(OCI_INDEX), bytes: raw.bytes().clone() }
    }
}

fn parse_merged(text: &str) -> Option<(Digest, u64)> {
    let (note, since) = text.split_once(':')?;
    Some((format!("sha256:{note}").parse().ok()?, since.parse().ok()?))
}

/// A stranger's text, fit for a message.
fn shown(text: &str) -> String {
    text.chars().take(80).filter(|character| !character.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::entry;
    use super::*;

    fn scope() -> CacheScope {
        CacheScope::default()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut index = ScopeIndex::of([entry("a"), entry("b")]);
        index.merged.insert(Digest::of(b"note"), 7);
        let document = index.document(&scope(), None);
        assert_eq!(ScopeIndex::parse(&document, &scope()), Ok(index.clone()));
        let other: CacheScope = "other".parse().expect("a scope");
        assert_eq!(ScopeIndex::parse(&document, &other), Err(ForeignCache::Scope("default".into())));
        let notes = ["1", "2"].map(|nonce| index.document(&scope(), Some(nonce)).descriptor.digest);
        assert_ne!(notes[0], notes[1]);
    }

    #[test]
    fn merging_loses_nothing_and_keeps_the_later_time() {
        let older = CacheEntry { written: 1, ..entry("a") };
        let mut all = ScopeIndex::of([older, entry("b")]);
        all.merge(ScopeIndex::of([entry("a"), entry("c")]));
        assert_eq!(all, ScopeIndex::of([entry("a"), entry("b"), entry("c")]));
        let many = (0..MAX_ENTRIES).map(|n| CacheEntry { written: n as u64, ..entry(&n.to_string()) });
        all.merge(ScopeIndex::of(many));
        assert_eq!(all.entries.len(), MAX_ENTRIES);
        assert!(all.entries.contains_key(&entry("c").manifest().digest()), "the oldest went");
        assert!(all.document(&scope(), None).bytes.len() < rbuild_image::manifest::MAX_DOCUMENT);
    }

    #[test]
    fn what_is_not_ours_is_said_to_be_foreign() {
        let check = |text: &str, expect: &str| {
            let descriptor = Descriptor::of("", text.as_bytes());
            let document = Resolved { descriptor, bytes: text.to_owned().into() };
            let error = ScopeIndex::parse(&document, &scope()).expect_err("foreign").to_string();
            assert!(error.contains(expect), "{error}");
        };
        check("{", "cannot be read");
        check(r#"{"schemaVersion":2,"manifests":[]}"#, "an image index");
        let buildkit = r#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}]}"#;
        check(buildkit, "an image index");
        let image = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}"#;
        check(image, "application/vnd.buildkit.cacheconfig.v0");
    }

    #[test]
    fn an_entry_under_another_digest_is_left_out() {
        let index = ScopeIndex::of([entry("a"), entry("b")]);
        let text = String::from_utf8(index.document(&scope(), None).bytes.to_vec()).expect("text");
        let (layer, other) = (entry("a").result.descriptor.digest, Digest::of(b"other"));
        let bytes: bytes::Bytes = text.replacen(&layer.to_string(), &other.to_string(), 1).into();
        let document = Resolved { descriptor: Descriptor::of(OCI_INDEX, &bytes), bytes };
        assert_eq!(ScopeIndex::parse(&document, &scope()), Ok(ScopeIndex::of([entry("b")])));
    }
}
