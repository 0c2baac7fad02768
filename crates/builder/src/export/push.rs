//! Registries: what they lack is sent, children before parents, the tag last.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use rbuild_image::{Descriptor, Reference, Sink as _};
use rbuild_registry::{Client, CopyError, CopyOptions, Progress, copy_manifest};

use super::{Assembled, Places};
use crate::build::OnEvent;
use crate::error::BuildError;
use crate::event::{Event, Transfer, TransferState};

/// How many questions are asked at once.
const JOBS: usize = 4;

/// Pushes an image under every name; names of one repository share one transfer.
pub(crate) async fn push(
    image: &Assembled<'_>,
    client: &Client,
    names: &[Reference],
    on_event: &OnEvent,
) -> Result<(), BuildError> {
    let mut repositories: BTreeMap<(String, String), Vec<Reference>> = BTreeMap::new();
    for name in names {
        let repository = (name.registry().to_owned(), name.repository().to_owned());
        repositories.entry(repository).or_default().push(name.clone());
    }
    for tags in repositories.into_values() {
        let Some(first) = tags.first().cloned() else { continue };
        let failed =
            |source: CopyError| BuildError::Push { name: first.to_string(), source: Box::new(source) };
        let on_progress = progress(&first, Arc::clone(on_event));
        let options = CopyOptions { tags, on_progress: Some(on_progress), ..CopyOptions::default() };
        let places = Places::read(image.store, &first);
        let image = Assembled { places, ..*image };
        copy_manifest(&image, &client.remote(&first), image.product.root(), &options)
            .await
            .map_err(failed)?;
        image.places.add(&image.product.tree().layers, &first, image.store);
    }
    Ok(())
}

/// Tells whether a registry has all of an image under every name, so that nothing need be sent. What it does not answer is no.
pub(crate) async fn is_there(
    image: &Assembled<'_>,
    client: &Client,
    names: &[Reference],
    on_event: &OnEvent,
) -> bool {
    let root = image.product.root().descriptor;
    let children = image.product.children();
    for name in names {
        let remote = client.remote(name);
        if remote.digest_of(name).await.ok().flatten() != Some(root.digest) {
            return false;
        }
        // A name may outlive what it leads to, where a registry collects garbage.
        let missing = stream::iter(&children).map(|child| {
            let remote = &remote;
            async move { !remote.exists(child).await.unwrap_or(false) }
        });
        if missing.buffer_unordered(JOBS).any(|is_missing| async move { is_missing }).await {
            return false;
        }
    }
    for (name, child) in names.iter().flat_map(|name| children.iter().map(move |child| (name, child))) {
        let Descriptor { digest, size, .. } = *child;
        let there = Progress { digest, size, transfer: rbuild_registry::Transfer::Exists };
        on_event(Event::Push(transfer(&name.familiar(), there)));
    }
    !names.is_empty()
}

fn progress(name: &Reference, on_event: OnEvent) -> Arc<dyn Fn(Progress) + Send + Sync> {
    let image = name.familiar();
    Arc::new(move |progress| on_event(Event::Push(transfer(&image, progress))))
}

/// The event of a step in a transfer.
pub(super) fn transfer(image: &str, progress: Progress) -> Transfer {
    use rbuild_registry::Transfer as Of;
    let (done, state) = match progress.transfer {
        Of::Started => (0, TransferState::Running),
        Of::Advanced(done) => (done, TransferState::Running),
        Of::Exists => (progress.size, TransferState::Exists),
        Of::Mounted => (progress.size, TransferState::Mounted),
        _ => (progress.size, TransferState::Finished),
    };
    Transfer {
        image: image.to_owned(),
        digest: progress.digest.to_string(),
        done,
        total: progress.size,
        state,
    }
}
