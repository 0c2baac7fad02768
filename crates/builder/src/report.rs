//! What `--metadata-file` holds.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::built::Built;

impl Built {
    /// The metadata of the result under buildx's keys, and `unchanged`: [`Built::unchanged`].
    ///
    /// # References
    /// <https://docs.docker.com/reference/cli/docker/buildx/build/#metadata-file>
    pub fn metadata(&self) -> BTreeMap<String, Value> {
        let mut metadata = BTreeMap::from([
            ("containerimage.digest".to_owned(), json!(self.digest())),
            ("containerimage.descriptor".to_owned(), json!(self.descriptor)),
            ("unchanged".to_owned(), json!(self.unchanged)),
        ]);
        if let Some(config) = self.config_digest() {
            metadata.insert("containerimage.config.digest".to_owned(), json!(config));
        }
        if !self.names.is_empty() {
            metadata.insert("image.name".to_owned(), json!(self.names.join(",")));
        }
        metadata
    }
}
