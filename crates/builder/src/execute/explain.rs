//! Why a step was not in the cache: what it is made of, beside what earlier builds of the same image were made of.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use rbuild_image::{Digest, Reference};

use super::error::StepError;
use super::pattern::has_wildcard;
use super::tree::{Tree, clean};
use super::{Executor, Stage, Task, missing_stage, mounts, sources};
use crate::cache::inputs::{Difference, StepInputs, TreeRead, parts};
use crate::cache::key::KeyHasher;
use crate::cache::listing::FileChange;
use crate::cache::local::LocalCache;
use crate::event::Reason;
use crate::images::Origin;
use crate::options::{BuildOptions, CacheUse, DockerfileSource};
use crate::plan::{CopySource, Source, StepKind, StepMount};

/// Records that are kept of one image.
const MAX_RECORDS: usize = 1000;

/// Records that are kept of one step.
const MAX_OF_STEP: usize = 4;

/// Reasons that are given for one step.
const MAX_REASONS: usize = 12;

/// What the steps of earlier builds of an image, and of this one, were made of.
#[derive(Debug)]
pub(super) struct Records {
    /// Names the image.
    name: String,
    earlier: OnceLock<Vec<StepInputs>>,
    now: Mutex<Vec<StepInputs>>,
}

impl Records {
    pub(super) fn new(options: &BuildOptions) -> Self {
        Self { name: image_name(options).hex(), earlier: OnceLock::new(), now: Mutex::default() }
    }

    fn earlier(&self, cache: &LocalCache) -> &[StepInputs] {
        self.earlier.get_or_init(|| cache.records(&self.name))
    }

    fn add(&self, inputs: StepInputs) {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).push(inputs);
    }

    /// Writes what later builds compare with: this build's records first.
    pub(super) fn keep(&self, cache: &LocalCache) {
        let mut kept = std::mem::take(&mut *self.now.lock().unwrap_or_else(PoisonError::into_inner));
        let earlier = self.earlier(cache);
        kept.retain(|record| !record.keys.is_empty());
        kept.sort_by(|one, other| (&one.stage, one.number).cmp(&(&other.stage, other.number)));
        if earlier.starts_with(&kept) {
            return;
        }
        for record in earlier {
            let same_step =
                |other: &&StepInputs| (&other.stage, other.number) == (&record.stage, record.number);
            let is_known = kept.iter().any(|other| other.keys.iter().any(|key| record.keys.contains(key)));
            if kept.len() < MAX_RECORDS && !is_known && kept.iter().filter(same_step).count() < MAX_OF_STEP {
                kept.push(record.clone());
            }
        }
        kept.truncate(MAX_RECORDS);
        cache.keep_records(&self.name, &kept);
    }
}

/// Builds of the same image are compared: of the same repositories, or where there are no tags of the same context; of the same Dockerfile.
fn image_name(options: &BuildOptions) -> Digest {
    let repository = |tag: &String| match tag.parse::<Reference>() {
        Ok(name) => format!("{}/{}", name.registry(), name.repository()),
        Err(_) => tag.clone(),
    };
    let mut names: Vec<String> = options.tags.iter().map(repository).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        let place = options.context.directory().and_then(|path| std::path::absolute(path).ok());
        names.push(
            place.map_or_else(|| options.context.source.to_string(), |path| path.display().to_string()),
        );
    }
    let dockerfile = match &options.dockerfile {
        DockerfileSource::Default => "Dockerfile".to_owned(),
        DockerfileSource::Path(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        DockerfileSource::Text { name, .. } => name.clone(),
    };
    KeyHasher::name("rbuild image", |hasher| {
        hasher.texts(&names).text(&dockerfile);
    })
}

impl Executor {
    /// Says what a step is made of; `contents` are the digests of what it reads, as far as that was looked at.
    pub(super) fn inputs(
        &self,
        task: Task<'_>,
        stage: &Stage,
        keys: &[Digest],
        contents: &[Digest],
    ) -> Result<StepInputs, StepError> {
        let environment = &task.stage.config.config.env;
        let is_set = |name: &str| environment.iter().any(|entry| entry.split('=').next() == Some(name));
        let mut reads = Vec::new();
        for (at, source) in sources(task.step).into_iter().enumerate() {
            let (name, tree) = match source {
                Source::Scratch => ("scratch".to_owned(), None),
                Source::Context => ("the context".to_owned(), None),
                Source::Stage(index) => {
                    let stage = task.done.get(*index).ok_or_else(|| missing_stage(*index))?;
                    (format!("stage {}", stage.name), stage.chain_id())
                }
                Source::Image(request) => {
                    let base = self.image(request)?;
                    match base.origin {
                        Origin::Directory(_) => (format!("context {}", request.name), None),
                        _ => (format!("image {}", request.name), self.chain_of(request)?),
                    }
                }
            };
            reads.push(TreeRead { name, tree, content: contents.get(at).copied() });
        }
        let stands_alone = super::keys::is_independent(task.step);
        Ok(StepInputs {
            stage: task.stage.name.clone(),
            number: task.number,
            below: stage.chain_id().filter(|_| !stands_alone),
            below_name: stage.below.clone(),
            parts: parts(task.step, &stage.image.config.platform(), |name| !is_set(name)),
            reads,
            keys: keys.to_vec(),
        })
    }

    /// Remembers what a step was made of.
    pub(super) fn note(&self, inputs: StepInputs) {
        self.records.add(inputs);
    }

    /// Remembers a step that hit: what is known of it is more than what had to be looked at now.
    pub(super) fn note_hit(
        &self,
        task: Task<'_>,
        stage: &Stage,
        keys: &[Digest],
        contents: &[Digest],
    ) -> Result<(), StepError> {
        let earlier = self.records.earlier(&self.cache);
        let known = earlier.iter().find(|record| record.keys.iter().any(|key| keys.contains(key)));
        let inputs = match known {
            Some(known) => {
                StepInputs { stage: task.stage.name.clone(), number: task.number, ..known.clone() }
            }
            None => self.inputs(task, stage, keys, contents)?,
        };
        self.note(inputs);
        Ok(())
    }

    /// Keeps what was found out for later builds.
    pub(crate) fn keep_records(&self) {
        self.records.keep(&self.cache);
        if let Some(context) = &self.settings.context {
            context.keep_digests();
        }
    }

    /// Says why a step missed.
    pub(crate) fn reasons(&self, task: Task<'_>, missed: &StepInputs) -> Result<Vec<Reason>, StepError> {
        if task.cache == CacheUse::Ignore {
            let options = &self.settings.options;
            let flag = if options.cache == CacheUse::Ignore { "--no-cache" } else { "--no-cache-filter" };
            return Ok(vec![Reason::new(flag, "was given")]);
        }
        let Some(nearest) = missed.nearest(self.records.earlier(&self.cache)) else {
            return Ok(vec![Reason::new("the step", "was not built here before")]);
        };
        let mut reasons = Vec::new();
        for difference in missed.differences(nearest) {
            let tree = |at: &usize| missed.reads.get(*at).map_or("a tree", |read| &read.name);
            match &difference {
                Difference::Changed { part, from: Some(from), to: Some(to) } => {
                    reasons.push(Reason::new(part, format!("is {to}, was {from}")));
                }
                Difference::Changed { part, .. } => reasons.push(Reason::new(part, "changed")),
                Difference::Added(part) => reasons.push(Reason::new(part, "is new")),
                Difference::Removed(part) => reasons.push(Reason::new(part, "is gone")),
                Difference::Below => reasons.push(Reason::new(&missed.below_name, "changed")),
                Difference::Tree(at) => reasons.push(Reason::new(tree(at), "changed")),
                Difference::Content(at) => match self.changed_files(*at, missed, nearest) {
                    Some(files) => {
                        for FileChange { path, change } in files {
                            let file = self.source_path(task, *at, &path)?;
                            let of = match tree(at) {
                                "the context" => String::new(),
                                name => format!(" of {name}"),
                            };
                            reasons.push(Reason::new(format!("file {}{of}", file.display()), change));
                        }
                    }
                    None => reasons.push(Reason::new(format!("files of {}", tree(at)), "changed")),
                },
            }
        }
        if reasons.is_empty() {
            let change = "does not have its layer, or one that was made for another compression";
            reasons.push(Reason::new("the store", change));
        }
        if reasons.len() > MAX_REASONS {
            let more = reasons.split_off(MAX_REASONS).len();
            reasons.push(Reason::new(format!("{more} more"), "changed"));
        }
        Ok(reasons)
    }

    fn changed_files(&self, at: usize, new: &StepInputs, old: &StepInputs) -> Option<Vec<FileChange>> {
        let list = |inputs: &StepInputs| self.cache.list(&inputs.reads.get(at)?.content?);
        Some(list(new)?.changes_since(&list(old)?)).filter(|files| !files.is_empty())
    }

    /// The path in the tree that is read for one in what was collected of it, where the first name stands for the source.
    fn source_path(&self, task: Task<'_>, at: usize, collected: &Path) -> Result<PathBuf, StepError> {
        let mut names = collected.components();
        let first = names.next().and_then(|name| name.as_os_str().to_str()).unwrap_or_default();
        let rest = names.as_path();
        let start = match &task.step.kind {
            StepKind::Copy(step) if !step.parents => {
                let source = first.parse::<usize>().ok().and_then(|index| step.sources.get(index));
                let Some(CopySource::Pattern(pattern)) = source else { return Ok(rest.to_owned()) };
                self.start_of(pattern, &self.tree(&step.from, task.done)?)?
            }
            StepKind::Run(step) => {
                let source = |mount: &StepMount| mounts::reads(mount).map(|(_, path)| path.to_owned());
                let source = step.mounts.iter().filter_map(source).nth(at).unwrap_or_default();
                clean(Path::new(&source)).iter().collect()
            }
            _ => PathBuf::new(),
        };
        Ok(if rest.as_os_str().is_empty() { start } else { start.join(rest) })
    }

    /// The directory that what a pattern matches is named from.
    fn start_of(&self, pattern: &str, tree: &Tree) -> Result<PathBuf, StepError> {
        use std::os::unix::ffi::OsStrExt as _;
        let names = clean(Path::new(pattern));
        let literal = names.iter().take_while(|name| !has_wildcard(name.as_bytes()));
        let path: PathBuf = literal.collect();
        let is_dir = tree.metadata(&path)?.is_some_and(|meta| meta.is_dir());
        Ok(if is_dir { path } else { path.parent().unwrap_or(Path::new("")).to_owned() })
    }
}
