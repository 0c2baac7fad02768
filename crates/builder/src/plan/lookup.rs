//! What the names in `FROM`, `--from` and `from=` mean.

use std::collections::BTreeMap;

use rbuild_dockerfile::{Expander, Instruction, Spanned};
use rbuild_image::{Platform, Reference, ReferenceError};

use super::contexts::NamedContexts;
use super::graph::Origin;
use super::run::mount_from;
use super::step::ImageRequest;

/// Finds stages and images by name.
#[derive(Debug, Clone)]
pub(super) struct Lookup {
    /// Positions by name in lower case; of equal names the last.
    pub(super) by_name: BTreeMap<String, usize>,
    pub(super) count: usize,
    pub(super) platform: Platform,
    pub(super) contexts: NamedContexts,
}

impl Lookup {
    pub(super) fn image(&self, name: &str, platform: &Platform) -> Result<Origin, String> {
        let reference: Reference = name.parse().map_err(|error: ReferenceError| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            format!("{error}{}", cause.unwrap_or_default())
        })?;
        Ok(Origin::Image(ImageRequest {
            name: name.to_owned(),
            platform: platform.clone(),
            context: self.contexts.find(&reference, platform),
        }))
    }

    /// Finds what `--from` names: a stage by name in any case, a stage by number, or an image.
    fn copy_source(&self, name: &str) -> Result<Origin, String> {
        if let Ok(index) = name.parse::<i64>() {
            return usize::try_from(index)
                .ok()
                .filter(|&index| index < self.count)
                .map(Origin::Stage)
                .ok_or_else(|| format!("invalid stage index {name}"));
        }
        self.mount_source(name)
    }

    /// Finds what `from=` of a mount names: as [`Lookup::copy_source`], but numbers are images.
    fn mount_source(&self, name: &str) -> Result<Origin, String> {
        match self.by_name.get(&name.to_lowercase()) {
            Some(&index) => Ok(Origin::Stage(index)),
            None if name == "scratch" => Ok(Origin::Scratch),
            None => self.image(name, &self.platform),
        }
    }

    pub(super) fn sources(&self, instruction: &Instruction) -> Result<Vec<Option<Origin>>, String> {
        match instruction {
            Instruction::Copy(copy) => {
                let from = copy.from.as_ref().filter(|from| !from.value.is_empty());
                Ok(vec![from.map(|from| self.copy_flag(&from.value)).transpose()?])
            }
            Instruction::Run(run) => {
                let from = |mount: &Spanned<String>| {
                    mount_from(&mount.value).map(|from| self.mount_source(&from)).transpose()
                };
                run.mounts.iter().map(from).collect()
            }
            _ => Ok(Vec::new()),
        }
    }

    fn copy_flag(&self, from: &str) -> Result<Origin, String> {
        let expanded = Expander::new('\\').word(from, &|_| None).map_err(|error| error.to_string())?;
        if expanded.text != from {
            return Err("variable expansion is not supported for --from, define a new stage with FROM using ARG from \
                        global scope as a workaround"
                .to_owned());
        }
        self.copy_source(from)
    }
}
