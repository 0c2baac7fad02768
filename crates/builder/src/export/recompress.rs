//! Base layers in the compression that an output asks for.

use std::sync::Arc;

use rbuild_image::Layer;

use super::ExportError;
use crate::error::BuildError;
use crate::execute::{Executor, Stage};

/// Gives every layer of the images that is of another compression the one of new layers, and keeps what is in it.
///
/// # Errors
/// A layer cannot be fetched, read or written.
pub(crate) async fn recompress(
    executor: &Arc<Executor>,
    mut stages: Vec<Stage>,
) -> Result<Vec<Stage>, BuildError> {
    for stage in &mut stages {
        let chain = stage.image.chain();
        executor.bring(&chain, &stage.bases).await.map_err(ExportError::Fetch)?;
        let worker = Arc::clone(executor);
        let convert = move || chain.iter().map(|layer| worker.recompress(layer)).collect();
        let converted: Result<Vec<Layer>, BuildError> =
            tokio::task::spawn_blocking(convert).await.map_err(|_| BuildError::Cancelled)?;
        stage.image.layers = converted?.into_iter().map(|layer| layer.descriptor).collect();
    }
    Ok(stages)
}
