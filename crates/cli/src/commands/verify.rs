//! `rbuild store verify`: is everything what its name says?

use anyhow::Context as _;
use rbuild_layers::store::{Damage, Verified};
use serde_json::json;

use super::parse::Verdict;
use super::{open_store, print};
use crate::args::{Format, VerifyArgs};
use crate::render::bytes;

/// Checks the store and says what is damaged.
pub(crate) fn run(args: &VerifyArgs) -> anyhow::Result<Verdict> {
    let store = open_store(&args.store)?;
    let found = store.verify().context("cannot read the store")?;
    if args.remove {
        store.discard(&found.damages).context("cannot remove what is damaged")?;
    }
    print(&match args.format {
        Format::Text => text(&found),
        Format::Json => format!("{}\n", json(&found)),
    })?;
    Ok(if found.damages.is_empty() { Verdict::Accepted } else { Verdict::Rejected })
}

fn text(found: &Verified) -> String {
    let line = |damage: &Damage| format!("{}: {}\n", damage.path.display(), damage.problem);
    let damages: String = found.damages.iter().map(line).collect();
    let Verified { blobs, snapshots, damages: all } = found;
    format!(
        "{damages}{} blobs with {}, {} snapshots with {}: {} damaged\n",
        blobs.count,
        bytes(blobs.bytes),
        snapshots.count,
        bytes(snapshots.bytes),
        all.len()
    )
}

fn json(found: &Verified) -> serde_json::Value {
    let damage =
        |damage: &Damage| json!({ "path": damage.path.display().to_string(), "problem": damage.problem });
    json!({
        "blobs": { "count": found.blobs.count, "bytes": found.blobs.bytes },
        "snapshots": { "count": found.snapshots.count, "bytes": found.snapshots.bytes },
        "damages": found.damages.iter().map(damage).collect::<Vec<_>>(),
    })
}
