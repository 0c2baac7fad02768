//! `rbuild cache`: caches that builds share hold what is used.

use anyhow::Context as _;
use rbuild_builder::cache::remote::{ManifestRemoval, PrunePolicy, Pruned, prune};
use serde_json::json;

use super::{print, remark};
use crate::args::{Format, PruneArgs};
use crate::render::bytes;
use crate::settings;

/// Removes entries and says what went.
pub(crate) async fn run(args: PruneArgs) -> anyhow::Result<()> {
    let (place, scope) = settings::cache_place(&args.cache, args.scope.as_deref())?;
    let age = args.max_age.as_deref().map(|text| settings::duration("--max-age", text));
    let size = args.max_size.as_deref().map(|text| settings::bytes("--max-size", text));
    let policy = PrunePolicy { max_age: age.transpose()?, max_size: size.transpose()? };
    let client = settings::client(&args.registry)?;
    let pruned = prune(&place, &scope, policy, Some(&client)).await;
    let pruned = pruned.with_context(|| format!("cannot prune the cache {place}"))?;
    let Pruned { removed, kept, freed, manifests } = pruned;
    if removed > 0 && manifests == ManifestRemoval::Unsupported {
        remark(
            "the registry does not remove manifests: the index has let go of them, the rest is its garbage collection",
        );
    }
    print(&match args.format {
        Format::Text => format!("removed {removed} entries ({}), kept {kept}\n", bytes(freed)),
        Format::Json => {
            let are_removed = manifests == ManifestRemoval::Removed;
            format!(
                "{}\n",
                json!({"removed": removed, "kept": kept, "bytes": freed, "manifests_removed": are_removed})
            )
        }
    })
}
