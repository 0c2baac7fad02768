//! What steps were made of, in words, so that a step that is not in the cache can be compared with earlier ones.
//!
//! A record holds no value that may be a secret: of variables, commands and files there is a fingerprint of 8 bytes. A record is never
//! asked whether a step hits, so that one that is wrong or lost costs nothing but an explanation.

use std::collections::BTreeMap;

use rbuild_image::{Digest, Platform};
use serde::{Deserialize, Serialize};

use super::key::KeyHasher;
use crate::plan::{
    BindMount, CacheMount, CopyKind, CopySource, CopyStep, RunStep, Source, Step, StepKind, StepMount,
    WorkdirStep,
};

/// What one step of one build was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepInputs {
    /// The stage, and the 1-based number of the step in it.
    pub stage: String,
    pub number: usize,
    /// What the step stands on: the chain ID, and what gave it, in words.
    pub below: Option<Digest>,
    pub below_name: String,
    /// Everything else but what is read, by name.
    pub parts: BTreeMap<String, String>,
    /// What is read, in the order of the step.
    pub reads: Vec<TreeRead>,
    /// The keys under which the result was recorded.
    pub keys: Vec<Digest>,
}

/// A tree that a step read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TreeRead {
    /// In words: `context`, `stage build`, `image debian:12`.
    pub name: String,
    /// Names the whole tree, where something does.
    pub tree: Option<Digest>,
    /// The digest of what was read of it, where that was looked at.
    pub content: Option<Digest>,
}

/// How two steps differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Difference {
    /// A part that both have, with the values that may be shown.
    Changed { part: String, from: Option<String>, to: Option<String> },
    /// A part that only the new one has.
    Added(String),
    /// A part that only the old one has.
    Removed(String),
    /// What was read, by its place among the trees; the content of both is known.
    Content(usize),
    /// A tree that was read; what of it is not known.
    Tree(usize),
    /// What the step stands on.
    Below,
}

/// Marks a value that is only good for being compared.
const FINGERPRINT: char = '#';

impl StepInputs {
    /// Compares with what an earlier step was made of.
    pub(crate) fn differences(&self, earlier: &Self) -> Vec<Difference> {
        let shown = |value: &str| (!value.starts_with(FINGERPRINT)).then(|| value.to_owned());
        let mut found = Vec::new();
        for (part, to) in &self.parts {
            match earlier.parts.get(part) {
                None => found.push(Difference::Added(part.clone())),
                Some(from) if from != to => {
                    let (from, to) = (shown(from), shown(to));
                    found.push(Difference::Changed { part: part.clone(), from, to });
                }
                Some(_) => {}
            }
        }
        let removed = earlier.parts.keys().filter(|part| !self.parts.contains_key(*part));
        found.extend(removed.cloned().map(Difference::Removed));
        for (at, read) in self.reads.iter().enumerate() {
            match earlier.reads.get(at).map(|old| (old.content, old.tree)) {
                Some((Some(old), _)) if read.content.is_some() => {
                    if read.content != Some(old) {
                        found.push(Difference::Content(at));
                    }
                }
                Some((_, tree)) if tree.is_some() && tree == read.tree => {}
                _ => found.push(Difference::Tree(at)),
            }
        }
        if self.below != earlier.below {
            found.push(Difference::Below);
        }
        found
    }

    /// Finds the record that differs least; of several that differ alike the one of the same place, then the newest.
    pub(crate) fn nearest<'a>(&self, records: &'a [Self]) -> Option<&'a Self> {
        let alike = records.iter().filter(|record| record.parts.get(KIND) == self.parts.get(KIND));
        alike.min_by_key(|record| {
            let elsewhere = (record.stage != self.stage, record.number.abs_diff(self.number));
            // a record of another stage is nearest only if nothing of this one is near
            (2 * self.differences(record).len() + usize::from(elsewhere.0), elsewhere.1)
        })
    }
}

/// The part that says which instruction it is.
const KIND: &str = "instruction";

/// The parts of a step. `declared` tells variables of `ARG` from those of `ENV`.
pub(crate) fn parts(
    step: &Step,
    platform: &Platform,
    declared: impl Fn(&str) -> bool,
) -> BTreeMap<String, String> {
    let mut parts = Parts::default();
    match &step.kind {
        StepKind::Run(run) => {
            parts.say("platform", &platform.to_string());
            parts.run(run, declared);
        }
        StepKind::Copy(copy) => parts.copy(copy),
        StepKind::Workdir(WorkdirStep { path, user }) => {
            parts.say(KIND, "WORKDIR").say("directory", path).say("user", user);
        }
        StepKind::Configure => {
            parts.say(KIND, "configuration");
        }
    }
    parts.0
}

#[derive(Debug, Default)]
struct Parts(BTreeMap<String, String>);

impl Parts {
    /// A part whose value may be shown.
    fn say(&mut self, name: &str, value: &str) -> &mut Self {
        self.0.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A part that is there only if it has a value.
    fn say_some(&mut self, name: &str, value: &str) -> &mut Self {
        if value.is_empty() { self } else { self.say(name, value) }
    }

    /// A part whose value is only compared.
    fn compare(&mut self, name: impl Into<String>, value: &[&str]) -> &mut Self {
        let digest = KeyHasher::name("rbuild part", |hasher| {
            for value in value {
                hasher.text(value);
            }
        });
        let short = digest.hex().chars().take(16).collect::<String>();
        self.0.insert(name.into(), format!("{FINGERPRINT}{short}"));
        self
    }

    fn run(&mut self, run: &RunStep, declared: impl Fn(&str) -> bool) {
        self.say(KIND, "RUN").compare("command", &run.argv.iter().map(String::as_str).collect::<Vec<_>>());
        for (name, value) in run.env.iter().filter(|(name, _)| !run.uncached_env.contains(name)) {
            let kind = if declared(name) { "ARG" } else { "ENV" };
            self.compare(format!("{kind} {name}"), &[value]);
        }
        self.say("working directory", &run.cwd).say_some("user", &run.user);
        self.say("--network", &format!("{:?}", run.network).to_lowercase());
        self.say("--security", &format!("{:?}", run.security).to_lowercase());
        self.say_some("--device", &run.devices.join(" ")).say("host name", &run.hostname);
        for file in &run.files {
            self.compare(format!("here-document {}", file.name), &[&file.content]);
        }
        for mount in &run.mounts {
            let (kind, target) = mount_name(mount);
            // everything but what is read, which is compared by content
            let mut mount = mount.clone();
            if let StepMount::Bind(BindMount { from, .. })
            | StepMount::Cache(CacheMount { from: Some(from), .. }) = &mut mount
            {
                *from = Source::Context;
            }
            self.compare(format!("--mount=type={kind} {target}"), &[&format!("{mount:?}")]);
        }
        for (name, address) in &run.surroundings.extra_hosts {
            self.say(&format!("--add-host {name}"), &address.to_string());
        }
        for limit in &run.surroundings.rlimits {
            self.say(
                &format!("--ulimit {}", limit.resource.name()),
                &format!("{:?}:{:?}", limit.soft, limit.hard),
            );
        }
        let size = run.surroundings.shm_size.map(|size| size.to_string());
        self.say_some("--shm-size", &size.unwrap_or_default());
    }

    fn copy(&mut self, copy: &CopyStep) {
        let mut sources = Vec::new();
        for source in &copy.sources {
            match source {
                CopySource::Pattern(text) => sources.push(text.as_str()),
                CopySource::Heredoc { name, content } => {
                    self.compare(format!("here-document {name}"), &[content]);
                }
                // an address may have a password in it
                CopySource::Url(text) | CopySource::Git(text) => {
                    self.compare("address", &[text]);
                }
            }
        }
        self.say("source", &sources.join(" ")).say("destination", &copy.destination);
        self.say_some("--chown", copy.chown.as_deref().unwrap_or_default());
        self.say_some("--chmod", copy.chmod.as_deref().unwrap_or_default());
        self.say_some("--exclude", &copy.exclude.join(" "));
        for (name, is_set) in [("--link", copy.link), ("--parents", copy.parents)] {
            self.say_some(name, if is_set { "true" } else { "" });
        }
        match &copy.kind {
            CopyKind::Copy => self.say(KIND, "COPY"),
            CopyKind::Add { checksum, unpack, keep_git_dir } => {
                let flag = |flag: &Option<bool>| flag.map(|flag| flag.to_string()).unwrap_or_default();
                self.say(KIND, "ADD").say_some("--checksum", checksum.as_deref().unwrap_or_default());
                self.say_some("--unpack", &flag(unpack)).say_some("--keep-git-dir", &flag(keep_git_dir))
            }
        };
    }
}

fn mount_name(mount: &StepMount) -> (&'static str, &str) {
    match mount {
        StepMount::Bind(mount) => ("bind", &mount.target),
        StepMount::Cache(mount) => ("cache", &mount.target),
        StepMount::Tmpfs { target, .. } => ("tmpfs", target),
        StepMount::Secret(mount) => ("secret", &mount.id),
        StepMount::Ssh(mount) => ("ssh", &mount.id),
    }
}
