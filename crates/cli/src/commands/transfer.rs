//! What pull, push and copy share: progress, and the digest file.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rbuild_builder::event::{Event, Transfer, TransferState};
use rbuild_image::Descriptor;
use rbuild_registry as registry;

use crate::args::ProgressMode;
use crate::render::progress::Progress;

/// Which way bytes go.
#[derive(Clone, Copy)]
pub(super) enum Direction {
    Pull,
    Push,
}

/// Shows a copy's progress under the name of `image`.
pub(super) fn watch(
    direction: Direction,
    image: String,
    quiet: bool,
) -> (Arc<Progress>, Arc<dyn Fn(registry::Progress) + Send + Sync>) {
    let mode = if quiet { ProgressMode::Quiet } else { ProgressMode::Auto };
    let progress = Arc::new(Progress::new(mode));
    let shown = Arc::clone(&progress);
    let on_progress = move |news: registry::Progress| {
        let (done, state) = match news.transfer {
            registry::Transfer::Started => (0, TransferState::Running),
            registry::Transfer::Advanced(done) => (done, TransferState::Running),
            registry::Transfer::Finished => (news.size, TransferState::Finished),
            registry::Transfer::Mounted => (news.size, TransferState::Mounted),
            _ => (news.size, TransferState::Exists),
        };
        let transfer =
            Transfer { image: image.clone(), digest: news.digest.to_string(), done, total: news.size, state };
        shown.event(&match direction {
            Direction::Pull => Event::Pull(transfer),
            Direction::Push => Event::Push(transfer),
        });
    };
    (progress, Arc::new(on_progress))
}

/// Writes the digest of what was copied to the file of `--digestfile`.
pub(super) fn write_digest(file: Option<&Path>, copied: &Descriptor) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    std::fs::write(file, copied.digest.to_string())
        .with_context(|| format!("cannot write {}", file.display()))
}
