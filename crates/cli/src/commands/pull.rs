//! `rbuild pull`: registry to store.

use anyhow::Context as _;
use rbuild_registry::{CopyOptions, copy};

use super::transfer::{Direction, watch, write_digest};
use super::{open_store, print, remark};
use crate::args::PullArgs;
use crate::settings;

/// Copies the image of one platform into the store and prints its digest.
pub(crate) async fn run(args: PullArgs) -> anyhow::Result<()> {
    let client = settings::client(&args.transfer.registry)?;
    // The name of an image is checked first: a mistake in it is one of usage.
    settings::reference(&args.name)?;
    let name = client.reference(&args.name)?;
    let platform = settings::platform(args.platform.as_deref())?;
    let store = open_store(&args.transfer.store)?;
    let (progress, on_progress) = watch(Direction::Pull, name.familiar(), args.transfer.quiet);
    let remote = progress.hear_retries(client).remote(&name);
    let options = CopyOptions {
        platform: Some(platform),
        tags: vec![name.clone()],
        on_progress: Some(on_progress),
        ..CopyOptions::default()
    };
    let copied = copy(&remote, &store, &name, &options).await;
    progress.clear();
    let descriptor = copied.with_context(|| format!("cannot pull {}", name.familiar()))?;
    write_digest(args.transfer.digestfile.as_deref(), &descriptor)?;
    if !args.transfer.quiet {
        remark(&format!("pulled {} into {}", name.familiar(), store.path().display()));
    }
    print(&format!("{}\n", descriptor.digest))
}
