//! An OCI layout directory.

use std::path::Path;

use rbuild_image::{Descriptor, Layout, Reference, Sink};
use rbuild_registry::{CopyOptions, copy_manifest};

use super::{Assembled, ExportError};

/// Adds an image to a layout directory, which is made when it is missing; images of other names stay.
pub(super) async fn write(
    image: &Assembled<'_>,
    dest: &Path,
    names: &[Reference],
) -> Result<(), ExportError> {
    let failed = |source| ExportError::Write { path: dest.to_owned(), source };
    let layout = Layout::create(dest).map_err(|error| failed(error.into()))?;
    let descriptor = into(image, &layout, names).await.map_err(failed)?;
    if names.is_empty() {
        layout.list(&descriptor, None).map_err(|error| failed(error.into()))?;
    }
    Ok(())
}

/// Copies an image, its base layers included, and tags it.
pub(super) async fn into(
    image: &Assembled<'_>,
    sink: &dyn Sink,
    names: &[Reference],
) -> Result<Descriptor, Box<dyn std::error::Error + Send + Sync>> {
    let options = CopyOptions { tags: names.to_vec(), ..CopyOptions::default() };
    Ok(copy_manifest(image, sink, image.product.root(), &options).await?)
}
