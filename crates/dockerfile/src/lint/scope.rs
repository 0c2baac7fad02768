//! The variables of a stage, as far as the text alone tells them.

use std::collections::BTreeMap;

use crate::expand::Expander;
use crate::instruction::{Arg, Instruction, Pair};
use crate::parse::{Dockerfile, Stage};

/// Most bytes that the variables of one stage may take; what does not fit counts as unset.
const MAX_SCOPE: usize = 1 << 20;
/// Most bytes that all scopes taken over from other stages may take together.
const MAX_COPIED: usize = 16 << 20;
/// What an entry takes beside its text.
const ENTRY_SIZE: usize = 64;

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
    /// Bytes of all names and values.
    size: usize,
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
                for (key, value) in expanded {
                    Self::set(&mut self.env, &mut self.size, key, value);
                }
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
            Self::set(&mut self.args, &mut self.size, arg.name.clone(), value);
        }
    }

    fn set(variables: &mut BTreeMap<String, String>, size: &mut usize, key: String, value: String) {
        let more = ENTRY_SIZE + key.len() + value.len();
        if *size + more <= MAX_SCOPE {
            *size += more;
            variables.insert(key, value);
        }
    }

    /// ENV wins over ARG, whichever comes first.
    fn value(&self, name: &str) -> Option<String> {
        self.env.get(name).or_else(|| self.args.get(name)).cloned()
    }
}

/// The scopes at the ends of the stages, by name.
#[derive(Debug, Default)]
pub(super) struct Ended {
    scopes: BTreeMap<String, Scope>,
    copied: usize,
}

impl Ended {
    /// Makes the scope that a stage begins with: what the stage it builds on ends with.
    pub(super) fn start_of(&mut self, stage: &Stage, global: &Scope, escape: char) -> Scope {
        let base = global.expand(&stage.base.value, escape);
        let Some(scope) = base.and_then(|base| self.scopes.get(&base)) else { return Scope::default() };
        self.copied = self.copied.saturating_add(scope.size);
        if self.copied > MAX_COPIED { Scope::default() } else { scope.clone() }
    }

    /// Remembers how a stage ends.
    pub(super) fn add(&mut self, name: &str, scope: Scope) {
        self.scopes.insert(name.to_owned(), scope);
    }
}
