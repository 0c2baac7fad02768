//! `COPY` and `ADD`.

use rbuild_dockerfile::{Add, Copy, InlineFile};
use rbuild_image::Digest;

use super::chmod::is_mode;
use super::graph::Origin;
use super::lower::Shared;
use super::path;
use super::remote::classify;
use super::stage::{Adds, Lowered, StageState, Words};
use super::step::{CopyKind, CopySource, CopyStep, Source, StepKind};
use super::warning::{Checked, refuse};
use crate::context::{GitRef, WrittenIn};

/// What both instructions have.
struct Written<'a> {
    sources: &'a [String],
    files: &'a [InlineFile],
    destination: &'a str,
    chown: Option<&'a String>,
    chmod: Option<&'a String>,
}

impl StageState {
    pub(super) fn copy(
        &self,
        copy: &Copy,
        from: Option<&Option<Origin>>,
        shared: &Shared<'_>,
        words: &mut Words,
    ) -> Checked<Lowered> {
        let from = match from {
            Some(Some(origin)) => shared.source(origin)?,
            _ => Source::Context,
        };
        let written = Written {
            sources: &copy.sources,
            files: &copy.files,
            destination: &copy.destination,
            chown: copy.chown.as_ref(),
            chmod: copy.chmod.as_ref(),
        };
        let flags = if copy.parents { " --parents" } else { "" };
        let (mut step, created_by) = self.files(&written, &format!("COPY{flags}"), words)?;
        for source in &step.sources {
            match source {
                CopySource::Git(_) => return Err(refuse("source can't be a git ref for COPY")),
                CopySource::Url(_) => return Err(refuse("source can't be a URL for COPY")),
                CopySource::Pattern(_) | CopySource::Heredoc { .. } => {}
            }
        }
        step.from = from;
        step.link = copy.link;
        step.parents = copy.parents;
        step.exclude.clone_from(&copy.exclude);
        Ok(layer(step, created_by))
    }

    pub(super) fn add(&self, add: &Add, words: &mut Words) -> Checked<Lowered> {
        let checksum = words.option(add.checksum.as_ref(), &self.env)?;
        let written = Written {
            sources: &add.sources,
            files: &add.files,
            destination: &add.destination,
            chown: add.chown.as_ref(),
            chmod: add.chmod.as_ref(),
        };
        let (mut step, created_by) = self.files(&written, "ADD", words)?;
        if checksum.is_some() {
            let remote: Vec<_> = step
                .sources
                .iter()
                .filter(|source| !matches!(source, CopySource::Heredoc { .. }))
                .map(|source| matches!(source, CopySource::Url(_) | CopySource::Git(_)))
                .collect();
            match remote.as_slice() {
                [true] => {}
                [false] => return Err(refuse("checksum requires HTTP(S) or Git sources")),
                _ => return Err(refuse("checksum can't be specified for multiple sources")),
            }
        }
        for source in &step.sources {
            check_remote(source, checksum.as_deref(), add.keep_git_dir)?;
        }
        step.link = add.link;
        step.exclude.clone_from(&add.exclude);
        step.kind = CopyKind::Add { checksum, unpack: add.unpack, keep_git_dir: add.keep_git_dir };
        Ok(layer(step, created_by))
    }

    /// Expands what both instructions have; gives the step and its history text.
    fn files(&self, written: &Written<'_>, keyword: &str, words: &mut Words) -> Checked<(CopyStep, String)> {
        let chown = words.option(written.chown, &self.env)?;
        let chmod = words.option(written.chmod, &self.env)?;
        if let Some(mode) = chmod.as_ref().filter(|mode| !is_mode(mode)) {
            let error = refuse(format!("invalid chmod parameter: {mode:?}"));
            return Err(error.with_hint("octal up to 07777, or symbolic as in chmod(1)").into());
        }
        let paths = words.each(written.sources, &self.env)?;
        let destination = words.word(written.destination, &self.env)?;
        let mut created_by = keyword.to_owned();
        for (flag, value) in [(" --chown=", &chown), (" --chmod=", &chmod)] {
            if let Some(value) = value {
                created_by.extend([flag, value]);
            }
        }
        for path in &paths {
            created_by.extend([" ", path]);
        }
        let sources = paths.iter().map(|path| classify(path).map_err(|error| refuse(error.to_string())));
        let mut sources = sources.collect::<Result<Vec<_>, _>>()?;
        for file in written.files {
            created_by.extend([" <<", &file.name]);
            let content =
                if file.expand { words.body(&file.content, &self.env)? } else { file.content.clone() };
            sources.push(CopySource::Heredoc { name: file.name.clone(), content });
        }
        created_by.extend([" ", &destination]);
        let step = CopyStep {
            from: Source::Context,
            sources,
            destination: path::destination(&self.directory, &destination),
            chown,
            chmod,
            link: false,
            parents: false,
            exclude: Vec::new(),
            kind: CopyKind::Copy,
        };
        Ok((step, created_by))
    }
}

/// Refuses flags that no content could satisfy, before anything is fetched.
fn check_remote(source: &CopySource, checksum: Option<&str>, keep_git_dir: Option<bool>) -> Checked<()> {
    match source {
        CopySource::Url(_) => {
            let digest = checksum.map(str::parse::<Digest>).transpose();
            digest.map_err(|error| refuse(format!("invalid checksum: {error}")))?;
        }
        CopySource::Git(written) => {
            let parsed = GitRef::parse(written, WrittenIn::Dockerfile);
            let Some(repository) = parsed.map_err(|error| refuse(error.to_string()))? else { return Ok(()) };
            match (checksum, &repository.checksum) {
                (Some(flag), Some(query)) if flag != query => {
                    return Err(refuse(format!("checksum conflicts: {flag:?} vs {query:?}")));
                }
                _ => {}
            }
            if keep_git_dir.zip(repository.keep_git_dir).is_some_and(|(flag, query)| flag != query) {
                return Err(refuse("--keep-git-dir conflicts with keep-git-dir of the URL"));
            }
        }
        CopySource::Pattern(_) | CopySource::Heredoc { .. } => {}
    }
    Ok(())
}

fn layer(step: CopyStep, created_by: String) -> Lowered {
    Lowered {
        created_by: Some(format!("{created_by} # buildkit")),
        adds: Adds::Layer,
        kind: StepKind::Copy(step),
    }
}
