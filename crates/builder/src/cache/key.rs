//! Keys under which results of steps are remembered.
//!
//! A key is the SHA-256 of a sequence of bytes that no two different steps share. Every part says its own length, so
//! that no two lists of parts run together:
//!
//! | part | bytes |
//! | --- | --- |
//! | number | 8 bytes, little endian |
//! | flag | 1 byte, 0 or 1 |
//! | bytes, text | number of bytes as a number, then the bytes (UTF-8) |
//! | digest | the text form, `sha256:<hex>`, as text |
//! | option | flag whether it is there, then the value |
//! | list | number of items as a number, then the items |
//! | choice | its ordinal as 1 byte, then its fields |
//!
//! A step's key is, in this order:
//!
//! 1. text `rbuild step key`, number [`VERSION`];
//! 2. the parent: option of a digest, absent for the first step above nothing;
//! 3. the platform of a step that runs a process, as an option: texts os, architecture; options of text variant, os
//!    version; list of texts os features. What only writes files is the same for all platforms;
//! 4. the step: choice run (0), copy (1), workdir (2), configure (3), with the fields in the order of [`RunStep`],
//!    [`CopyStep`] and [`WorkdirStep`], choices in the order of their declaration, except for what the next paragraph
//!    names;
//! 5. the inputs: list of digests.
//!
//! Not part of a key: where the step stands, how it is shown, its history text; variables named in
//! [`RunStep::uncached_env`] (proxies); and from where a tree is taken, because the input digests say what it holds
//! (only whether it is the empty tree, as a flag). Secrets count by name and place, never by value.

use rbuild_image::{Digest, Digester, Platform};
use rbuild_sandbox::Rlimit;

use crate::plan::{
    Access, BindMount, CacheMount, CopyKind, CopySource, CopyStep, Network, RunStep, ScriptFile, SecretMount,
    Security, Sharing, Source, SshMount, Step, StepKind, StepMount, Surroundings, WorkdirStep,
};

/// The version of the layout, changed whenever the same step must not hit results recorded before.
pub const VERSION: u64 = 3;

/// Hashes parts of a key, each framed so that the sequence can be read in one way only.
#[derive(Debug)]
pub struct KeyHasher(Digester);

impl KeyHasher {
    /// Starts a key of its own kind; kinds never collide.
    pub fn new(kind: &str) -> Self {
        let mut hasher = Self(Digester::new());
        hasher.text(kind).number(VERSION);
        hasher
    }

    /// Makes the digest of a few parts that name something.
    pub(crate) fn name(kind: &str, add: impl FnOnce(&mut Self)) -> Digest {
        let mut hasher = Self::new(kind);
        add(&mut hasher);
        hasher.finish()
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
        self
    }

    /// Adds text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Adds a number.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    /// Adds a flag.
    pub fn flag(&mut self, flag: bool) -> &mut Self {
        self.choice(u8::from(flag))
    }

    /// Adds the ordinal of a choice.
    pub fn choice(&mut self, ordinal: u8) -> &mut Self {
        self.0.update(&[ordinal]);
        self
    }

    /// Adds a digest.
    pub fn digest(&mut self, digest: &Digest) -> &mut Self {
        self.text(&digest.to_string())
    }

    /// Adds a value that may be missing.
    pub fn option<T>(&mut self, value: Option<T>, add: impl FnOnce(&mut Self, T)) -> &mut Self {
        self.flag(value.is_some());
        if let Some(value) = value {
            add(self, value);
        }
        self
    }

    /// Adds items in order.
    pub fn list<T>(&mut self, items: &[T], mut add: impl FnMut(&mut Self, &T)) -> &mut Self {
        self.number(items.len() as u64);
        for item in items {
            add(self, item);
        }
        self
    }

    /// Adds texts in order.
    pub fn texts(&mut self, items: &[String]) -> &mut Self {
        self.list(items, |hasher, item| {
            hasher.text(item);
        })
    }

    /// Ends the key.
    pub fn finish(self) -> Digest {
        self.0.finish()
    }

    fn optional_text(&mut self, text: Option<&String>) -> &mut Self {
        self.option(text, |hasher, text| {
            hasher.text(text);
        })
    }

    fn optional_number(&mut self, number: Option<u64>) -> &mut Self {
        self.option(number, |hasher, number| {
            hasher.number(number);
        })
    }

    fn optional_flag(&mut self, flag: Option<bool>) -> &mut Self {
        self.option(flag, |hasher, flag| {
            hasher.flag(flag);
        })
    }
}

/// Computes the key of a step: what it does, on what, reading what, and for which platform if that matters.
///
/// `parent` is the key of the step before, or the digest that names the base (`None` above `scratch`). `inputs` are
/// the digests of the trees the step reads, in the order the step names them; which digests those are (of content or
/// of how the content was made) is the caller's choice and must be the same for equal content.
pub fn step_key(parent: Option<&Digest>, step: &Step, platform: &Platform, inputs: &[Digest]) -> Digest {
    let mut hasher = KeyHasher::new("rbuild step key");
    hasher.option(parent, |hasher, parent| {
        hasher.digest(parent);
    });
    let run_on = matches!(step.kind, StepKind::Run(_)).then_some(platform);
    hasher.option(run_on, |hasher, platform| {
        hasher
            .text(&platform.os)
            .text(&platform.architecture)
            .optional_text(platform.variant.as_ref())
            .optional_text(platform.os_version.as_ref())
            .texts(&platform.os_features);
    });
    match &step.kind {
        StepKind::Run(run) => add_run(hasher.choice(0), run),
        StepKind::Copy(copy) => add_copy(hasher.choice(1), copy),
        StepKind::Workdir(WorkdirStep { path, user }) => {
            hasher.choice(2).text(path).text(user);
        }
        StepKind::Configure => {
            hasher.choice(3);
        }
    }
    hasher.list(inputs, |hasher, input| {
        hasher.digest(input);
    });
    hasher.finish()
}

fn add_run(hasher: &mut KeyHasher, step: &RunStep) {
    let RunStep {
        argv,
        env,
        uncached_env,
        cwd,
        user,
        network,
        security,
        mounts,
        devices,
        files,
        hostname,
        surroundings: Surroundings { extra_hosts, rlimits, shm_size },
    } = step;
    let env: Vec<_> = env.iter().filter(|(name, _)| !uncached_env.contains(name)).collect();
    hasher
        .texts(argv)
        .list(&env, |hasher, (name, value)| {
            hasher.text(name).text(value);
        })
        .text(cwd)
        .text(user)
        .choice(match network {
            Network::Default => 0,
            Network::None => 1,
            Network::Host => 2,
        })
        .choice(match security {
            Security::Sandbox => 0,
            Security::Insecure => 1,
        })
        .list(mounts, add_mount)
        .texts(devices)
        .list(files, |hasher, ScriptFile { name, content, mode }| {
            hasher.text(name).text(content).number(u64::from(*mode));
        })
        .text(hostname)
        .list(extra_hosts, |hasher, (name, address)| {
            hasher.text(name).text(&address.to_string());
        })
        .list(rlimits, |hasher, Rlimit { resource, soft, hard }| {
            hasher.text(resource.name()).optional_number(*soft).optional_number(*hard);
        })
        .optional_number(*shm_size);
}

fn add_mount(hasher: &mut KeyHasher, mount: &StepMount) {
    match mount {
        StepMount::Bind(BindMount { target, from, source, access }) => {
            add_source(hasher.choice(0).text(target), from);
            hasher.text(source).choice(access_ordinal(*access));
        }
        StepMount::Cache(mount) => add_cache_mount(hasher.choice(1), mount),
        StepMount::Tmpfs { target, size } => {
            hasher.choice(2).text(target).optional_number(*size);
        }
        StepMount::Secret(SecretMount { id, target, env, required, mode, uid, gid }) => {
            hasher
                .choice(3)
                .text(id)
                .optional_text(target.as_ref())
                .optional_text(env.as_ref())
                .flag(*required);
            add_attributes(hasher, [*mode, *uid, *gid]);
        }
        StepMount::Ssh(SshMount { id, target, required, mode, uid, gid }) => {
            hasher.choice(4).text(id).text(target).flag(*required);
            add_attributes(hasher, [*mode, *uid, *gid]);
        }
    }
}

fn add_cache_mount(hasher: &mut KeyHasher, mount: &CacheMount) {
    let CacheMount { target, id, sharing, from, source, access, mode, uid, gid } = mount;
    hasher.text(target).text(id).choice(match sharing {
        Sharing::Shared => 0,
        Sharing::Private => 1,
        Sharing::Locked => 2,
    });
    hasher.option(from.as_ref(), add_source).text(source).choice(access_ordinal(*access));
    add_attributes(hasher, [*mode, *uid, *gid]);
}

fn add_attributes(hasher: &mut KeyHasher, attributes: [u32; 3]) {
    for attribute in attributes {
        hasher.number(u64::from(attribute));
    }
}

fn access_ordinal(access: Access) -> u8 {
    match access {
        Access::ReadOnly => 0,
        Access::ReadWrite => 1,
    }
}

fn add_source(hasher: &mut KeyHasher, source: &Source) {
    hasher.flag(matches!(source, Source::Scratch));
}

fn add_copy(hasher: &mut KeyHasher, step: &CopyStep) {
    let CopyStep { from, sources, destination, chown, chmod, link, parents, exclude, kind } = step;
    add_source(hasher, from);
    hasher
        .list(sources, |hasher, source| match source {
            CopySource::Pattern(pattern) => {
                hasher.choice(0).text(pattern);
            }
            CopySource::Heredoc { name, content } => {
                hasher.choice(1).text(name).text(content);
            }
            CopySource::Url(url) => {
                hasher.choice(2).text(url);
            }
            CopySource::Git(repository) => {
                hasher.choice(3).text(repository);
            }
        })
        .text(destination)
        .optional_text(chown.as_ref())
        .optional_text(chmod.as_ref())
        .flag(*link)
        .flag(*parents)
        .texts(exclude);
    match kind {
        CopyKind::Copy => {
            hasher.choice(0);
        }
        CopyKind::Add { checksum, unpack, keep_git_dir } => {
            hasher
                .choice(1)
                .optional_text(checksum.as_ref())
                .optional_flag(*unpack)
                .optional_flag(*keep_git_dir);
        }
    }
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
