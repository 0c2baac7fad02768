//! An OCI layout directory.

use std::path::Path;

use rbuild_image::{Layout, Reference};
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
    into(image, &layout, names).await.map_err(failed)
}

/// Copies an image, its base layers included, into a layout.
pub(super) async fn into(
    image: &Assembled<'_>,
    layout: &Layout,
    names: &[Reference],
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let options = CopyOptions { tags: names.to_vec(), ..CopyOptions::default() };
    let descriptor = copy_manifest(image, layout, image.product.root(), &options).await?;
    if names.is_empty() {
        layout.list(&descriptor, None)?;
    }
    Ok(())
}
