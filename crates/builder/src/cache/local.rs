//! Results of steps in the store: key to layer.

use rbuild_image::{Descriptor, DiffId, Digest, Layer};
use rbuild_layers::store::StoreDirError;
use rbuild_layers::{LayerOptions, Store};
use serde::{Deserialize, Serialize};

use super::inputs::StepInputs;
use super::listing::FileList;

/// Remembers which layer a step made.
///
/// Entries of layers that were made with another compression, level or time limit are not found.
#[derive(Debug, Clone)]
pub struct LocalCache {
    store: Store,
    variant: String,
}

/// What a step made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepResult {
    /// The blob.
    pub descriptor: Descriptor,
    /// The digest of the uncompressed layer.
    pub diff_id: DiffId,
    /// When the layer was made, as RFC 3339.
    pub created: String,
}

impl StepResult {
    /// The layer.
    pub fn layer(&self) -> Layer {
        Layer { descriptor: self.descriptor.clone(), diff_id: self.diff_id }
    }
}

impl LocalCache {
    /// Looks into `store` for layers made with `options`.
    pub fn new(store: Store, options: &LayerOptions) -> Self {
        // By its number: a later version with another default makes other layers.
        let level = options.level.unwrap_or(options.compression.default_level());
        let clamp = options.clamp.map_or_else(|| "keep".to_owned(), |clamp| clamp.to_string());
        Self { store, variant: format!("{}-{level}-{clamp}", options.compression) }
    }

    /// How layers are made: compression, level and time limit. Results of another variant are not found.
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// Finds the result recorded under a key, if its blob is still there. A malformed entry is a miss.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn get(&self, key: &Digest) -> Result<Option<StepResult>, StoreDirError> {
        let Some(bytes) = self.store.cache_get(&self.name(key))? else { return Ok(None) };
        let Ok(result) = serde_json::from_slice::<StepResult>(&bytes) else { return Ok(None) };
        let present = self.store.blob_size(&result.descriptor.digest) == Some(result.descriptor.size);
        Ok(present.then_some(result))
    }

    /// Records a result under a key, atomically.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn put(&self, key: &Digest, result: &StepResult) -> Result<(), StoreDirError> {
        let bytes = serde_json::to_vec(result).unwrap_or_default();
        self.store.cache_put(&self.name(key), &bytes)
    }

    /// Tells whether a tree of this shape was ever read for a key.
    pub fn knows(&self, shape: &Digest) -> bool {
        self.store.cache_get(&format!("shapes/{}", shape.hex())).is_ok_and(|known| known.is_some())
    }

    /// Remembers that a tree of this shape was read for a key.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn remember(&self, shape: &Digest) -> Result<(), StoreDirError> {
        self.store.cache_put(&format!("shapes/{}", shape.hex()), b"")
    }

    /// Reads what steps of earlier builds of an image were made of; what cannot be read is forgotten.
    pub(crate) fn records(&self, image: &str) -> Vec<StepInputs> {
        let bytes = self.store.cache_get(&format!("inputs/{image}")).ok().flatten();
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Keeps records of an image. What cannot be written is not kept.
    pub(crate) fn keep_records(&self, image: &str, records: &[StepInputs]) {
        if let Ok(bytes) = serde_json::to_vec(records) {
            let _ = self.store.cache_put(&format!("inputs/{image}"), &bytes);
        }
    }

    /// Tells whether there is a list of a tree, by the digest of its content.
    pub(crate) fn has_list(&self, content: &Digest) -> bool {
        self.store.path().join("cache/trees").join(content.hex()).exists()
    }

    /// Reads the list of a tree.
    pub(crate) fn list(&self, content: &Digest) -> Option<FileList> {
        let bytes = self.store.cache_get(&format!("trees/{}", content.hex())).ok().flatten()?;
        FileList::decode(&bytes)
    }

    /// Keeps the list of a tree, if it is not too large. What cannot be written is not kept.
    pub(crate) fn keep_list(&self, content: &Digest, list: &FileList) {
        if let Some(bytes) = list.encode() {
            let _ = self.store.cache_put(&format!("trees/{}", content.hex()), &bytes);
        }
    }

    fn name(&self, key: &Digest) -> String {
        format!("steps/{}/{}", self.variant, key.hex())
    }
}
