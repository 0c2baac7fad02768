//! `rbuild gc`: the store holds what is used.

use std::time::Duration;

use anyhow::Context as _;
use rbuild_layers::store::{Collected, GcPolicy, NamedImages, Part, Tally};
use serde_json::{Map, Value, json};

use super::{open_store, print};
use crate::args::{Format, GcArgs};
use crate::render::{bytes, report::table};
use crate::settings;

/// Collects garbage and says what went and what is left.
pub(crate) fn run(args: &GcArgs) -> anyhow::Result<()> {
    let size = args.max_size.as_deref().map(|text| settings::bytes("--max-size", text));
    let keep = args.keep_duration.as_deref().map(|text| settings::duration("--keep-duration", text));
    let policy = GcPolicy {
        max_size: size.transpose()?.unwrap_or(0),
        keep_duration: keep.transpose()?.unwrap_or(Duration::ZERO),
        images: if args.all { NamedImages::Collect } else { NamedImages::Keep },
    };
    let store = open_store(&args.store)?;
    let collected = store.collect(&policy).context("cannot collect garbage")?;
    print(&match args.format {
        Format::Text => text(&collected),
        Format::Json => format!("{}\n", json(&collected)),
    })
}

const fn name(part: Part) -> &'static str {
    match part {
        Part::Image => "images",
        Part::Blob => "blobs",
        Part::Snapshot => "snapshots",
        Part::CacheEntry => "cache",
        Part::CacheMount => "mounts",
    }
}

fn text(collected: &Collected) -> String {
    let row = |part: Part| {
        let Tally { count, bytes: freed } = collected.removed(part);
        let kept = collected.kept(part);
        [name(part).to_owned(), count.to_string(), bytes(freed), kept.count.to_string(), bytes(kept.bytes)]
            .to_vec()
    };
    let header = ["PART", "REMOVED", "FREED", "KEPT", "SIZE"].map(str::to_owned).to_vec();
    table(&std::iter::once(header).chain(Part::ALL.map(row)).collect::<Vec<_>>())
}

fn json(collected: &Collected) -> Value {
    let tally = |tally: Tally| json!({ "count": tally.count, "bytes": tally.bytes });
    let part = |part: Part| {
        let (removed, kept) = (tally(collected.removed(part)), tally(collected.kept(part)));
        (name(part).to_owned(), json!({ "removed": removed, "kept": kept }))
    };
    Value::Object(Part::ALL.map(part).into_iter().collect::<Map<_, _>>())
}
