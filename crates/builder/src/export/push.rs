//! Registries: what they lack is sent, children before parents, the tag last.

use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild_image::Reference;
use rbuild_registry::{Client, CopyError, CopyOptions, Progress, copy_manifest};

use super::{Assembled, Places};
use crate::build::OnEvent;
use crate::error::BuildError;
use crate::event::{Event, Transfer, TransferState};

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
