//! The variables of a stage, as far as the text alone tells them.

use std::collections::BTreeMap;

use crate::expand::Expander;
use crate::instruction::{Arg, Instruction, Pair};
use crate::parse::{Dockerfile, Stage};

/// What is known while the instructions of a stage are walked.
///
/// What the base image sets and what the build is given stays unknown, and counts as unset.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    env: BTreeMap<String, String>,
    args: BTreeMap<String, String>,
    /// Whether SHELL was used.
    pub(super) shell: bool,
    /// Whether WORKDIR was used.
    pub(super) workdir: bool,
}

impl Scope {
    /// Makes the scope of the arguments before the first FROM.
    pub(super) fn global(dockerfile: &Dockerfile) -> Self {
        let mut scope = Self::default();
        for arg in &dockerfile.args {
            scope.declare(&arg.value, dockerfile.directives.escape, None);
        }
        scope
    }

    /// Makes the scope that a stage begins with: what the stage it builds on ends with.
    pub(super) fn of_stage(
        stage: &Stage,
        ended: &BTreeMap<String, Self>,
        global: &Self,
        escape: char,
    ) -> Self {
        let base = global.expand(&stage.base.value, escape);
        base.and_then(|base| ended.get(&base)).cloned().unwrap_or_default()
    }

    /// Expands a word; `None` if it cannot be.
    pub(super) fn expand(&self, word: &str, escape: char) -> Option<String> {
        Some(Expander::new(escape).word(word, &|name| self.value(name)).ok()?.text)
    }

    /// Expands to several words; `None` if they cannot be.
    pub(super) fn expand_words(&self, word: &str, escape: char) -> Option<Vec<String>> {
        Expander::new(escape).words(word, &|name| self.value(name)).ok()
    }

    /// Takes over what an instruction sets.
    pub(super) fn apply(&mut self, instruction: &Instruction, global: &Self, escape: char) {
        match instruction {
            Instruction::Arg(args) => args.iter().for_each(|arg| self.declare(arg, escape, Some(global))),
            Instruction::Env(pairs) => {
                let expanded: Vec<_> = pairs
                    .iter()
                    .filter_map(|Pair { key, value, .. }| {
                        Some((self.expand(key, escape)?, self.expand(value, escape)?))
                    })
                    .collect();
                self.env.extend(expanded);
            }
            Instruction::Shell(_) => self.shell = true,
            _ => {}
        }
    }

    fn declare(&mut self, arg: &Arg, escape: char, global: Option<&Self>) {
        let value = match &arg.value {
            Some(value) => self.expand(value, escape),
            None => global.and_then(|global| global.args.get(&arg.name).cloned()),
        };
        if let Some(value) = value {
            self.args.insert(arg.name.clone(), value);
        }
    }

    /// ENV wins over ARG, whichever comes first.
    fn value(&self, name: &str) -> Option<String> {
        self.env.get(name).or_else(|| self.args.get(name)).cloned()
    }
}
