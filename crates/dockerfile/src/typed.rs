//! From nodes to typed instructions: flags, argument counts, values.

use std::collections::HashMap;
use std::time::Duration;

use crate::diagnostic::Diagnostic;
use crate::duration;
use crate::expand::ExpandError;
use crate::flags::{Flags, Kind};
use crate::heredoc;
use crate::instruction::{
    Add, Arg, Command, Copy, Form, HealthTest, Healthcheck, InlineFile, Instruction, Network, Onbuild, Pair,
    Run, Security,
};
use crate::mount;
use crate::node::{Heredoc, Node, without_tabs};
use crate::parse::Stage;
use crate::span::Spanned;

/// All instructions, as suggestions for an unknown one.
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// The flags of HEALTHCHECK.
const HEALTH_FLAGS: [(&str, Kind); 5] = [
    ("interval", Kind::Text),
    ("timeout", Kind::Text),
    ("start-period", Kind::Text),
    ("start-interval", Kind::Text),
    ("retries", Kind::Text),
];

/// The values of `RUN --network`.
const NETWORKS: [(&str, Network); 3] =
    [("default", Network::Default), ("none", Network::None), ("host", Network::Host)];

/// The values of `RUN --security`.
const SECURITIES: [(&str, Security); 2] = [("sandbox", Security::Sandbox), ("insecure", Security::Insecure)];

/// Types a node other than FROM.
pub(crate) fn instruction(node: &Node) -> Result<Instruction, Diagnostic> {
    read(node).map_err(|mut error| {
        error.span.get_or_insert(crate::span::Span::new(node.keyword.start, node.args_span.end));
        error.on_lines(node.start, node.end)
    })
}

fn read(node: &Node) -> Result<Instruction, Diagnostic> {
    match node.instruction.as_str() {
        "run" => run(node).map(Instruction::Run),
        "cmd" => no_flags(node).map(|()| Instruction::Cmd(Command { form: form(&node.args, node.json) })),
        "entrypoint" => {
            no_flags(node).map(|()| Instruction::Entrypoint(Command { form: form(&node.args, node.json) }))
        }
        "env" => pairs(node).map(Instruction::Env),
        "label" => pairs(node).map(Instruction::Label),
        "maintainer" => one(node).map(Instruction::Maintainer),
        "user" => one(node).map(Instruction::User),
        "workdir" => one(node).map(Instruction::Workdir),
        "stopsignal" => exactly_one(node).map(Instruction::Stopsignal),
        "expose" => {
            at_least_one(node)?;
            no_flags(node)?;
            let mut ports = node.args.clone();
            ports.sort();
            Ok(Instruction::Expose(ports))
        }
        "add" => add(node).map(Instruction::Add),
        "copy" => copy(node).map(Instruction::Copy),
        "volume" => volume(node).map(Instruction::Volume),
        "arg" => args(node).map(Instruction::Arg),
        "onbuild" => onbuild(node).map(Instruction::Onbuild),
        "healthcheck" => healthcheck(node).map(Instruction::Healthcheck),
        "shell" => shell(node).map(Instruction::Shell),
        "from" => Err(Diagnostic::error("FROM isn't allowed here").at(node.keyword)),
        other => Err(Diagnostic::error(format!("unknown instruction: {}", node.written_keyword()))
            .at(node.keyword)
            .suggest(other, KEYWORDS)),
    }
}

/// Types a FROM.
pub(crate) fn from(node: &Node) -> Result<Stage, Diagnostic> {
    read_from(node).map_err(|mut error| {
        error.span.get_or_insert(crate::span::Span::new(node.keyword.start, node.args_span.end));
        error.on_lines(node.start, node.end)
    })
}

fn read_from(node: &Node) -> Result<Stage, Diagnostic> {
    let (base, written) = match node.args.as_slice() {
        [base] => (base, None),
        [base, keyword, name] if keyword.eq_ignore_ascii_case("as") => (base, Some(name)),
        _ => {
            return Err(Diagnostic::error("FROM requires either one or three arguments")
                .with_hint("write `FROM image` or `FROM image AS name`"));
        }
    };
    if let Some(written) = written.filter(|name| !is_stage_name(&name.to_lowercase())) {
        return Err(Diagnostic::error(format!(
            "invalid name for build stage: {written:?}, name can't start with a number or contain symbols"
        ))
        .at(from_word(node, Place::Last, written)));
    }
    let flags = Flags::parse(node, &[("platform", Kind::Text)])?;
    let name = written.map(|name| name.to_lowercase());
    Ok(Stage {
        base: Spanned::new(base.clone(), from_word(node, Place::First, base)),
        name_written: written.map(|name| Spanned::new(name.clone(), from_word(node, Place::Last, name))),
        doc: name.as_deref().and_then(|name| Descriptions::of(node).get(name)),
        name,
        platform: flags.spanned("platform"),
        from: node.span,
        lines: (node.start, node.end),
        instructions: Vec::new(),
    })
}

/// Which end of FROM's arguments a word stands at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    First,
    Last,
}

/// Returns the place of FROM's first or last word: nothing but blanks can stand around it.
fn from_word(node: &Node, place: Place, word: &str) -> crate::span::Span {
    let all = node.args_span;
    match place {
        Place::First => crate::span::Span::new(all.start, all.end.min(all.start + word.len())),
        Place::Last => crate::span::Span::new(all.start.max(all.end.saturating_sub(word.len())), all.end),
    }
}

fn is_stage_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
}

/// The comment lines above an instruction, by their first words.
struct Descriptions<'a>(HashMap<&'a str, &'a str>);

impl<'a> Descriptions<'a> {
    fn of(node: &'a Node) -> Self {
        // Of two lines for one name the first counts.
        let lines = node.comments.iter().rev().filter_map(|line| line.split_once(' '));
        Self(lines.collect())
    }

    /// Finds the description of a name: the rest of the line that begins with it.
    fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|text| (*text).to_owned())
    }
}

fn keyword(node: &Node) -> String {
    node.instruction.to_uppercase()
}

fn no_flags(node: &Node) -> Result<(), Diagnostic> {
    Flags::parse(node, &[]).map(|_| ())
}

fn at_least_one(node: &Node) -> Result<(), Diagnostic> {
    if node.args.is_empty() {
        return Err(Diagnostic::error(format!("{} requires at least one argument", keyword(node))));
    }
    Ok(())
}

fn exactly_one(node: &Node) -> Result<String, Diagnostic> {
    match node.args.as_slice() {
        [argument] => Ok(argument.clone()),
        _ => Err(Diagnostic::error(format!("{} requires exactly one argument", keyword(node)))),
    }
}

fn one(node: &Node) -> Result<String, Diagnostic> {
    no_flags(node)?;
    exactly_one(node)
}

fn form(args: &[String], json: bool) -> Form {
    if json { Form::Exec(args.to_vec()) } else { Form::Shell(args.first().cloned().unwrap_or_default()) }
}

/// Reads a flag that takes one of a few words.
fn choice<T: std::marker::Copy>(
    flags: &Flags,
    name: &str,
    choices: &[(&str, T)],
) -> Result<Option<T>, Diagnostic> {
    let Some(flag) = flags.spanned(name) else { return Ok(None) };
    match choices.iter().find(|(word, _)| *word == flag.value) {
        Some((_, value)) => Ok(Some(*value)),
        None => Err(Diagnostic::error(format!("invalid value {:?} for flag --{name}", flag.value))
            .at(flag.span)
            .suggest(&flag.value, choices.iter().map(|(word, _)| *word))),
    }
}

fn run(node: &Node) -> Result<Run, Diagnostic> {
    let known =
        [("mount", Kind::List), ("network", Kind::Text), ("security", Kind::Text), ("device", Kind::List)];
    let flags = Flags::parse(node, &known)?;
    let network = choice(&flags, "network", &NETWORKS)?;
    let security = choice(&flags, "security", &SECURITIES)?;
    let mounts = flags.list("mount");
    for flag in &mounts {
        mount::check_unexpanded(&flag.value).map_err(|error| error.diagnostic().at(flag.span))?;
    }
    let heredocs = node.heredocs.clone();
    let form = form(&node.args, node.json);
    Ok(Run { form, heredocs, mounts, network, security, devices: flags.list("device") })
}

fn pairs(node: &Node) -> Result<Vec<Pair>, Diagnostic> {
    no_flags(node)?;
    at_least_one(node)?;
    node.args
        .chunks(3)
        .map(|chunk| match chunk {
            [key, ..] if key.is_empty() => {
                Err(Diagnostic::error(format!("{} names can not be blank", keyword(node))))
            }
            [key, value, delimiter] => {
                Ok(Pair { key: key.clone(), value: value.clone(), legacy: delimiter.is_empty() })
            }
            _ => Err(Diagnostic::error(format!("bad input to {}, too many arguments", keyword(node)))),
        })
        .collect()
}

/// The sources and the destination of COPY and ADD.
struct Paths {
    sources: Vec<String>,
    files: Vec<InlineFile>,
    destination: String,
}

fn paths(node: &Node) -> Result<Paths, Diagnostic> {
    let keyword = keyword(node);
    let (destination, sources) = match node.args.split_last() {
        Some((destination, sources)) if !sources.is_empty() => (destination, sources),
        _ => {
            return Err(Diagnostic::error(format!(
                "{keyword} requires at least two arguments: sources, and a destination behind them"
            )));
        }
    };
    if heredoc::is_heredoc(destination) {
        return Err(Diagnostic::error(format!("{keyword} cannot accept a heredoc as a destination")));
    }
    // Of two heredocs with one name the later body counts, for both.
    let bodies: HashMap<&str, &Heredoc> = node.heredocs.iter().map(|doc| (doc.name.as_str(), doc)).collect();
    let mut paths = Paths { sources: Vec::new(), files: Vec::new(), destination: destination.clone() };
    for source in sources {
        let Ok(Some(word)) = heredoc::in_word(source) else {
            paths.sources.push(source.clone());
            continue;
        };
        let body = bodies.get(word.name.as_str());
        let content =
            body.map(|doc| if word.chomp { without_tabs(&doc.content) } else { doc.content.clone() });
        paths.files.push(InlineFile {
            name: word.name,
            content: content.unwrap_or_default(),
            expand: word.expand,
        });
    }
    Ok(paths)
}

fn copy(node: &Node) -> Result<Copy, Diagnostic> {
    let Paths { sources, files, destination } = paths(node)?;
    let flags = Flags::parse(
        node,
        &[
            ("from", Kind::Text),
            ("chown", Kind::Text),
            ("chmod", Kind::Text),
            ("link", Kind::Bool),
            ("parents", Kind::Bool),
            ("exclude", Kind::List),
        ],
    )?;
    Ok(Copy {
        sources,
        files,
        destination,
        from: flags.spanned("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.switch("link").unwrap_or(false),
        parents: flags.switch("parents").unwrap_or(false),
        exclude: flags.texts("exclude"),
    })
}

fn add(node: &Node) -> Result<Add, Diagnostic> {
    let Paths { sources, files, destination } = paths(node)?;
    let flags = Flags::parse(
        node,
        &[
            ("chown", Kind::Text),
            ("chmod", Kind::Text),
            ("link", Kind::Bool),
            ("exclude", Kind::List),
            ("keep-git-dir", Kind::Bool),
            ("checksum", Kind::Text),
            ("unpack", Kind::Bool),
        ],
    )?;
    Ok(Add {
        sources,
        files,
        destination,
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.switch("link").unwrap_or(false),
        exclude: flags.texts("exclude"),
        keep_git_dir: flags.switch("keep-git-dir"),
        checksum: flags.text("checksum"),
        unpack: flags.switch("unpack"),
    })
}

fn volume(node: &Node) -> Result<Vec<String>, Diagnostic> {
    at_least_one(node)?;
    no_flags(node)?;
    let volumes: Vec<String> = node.args.iter().map(|path| path.trim().to_owned()).collect();
    if volumes.iter().any(String::is_empty) {
        return Err(Diagnostic::error("VOLUME specified can not be an empty string"));
    }
    Ok(volumes)
}

/// ARG; its flags are not looked at, as in BuildKit.
fn args(node: &Node) -> Result<Vec<Arg>, Diagnostic> {
    at_least_one(node)?;
    let descriptions = Descriptions::of(node);
    node.args
        .iter()
        .map(|word| {
            let (name, value) = match word.split_once('=') {
                Some(("", _)) => return Err(Diagnostic::error("ARG names can not be blank")),
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            Ok(Arg { name: name.to_owned(), value, doc: descriptions.get(name) })
        })
        .collect()
}

fn onbuild(node: &Node) -> Result<Onbuild, Diagnostic> {
    let Some(sub) = &node.sub else {
        return Err(Diagnostic::error("ONBUILD requires at least one argument"));
    };
    no_flags(node)?;
    match sub.instruction.as_str() {
        "onbuild" => {
            return Err(
                Diagnostic::error("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed").at(sub.keyword)
            );
        }
        "maintainer" | "from" => {
            let name = sub.instruction.to_uppercase();
            return Err(
                Diagnostic::error(format!("{name} isn't allowed as an ONBUILD trigger")).at(sub.keyword)
            );
        }
        _ => {}
    }
    let mut text = node.original.trim().get("ONBUILD".len()..).unwrap_or_default().trim_start().to_owned();
    for Heredoc { content, name, .. } in &node.heredocs {
        text.push('\n');
        text.push_str(content);
        text.push_str(name);
    }
    let inner = Node { heredocs: node.heredocs.clone(), ..(**sub).clone() };
    let instruction = read(&inner).ok().map(|value| Box::new(Spanned::new(value, node.span)));
    Ok(Onbuild { text, instruction })
}

fn healthcheck(node: &Node) -> Result<Healthcheck, Diagnostic> {
    let Some((kind, command)) = node.args.split_first() else {
        return Err(Diagnostic::error("HEALTHCHECK requires at least one argument"));
    };
    let mut health = Healthcheck {
        test: HealthTest::None,
        interval: Duration::ZERO,
        timeout: Duration::ZERO,
        start_period: Duration::ZERO,
        start_interval: Duration::ZERO,
        retries: 0,
    };
    match kind.to_uppercase().as_str() {
        // The flags of NONE are not looked at, as in BuildKit.
        "NONE" if command.is_empty() => return Ok(health),
        "NONE" => return Err(Diagnostic::error("HEALTHCHECK NONE takes no arguments")),
        "CMD" if command.is_empty() => {
            return Err(Diagnostic::error("missing command after HEALTHCHECK CMD"));
        }
        "CMD" => health.test = HealthTest::Command(form(command, node.json)),
        other => {
            return Err(Diagnostic::error(format!("unknown type {other:?} in HEALTHCHECK"))
                .with_hint("try `HEALTHCHECK CMD command`"));
        }
    }
    let flags = Flags::parse(node, &HEALTH_FLAGS)?;
    health.interval = interval(&flags, "interval")?;
    health.timeout = interval(&flags, "timeout")?;
    health.start_period = interval(&flags, "start-period")?;
    health.start_interval = interval(&flags, "start-interval")?;
    if let Some(flag) = flags.spanned("retries") {
        let retries: i32 = flag.value.parse().map_err(|_| {
            Diagnostic::error(format!("--retries is not a number: {:?}", flag.value)).at(flag.span)
        })?;
        health.retries = u32::try_from(retries).map_err(|_| {
            Diagnostic::error(format!("--retries cannot be negative ({retries})")).at(flag.span)
        })?;
    }
    Ok(health)
}

/// Reads a duration of HEALTHCHECK: zero, or at least a millisecond.
fn interval(flags: &Flags, name: &str) -> Result<Duration, Diagnostic> {
    let Some(flag) = flags.spanned(name) else { return Ok(Duration::ZERO) };
    let Some(value) = duration::parse(&flag.value) else {
        return Err(Diagnostic::error(format!("invalid duration {:?} for --{name}", flag.value))
            .at(flag.span)
            .with_hint("write it like `1m30s`"));
    };
    if value != Duration::ZERO && value < Duration::from_millis(1) {
        return Err(Diagnostic::error(format!("interval {name:?} cannot be less than 1ms")).at(flag.span));
    }
    Ok(value)
}

fn shell(node: &Node) -> Result<Vec<String>, Diagnostic> {
    no_flags(node)?;
    at_least_one(node)?;
    if !node.json {
        return Err(Diagnostic::error("SHELL requires the arguments to be in JSON form")
            .with_hint("write `SHELL [\"/bin/sh\", \"-c\"]`"));
    }
    Ok(node.args.clone())
}

/// Turns a word that does not lex into a diagnostic.
pub(crate) fn lexing(error: &ExpandError, node: &Node) -> Diagnostic {
    Diagnostic::error(error.to_string()).at(node.args_span).on_lines(node.start, node.end)
}
