//! A stage while its steps run: the image so far, and its rootfs as far as somebody looked at it.

use std::sync::{Arc, OnceLock};

use rbuild_image::{ChainId, Digest, History, Image, Layer};

use super::draft::Draft;
use super::history::fill_times;
use crate::images::BaseImage;

/// The stages of a build that are done, by their index in the plan. Any thread may add one.
#[derive(Debug)]
pub(crate) struct Done(Vec<OnceLock<Stage>>);

impl Done {
    /// None of `count` stages is done.
    pub(crate) fn new(count: usize) -> Self {
        Self(std::iter::repeat_with(OnceLock::new).take(count).collect())
    }

    /// The stage, once it is done.
    pub(crate) fn get(&self, index: usize) -> Option<&Stage> {
        self.0.get(index)?.get()
    }

    /// Adds a stage; the first one of an index stays.
    pub(crate) fn put(&self, index: usize, stage: Stage) {
        if let Some(place) = self.0.get(index) {
            let _ = place.set(Stage { draft: None, ..stage });
        }
    }

    /// Gives a stage away.
    pub(crate) fn take(&mut self, index: usize) -> Option<Stage> {
        self.0.get_mut(index)?.take()
    }
}

/// A stage while its steps run, and after.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Its name, as it is shown.
    pub name: String,
    /// What gave the rootfs its last layer, in words.
    pub below: String,
    /// Config, layers and history so far.
    pub image: Image,
    /// How many history entries are those of the base image.
    pub inherited: usize,
    /// The images that layers may have to be fetched from.
    pub bases: Vec<Arc<BaseImage>>,
    /// Whether every layer above the base was made by an earlier build.
    pub is_cached: bool,
    /// The rootfs as a value, when a step looked at it since the last that ran a process.
    pub draft: Option<Draft>,
}

impl Stage {
    /// A stage above an image.
    pub(crate) fn new(image: Image, bases: Vec<Arc<BaseImage>>) -> Self {
        Self {
            name: String::new(),
            below: String::new(),
            inherited: image.config.history.len(),
            image,
            bases,
            is_cached: true,
            draft: None,
        }
    }

    /// A stage above another stage.
    pub(crate) fn above(other: &Self) -> Self {
        Self {
            name: String::new(),
            below: format!("stage {}", other.name),
            image: other.image.clone(),
            inherited: other.inherited,
            bases: other.bases.clone(),
            is_cached: other.is_cached,
            draft: None,
        }
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

    /// Gives the history its times and says when the image was made, once all steps are done.
    pub(crate) fn finish_times(&mut self, epoch: Option<&str>) {
        let config = &mut self.image.config;
        config.created = fill_times(&mut config.history, self.inherited, epoch);
    }
}
