//! Removes entries of a cache.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use rbuild_image::Digest;
use rbuild_registry::{Client, Removal};

use super::index::ScopeIndex;
use super::repository::{CacheRepository, RemoteCacheError, Use, seconds};
use super::{CachePlace, CacheScope};

/// What of a cache may stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrunePolicy {
    /// Entries that were not written within this time go.
    pub max_age: Option<Duration>,
    /// What was written longest ago goes until the layers that are left, each counted once, have no more bytes than this.
    pub max_size: Option<u64>,
}

/// What pruning did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Entries that went.
    pub removed: usize,
    /// Entries that stayed.
    pub kept: usize,
    /// The bytes of layers that no entry has any more.
    pub freed: u64,
    /// Whether the manifests of entries went too; else only the index says no more that they are there.
    pub manifests: ManifestRemoval,
}

/// Whether manifests were removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestRemoval {
    /// They were. Blobs go when the registry collects garbage.
    Removed,
    /// The registry removes nothing, or not for these credentials.
    Unsupported,
}

/// Removes entries of one scope.
///
/// # Errors
/// The cache cannot be read or written, or is none of ours. A cache that does not exist is empty.
pub async fn prune(
    place: &CachePlace,
    scope: &CacheScope,
    policy: PrunePolicy,
    client: Option<&Client>,
) -> Result<Pruned, RemoteCacheError> {
    let repository = CacheRepository::new(place, scope, client, Use::Read)?;
    let (mut kept, mut freed) = (0, 0);
    let choose = |index: &ScopeIndex| {
        let gone = choose(index, policy, seconds(SystemTime::now()));
        kept = index.entries.len() - gone.len();
        freed = size(index, |_| true).saturating_sub(size(index, |digest| !gone.contains(digest)));
        gone
    };
    let (gone, removal) = repository.prune(choose).await?;
    let manifests = match removal {
        Removal::Removed => ManifestRemoval::Removed,
        Removal::Unsupported => ManifestRemoval::Unsupported,
    };
    Ok(Pruned { removed: gone.len(), kept, freed, manifests })
}

fn choose(index: &ScopeIndex, policy: PrunePolicy, now: u64) -> BTreeSet<Digest> {
    let mut oldest: Vec<_> = index.entries.iter().collect();
    oldest.sort_by_key(|(digest, entry)| (entry.written, **digest));
    let mut gone = BTreeSet::new();
    if let Some(age) = policy.max_age {
        let limit = now.saturating_sub(age.as_secs());
        gone.extend(oldest.iter().filter(|(_, entry)| entry.written < limit).map(|(digest, _)| **digest));
    }
    if let Some(limit) = policy.max_size {
        for (digest, _) in oldest {
            if size(index, |digest| !gone.contains(digest)) <= limit {
                break;
            }
            gone.insert(*digest);
        }
    }
    gone
}

/// The bytes of the layers of some entries, each layer once.
fn size(index: &ScopeIndex, of: impl Fn(&Digest) -> bool) -> u64 {
    let layers = index.entries.iter().filter(|(digest, _)| of(digest));
    let layers: HashMap<_, _> =
        layers.map(|(_, entry)| (entry.result.descriptor.digest, entry.result.descriptor.size)).collect();
    layers.values().fold(0, |sum, size| size.saturating_add(sum))
}

#[cfg(test)]
mod tests {
    use super::super::entry::CacheEntry;
    use super::super::entry::tests::entry;
    use super::*;

    #[test]
    fn what_was_written_longest_ago_goes_first() {
        let sized = |name: &str, written: u64, size: u64| {
            let mut entry = CacheEntry { written, ..entry(name) };
            entry.result.descriptor.size = size;
            entry
        };
        let twin = CacheEntry { keys: [Digest::of(b"twin")].into(), ..sized("c", 300, 30) };
        let index = ScopeIndex::of([sized("a", 100, 10), sized("b", 200, 20), sized("c", 300, 30), twin]);
        let check = |max_age: Option<u64>, max_size: Option<u64>, expect: &[u64]| {
            let policy = PrunePolicy { max_age: max_age.map(Duration::from_secs), max_size };
            let gone = choose(&index, policy, 1000);
            let left = index.entries.iter().filter(|(digest, _)| !gone.contains(digest));
            let mut left: Vec<u64> = left.map(|(_, entry)| entry.written).collect();
            left.sort_unstable();
            assert_eq!(left, expect, "{policy:?}");
        };
        check(None, None, &[100, 200, 300, 300]);
        check(Some(800), None, &[200, 300, 300]);
        check(Some(0), None, &[]);
        check(None, Some(60), &[100, 200, 300, 300]);
        check(None, Some(59), &[200, 300, 300]);
        check(None, Some(30), &[300, 300]);
        check(Some(750), Some(1000), &[300, 300]);
        check(None, Some(0), &[]);
    }
}
