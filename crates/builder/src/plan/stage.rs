//! A stage while its instructions are folded.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_dockerfile::lint::{self, Rule};
use rbuild_dockerfile::{Diagnostic, ExpandError, Expander, Instruction, Node, Span};
use rbuild_image::{History, ImageConfig, Platform};

use super::bounds;
use super::graph::Linked;
use super::lint::Remark;
use super::lower::Shared;
use super::outline::{Offer, lines};
use super::path::absolute;
use super::remote;
use super::scope::{Environment, is_exported, split_entry};
use super::step::{Step, StepKind};
use super::warning::{self, Checked, refuse};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const COMMENT: &str = "buildkit.dockerfile.v0";

/// What an instruction finds when it is folded, and what it changes.
#[derive(Debug, Clone)]
pub(super) struct StageState {
    pub(super) config: ImageConfig,
    pub(super) platform: Platform,
    /// The config's variables and the arguments declared so far.
    pub(super) env: Environment,
    /// Declared arguments in order; those of the base stage come first. A name may repeat.
    pub(super) arguments: Vec<(String, Option<String>)>,
    /// The working directory, absolute.
    pub(super) directory: String,
    /// Whether `WORKDIR` was used, here or in a base stage.
    pub(super) workdir_used: bool,
    /// Where `CMD`, `ENTRYPOINT` and `HEALTHCHECK` were used last in this stage.
    pub(super) used: BTreeMap<&'static str, Span>,
    pub(super) steps: Vec<Step>,
    pub(super) warnings: Vec<Diagnostic>,
    pub(super) offer: Offer,
}

/// Whether a step adds a layer to the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Adds {
    Layer,
    Nothing,
}

/// What an instruction becomes.
#[derive(Debug)]
pub(super) struct Lowered {
    pub(super) created_by: Option<String>,
    pub(super) adds: Adds,
    pub(super) kind: StepKind,
}

impl Lowered {
    /// A step that changes the config only.
    pub(super) fn configure(created_by: String) -> Self {
        Self { created_by: Some(created_by), adds: Adds::Nothing, kind: StepKind::Configure }
    }
}

impl StageState {
    pub(super) fn on_scratch(platform: &Platform) -> Self {
        let mut config = ImageConfig::scratch(platform);
        "/".clone_into(&mut config.config.working_dir);
        Self::begin(config, platform)
    }

    pub(super) fn on_image(config: &ImageConfig, platform: &Platform) -> Self {
        let mut config = ImageConfig { created: None, ..config.clone() };
        config.config.on_build.clear();
        Self::begin(config, platform)
    }

    /// A stage that is nothing but a named context: its config stays as it is.
    pub(super) fn replaced(config: &ImageConfig, platform: &Platform) -> Self {
        let named = config.platform();
        let platform = if named.os.is_empty() || named.architecture.is_empty() { platform } else { &named };
        Self {
            config: ImageConfig { created: None, ..config.clone() },
            platform: platform.clone(),
            env: Environment::default(),
            arguments: Vec::new(),
            directory: "/".to_owned(),
            workdir_used: false,
            used: BTreeMap::new(),
            steps: Vec::new(),
            warnings: Vec::new(),
            offer: Offer::default(),
        }
    }

    /// A stage on top of another; triggers are not inherited twice.
    pub(super) fn on_stage(base: &Self) -> Self {
        let mut state =
            Self { used: BTreeMap::new(), steps: Vec::new(), warnings: Vec::new(), ..base.clone() };
        state.config.config.on_build.clear();
        state.enter();
        state
    }

    fn begin(config: ImageConfig, platform: &Platform) -> Self {
        let mut state = Self::replaced(&config, platform);
        state.platform = platform.clone();
        state.enter();
        state
    }

    /// Makes the config's variables and directory those of the stage, so that they win over inherited arguments.
    fn enter(&mut self) {
        let config = &mut self.config.config;
        if self.platform.os != "windows" && !config.env.iter().any(|entry| split_entry(entry).0 == "PATH") {
            config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        for entry in &config.env {
            let (name, value) = split_entry(entry);
            self.env.set(name, value);
        }
        if !config.working_dir.is_empty() {
            config.working_dir = absolute(&config.working_dir, &config.working_dir);
            self.directory.clone_from(&config.working_dir);
        }
    }

    /// Folds one instruction.
    pub(super) fn apply(&mut self, linked: &Linked, shared: &Shared<'_>) -> Checked<()> {
        let display = self.display(linked, shared);
        let mut words = Words::new(shared, linked);
        let lowered = self.lower(linked, shared, &mut words);
        shared.expandable.set(words.left);
        words.declare(&self.arguments);
        self.warn(words, shared, linked);
        let Lowered { created_by, adds, kind } = lowered?;
        if let StepKind::Run(step) = &kind {
            self.offer.mount(step, lines(shared.dockerfile, linked.instruction.span));
        }
        let history = created_by.map(|created_by| History {
            created_by: Some(created_by),
            comment: Some(COMMENT.to_owned()),
            empty_layer: adds == Adds::Nothing,
            ..History::default()
        });
        self.steps.push(Step { span: linked.instruction.span, display, history, kind });
        Ok(())
    }

    fn lower(&mut self, linked: &Linked, shared: &Shared<'_>, words: &mut Words) -> Checked<Lowered> {
        match &linked.instruction.value {
            Instruction::Run(run) => self.run(run, &linked.sources, shared, words),
            Instruction::Copy(copy) => self.copy(copy, linked.sources.first(), shared, words),
            Instruction::Add(add) => self.add(add, words),
            Instruction::Workdir(path) => self.workdir(path, words),
            Instruction::Arg(args) => self.arg(args, shared, linked.instruction.span, words),
            Instruction::Onbuild(onbuild) => {
                self.config.config.on_build.push(onbuild.text.clone());
                Ok(Lowered { created_by: None, adds: Adds::Nothing, kind: StepKind::Configure })
            }
            other => self.configure(other, linked.instruction.span, words),
        }
    }

    /// The shell of shell forms with a command line for it.
    pub(super) fn with_shell(&self, line: &str) -> Vec<String> {
        let fallback = || {
            let words: &[&str] =
                if self.config.os == "windows" { &["cmd", "/S", "/C"] } else { &["/bin/sh", "-c"] };
            words.iter().map(|&word| word.to_owned()).collect()
        };
        let shell = self.config.config.shell.clone().filter(|shell| !shell.is_empty());
        let mut argv: Vec<String> = shell.unwrap_or_else(fallback);
        argv.push(line.to_owned());
        argv
    }

    /// Turns what was noted into warnings. A trigger has no comments above it that could silence a rule.
    fn warn(&mut self, words: Words, shared: &Shared<'_>, linked: &Linked) {
        let (dockerfile, place) = (shared.dockerfile, linked.instruction.span);
        let node = if linked.trigger.is_some() { None } else { warning::node(dockerfile, place) };
        let mut warn = |rule: &Rule, span: Span, message: String| {
            if lint::allows(dockerfile, node, rule) {
                self.warnings.push(*warning::place(Diagnostic::warning(rule, message), dockerfile, span));
            }
        };
        for remark in words.remarks {
            warn(&remark.rule, remark.elsewhere.unwrap_or(place), remark.message);
        }
        for (name, hint) in words.undefined.into_iter().filter(|(name, _)| is_exported(name)) {
            let span = node.map_or(place, |_| warning::use_of(dockerfile, place, &name));
            let message = format!("Usage of undefined variable '${name}'{hint}");
            warn(&lint::UNDEFINED_VAR, span, message);
        }
    }

    /// The instruction as progress output shows it: on one line, with the variables that have a value.
    fn display(&self, linked: &Linked, shared: &Shared<'_>) -> String {
        let span = linked.instruction.span;
        let written = match &linked.trigger {
            Some(text) => text.lines().next().unwrap_or_default(),
            None => {
                warning::node(shared.dockerfile, span).map(|node| node.original.as_str()).unwrap_or_default()
            }
        };
        let mut expander = Expander::new(shared.dockerfile.directives.escape);
        expander.quotes = rbuild_dockerfile::expand::Quotes::Keep;
        expander.keep_unset = true;
        let expanded = bounds::word(&expander, written.trim(), &self.env);
        let text = expanded.map_or_else(|_| written.trim().to_owned(), |expanded| expanded.text);
        let keyword = linked.instruction.value.keyword();
        let arguments = text.get(keyword.len()..).unwrap_or_default();
        let arguments = arguments.split_whitespace();
        let arguments = match &linked.instruction.value {
            Instruction::Add(_) => arguments.map(remote::shown).collect::<Vec<_>>().join(" "),
            _ => arguments.collect::<Vec<_>>().join(" "),
        };
        let mut line = format!("{keyword} {arguments}");
        if let Instruction::Run(run) = &linked.instruction.value
            && let Some(heredoc) = run.heredocs.first()
        {
            let body = heredoc.content.trim();
            let first = body.lines().next().unwrap_or_default();
            let more = if body.lines().nth(1).is_some() { "..." } else { "" };
            line.push_str(&format!(" ({first}{more})"));
        }
        line.trim_end().to_owned()
    }
}

/// Expands the words of one instruction and remembers what there is to say of it.
#[derive(Debug)]
pub(super) struct Words {
    /// The instruction's name as written, which lint messages show.
    pub(super) keyword: String,
    expander: Expander,
    /// Names without a value that may still be declared arguments, and what was probably meant.
    unmatched: BTreeMap<String, String>,
    /// Those that are not.
    undefined: BTreeMap<String, String>,
    remarks: Vec<Remark>,
    /// Bytes that words of the plan may still become.
    left: usize,
}

impl Words {
    fn new(shared: &Shared<'_>, linked: &Linked) -> Self {
        let keyword = match &linked.trigger {
            Some(text) => text.split_whitespace().next().unwrap_or_default(),
            None => {
                warning::node(shared.dockerfile, linked.instruction.span).map_or("", Node::written_keyword)
            }
        };
        Self {
            keyword: keyword.to_owned(),
            expander: Expander::new(shared.dockerfile.directives.escape),
            unmatched: BTreeMap::new(),
            undefined: BTreeMap::new(),
            remarks: Vec::new(),
            left: shared.expandable.get(),
        }
    }

    /// Expands a word to one string.
    pub(super) fn expand(&mut self, word: &str, env: &Environment) -> Result<String, ExpandError> {
        let expanded = bounds::word(&self.expander, word, env)?;
        self.spend(expanded.text.len())?;
        self.note(expanded.unmatched, env);
        Ok(expanded.text)
    }

    /// Expands a word of an instruction.
    pub(super) fn word(&mut self, word: &str, env: &Environment) -> Checked<String> {
        self.expand(word, env).map_err(|error| cannot_expand(word, &error))
    }

    /// Expands several words.
    pub(super) fn each(&mut self, words: &[String], env: &Environment) -> Checked<Vec<String>> {
        words.iter().map(|word| self.word(word, env)).collect()
    }

    /// Expands an option; one that becomes empty counts as not given.
    pub(super) fn option(&mut self, word: Option<&String>, env: &Environment) -> Checked<Option<String>> {
        let expanded = word.map(|word| self.word(word, env)).transpose()?;
        Ok(expanded.filter(|text| !text.is_empty()))
    }

    /// Expands a word and splits the result at unquoted white space.
    pub(super) fn split(&self, word: &str, env: &Environment) -> Checked<Vec<String>> {
        bounds::split(&self.expander, word, env).map_err(|error| cannot_expand(word, &error))
    }

    fn note(&mut self, unmatched: BTreeSet<String>, env: &Environment) {
        for name in unmatched {
            let hint = warning::did_you_mean(&name, env.names(), "$");
            self.unmatched.entry(name).or_insert(hint);
        }
    }

    /// Notes what lint rules have to say.
    pub(super) fn remark(&mut self, remarks: impl IntoIterator<Item = Remark>) {
        self.remarks.extend(remarks);
    }

    /// Tells apart what is declared at this place from what is undefined: `ARG A=$A` uses a name before declaring it.
    pub(super) fn declare(&mut self, arguments: &[(String, Option<String>)]) {
        let unmatched = std::mem::take(&mut self.unmatched).into_iter();
        let undefined = unmatched.filter(|(name, _)| arguments.iter().all(|(declared, _)| declared != name));
        self.undefined.extend(undefined);
    }

    fn spend(&mut self, bytes: usize) -> Result<(), ExpandError> {
        let left = self.left.checked_sub(bytes);
        self.left =
            left.ok_or(ExpandError::Syntax("the words of the Dockerfile become longer than 32 MiB"))?;
        Ok(())
    }

    /// Expands the body of a heredoc.
    pub(super) fn body(&mut self, text: &str, env: &Environment) -> Checked<String> {
        let expanded = bounds::word(&Expander::heredoc(), text, env)
            .and_then(|expanded| self.spend(expanded.text.len()).map(|()| expanded))
            .map_err(|error| refuse(format!("cannot expand the heredoc: {error}")))?;
        self.note(expanded.unmatched, env);
        Ok(expanded.text)
    }
}

fn cannot_expand(word: &str, error: &ExpandError) -> Box<Diagnostic> {
    let shown: String = word.chars().take(80).collect();
    refuse(format!("cannot expand {shown:?}: {error}"))
}
