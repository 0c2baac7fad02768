//! A stage while its steps run: the image so far, and its rootfs as far as somebody looked at it.

use std::sync::Arc;

use rbuild_image::{ChainId, Digest, History, Image, Layer};

use super::draft::Draft;
use crate::images::BaseImage;

/// A stage while its steps run, and after.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Config, layers and history so far.
    pub image: Image,
    /// The images that layers may have to be fetched from.
    pub bases: Vec<Arc<BaseImage>>,
    /// The rootfs as a value, when a step looked at it since the last that ran a process.
    pub draft: Option<Draft>,
}

impl Stage {
    /// A stage above an image.
    pub(crate) fn new(image: Image, bases: Vec<Arc<BaseImage>>) -> Self {
        Self { image, bases, draft: None }
    }

    /// A stage above another stage.
    pub(crate) fn above(other: &Self) -> Self {
        Self { image: other.image.clone(), bases: other.bases.clone(), draft: None }
    }

    /// The digest that names the rootfs; none for an empty one.
    pub(crate) fn chain_id(&self) -> Option<Digest> {
        ChainId::of(&self.image.config.rootfs.diff_ids).map(|ChainId(digest)| digest)
    }

    /// Adds a step's layer, made at `created`.
    pub(crate) fn append(&mut self, layer: Layer, history: History, created: String) {
        self.image.append(layer, History { created: Some(created), ..history });
    }

    /// Adds a step that made no layer.
    pub(crate) fn append_empty(&mut self, history: History) {
        self.image.append_empty(history);
    }

    /// Gives the history entries of steps without a layer the time of the layer before, or of the first new one.
    ///
    /// # References
    /// BuildKit, exporter/containerimage/writer.go, `normalizeLayersAndHistory`
    pub(crate) fn fill_history_times(&mut self) {
        let history = &mut self.image.config.history;
        let mut created = None;
        let mut missing = false;
        for entry in history.iter() {
            if entry.created.is_some() {
                created.clone_from(&entry.created);
                if missing {
                    break;
                }
            } else {
                missing = true;
            }
        }
        missing = false;
        for entry in history.iter_mut() {
            match &entry.created {
                Some(own) if missing => created = Some(own.clone()),
                Some(_) => {}
                None => {
                    missing = true;
                    entry.created.clone_from(&created);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rbuild_image::Platform;

    use super::*;

    #[test]
    fn fills_history_times() {
        let check = |times: &[Option<&str>], expect: &[Option<&str>]| {
            let mut stage = Stage::new(Image::scratch(&Platform::new("linux", "amd64")), Vec::new());
            let entry =
                |time: &Option<&str>| History { created: time.map(str::to_owned), ..History::default() };
            stage.image.config.history = times.iter().map(entry).collect();
            stage.fill_history_times();
            let got: Vec<_> =
                stage.image.config.history.iter().map(|entry| entry.created.as_deref()).collect();
            assert_eq!(got, expect, "{times:?}");
        };
        check(&[], &[]);
        check(&[None], &[None]);
        check(&[Some("base"), None], &[Some("base"), Some("base")]);
        check(
            &[Some("base"), None, Some("new"), None],
            &[Some("base"), Some("new"), Some("new"), Some("new")],
        );
        check(&[None, Some("a"), None, Some("b")], &[Some("a"), Some("a"), Some("a"), Some("b")]);
    }
}
