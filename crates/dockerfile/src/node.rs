//! Instructions as they are written, before their arguments mean anything.

use crate::diagnostic::Diagnostic;
use crate::json::{self, Json};
use crate::lines::Logical;
use crate::span::Span;
use crate::words::{self, Word};

/// Deepest ONBUILD inside ONBUILD that gets a node of its own; more than one is an error anyway.
const MAX_SUB: usize = 4;

/// One instruction as the reference parser splits it: nothing is expanded and no flag is looked at.
///
/// Every instruction of a file has its node, in order, also one whose arguments are wrong and one that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// The keyword in lower case.
    pub instruction: String,
    /// The flags with their dashes; quotes and escapes are removed.
    pub flags: Vec<String>,
    /// The arguments, in the form that belongs to the instruction; quotes stay.
    ///
    /// RUN, CMD, ENTRYPOINT, SHELL, MAINTAINER, USER, WORKDIR and STOPSIGNAL have one argument, the rest of the line;
    /// ENV and LABEL have three per pair: key, value, and `=` or nothing; HEALTHCHECK has its type and the command.
    /// ONBUILD has none (see [`Node::sub`]), nor has an unknown instruction.
    pub args: Vec<String>,
    /// Whether `args` are the strings of a JSON array.
    pub json: bool,
    /// First line, counted from 1.
    pub start: u32,
    /// Last line, heredoc bodies included.
    pub end: u32,
    /// The inline documents, in order.
    pub heredocs: Vec<Heredoc>,
    /// The instruction inside an ONBUILD.
    pub sub: Option<Box<Self>>,
    /// The whole instruction as one line: continuations joined, comments dropped, without the heredoc bodies.
    pub original: String,
    /// The comment lines right above, without `#` and surrounding space.
    pub comments: Vec<String>,
    /// The last line before any heredoc body, if an empty line stands inside a continuation.
    pub empty_continuation: Option<u32>,
    /// The keyword as written.
    pub keyword: Span,
    /// Where each flag stands.
    pub flag_spans: Vec<Span>,
    /// The arguments behind the flags, continuation lines included.
    pub args_span: Span,
    /// All lines of the instruction.
    pub span: Span,
}

/// An inline document of RUN, COPY or ADD.
///
/// # References
/// <https://docs.docker.com/reference/dockerfile/#here-documents>
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heredoc {
    /// The delimiter without its quotes.
    pub name: String,
    /// The body as it stands in the file, leading tabs included; see [`Heredoc::body`].
    pub content: String,
    /// Whether variables in the body are expanded: no part of the delimiter is quoted.
    pub expand: bool,
    /// Whether leading tabs are removed: `<<-`.
    pub chomp: bool,
    /// The file descriptor in front of `<<`, else 0.
    pub fd: u32,
}

impl Heredoc {
    /// Returns the body as a file: with `<<-` its lines have lost their leading tabs.
    #[must_use]
    pub fn body(&self) -> String {
        if self.chomp { without_tabs(&self.content) } else { self.content.clone() }
    }
}

/// Removes the tabs at the start of every line.
pub(crate) fn without_tabs(text: &str) -> String {
    text.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

/// The arguments of an instruction, and whether they are JSON.
type Args = (Vec<String>, bool);

impl Node {
    /// Splits a logical line; heredocs are the caller's to add.
    pub(crate) fn from_line(line: &Logical, escape: char) -> Result<Self, Diagnostic> {
        let mut node = Self::split(&line.text, 0, line, escape, 0)
            .map_err(|error| error.on_lines(line.start, line.end))?;
        node.start = line.start;
        node.end = line.end;
        node.span = line.span;
        node.comments.clone_from(&line.comments);
        node.empty_continuation = line.empty_continuation.then_some(line.end);
        Ok(node)
    }

    /// Splits `text`, which begins at `offset` of the logical line.
    fn split(
        text: &str,
        offset: usize,
        line: &Logical,
        escape: char,
        depth: usize,
    ) -> Result<Self, Diagnostic> {
        let trimmed = text.trim();
        let offset = offset + (text.len() - text.trim_start().len());
        let (keyword, rest) = words::split_first(trimmed);
        let rest = rest.unwrap_or_default();
        let rest_offset = offset + (trimmed.len() - rest.len());
        let (flags, args_at) = words::take_flags(rest, escape);
        let args = rest.get(args_at..).unwrap_or_default();
        let args_offset = rest_offset + args_at + (args.len() - args.trim_start().len());
        let args = args.trim();
        let args_span = line.place(args_offset, args_offset + args.len());
        let mut node = Self {
            instruction: keyword.to_lowercase(),
            original: text.to_owned(),
            keyword: line.place(offset, offset + keyword.len()),
            flag_spans: flags
                .iter()
                .map(|Word { start, end, .. }| line.place(rest_offset + start, rest_offset + end))
                .collect(),
            flags: flags.into_iter().map(|flag| flag.text).collect(),
            args_span,
            ..Self::default()
        };
        if node.instruction == "onbuild" {
            if !args.is_empty() && depth < MAX_SUB {
                node.sub = Some(Box::new(Self::split(args, args_offset, line, escape, depth + 1)?));
            }
            return Ok(node);
        }
        let parsed = split_args(&node.instruction, args, escape).map_err(|error| error.at(args_span))?;
        (node.args, node.json) = parsed;
        Ok(node)
    }

    /// Returns the keyword as written.
    #[must_use]
    pub fn written_keyword(&self) -> &str {
        words::split_first(self.original.trim()).0
    }

    /// Tells whether words of the instruction, or of the one inside an ONBUILD, may name heredocs.
    pub(crate) fn takes_heredocs(&self) -> bool {
        let node = match &self.sub {
            Some(sub) if self.instruction == "onbuild" => sub,
            _ => self,
        };
        matches!(node.instruction.as_str(), "run" | "copy" | "add") && !node.json
    }
}

/// Splits arguments in the way that belongs to an instruction.
fn split_args(instruction: &str, args: &str, escape: char) -> Result<Args, Diagnostic> {
    let whole = |text: &str| if text.is_empty() { Vec::new() } else { vec![text.to_owned()] };
    Ok(match instruction {
        "run" | "cmd" | "entrypoint" | "shell" => json_or(args, whole)?,
        "add" | "copy" | "volume" => json_or(args, words::split_blank)?,
        "from" | "expose" => (words::split_blank(args), false),
        "maintainer" | "stopsignal" | "user" | "workdir" => (whole(args), false),
        "arg" => (words::split_quoted(args, escape), false),
        "env" | "label" => (pairs(instruction, args, escape)?, false),
        "healthcheck" => {
            let (kind, command) = args.split_once(char::is_whitespace).unwrap_or((args, ""));
            let (mut command, json) = json_or(command.trim_start(), whole)?;
            if !kind.is_empty() {
                command.insert(0, kind.to_owned());
            }
            (command, json)
        }
        _ => (Vec::new(), false),
    })
}

fn json_or(text: &str, otherwise: impl Fn(&str) -> Vec<String>) -> Result<Args, Diagnostic> {
    match json::read(text) {
        Json::Strings(strings) => Ok((strings, true)),
        Json::Text => Ok((otherwise(text), false)),
        Json::OtherArray => {
            Err(Diagnostic::error("when using JSON array syntax, arrays must be comprised of strings only")
                .with_hint("put every element in double quotes"))
        }
    }
}

/// Splits `key=value` words, or the old form `key rest of the line`.
fn pairs(instruction: &str, args: &str, escape: char) -> Result<Vec<String>, Diagnostic> {
    let list = words::split_quoted(args, escape);
    let Some(first) = list.first() else { return Ok(Vec::new()) };
    if !first.contains('=') {
        let (key, value) = words::split_first(args);
        let Some(value) = value else {
            let name = instruction.to_uppercase();
            return Err(Diagnostic::error(format!("{name} must have two arguments"))
                .with_hint(format!("write `{name} {key}=value`")));
        };
        return Ok(vec![key.to_owned(), value.to_owned(), String::new()]);
    }
    let mut out = Vec::with_capacity(list.len() * 3);
    for word in &list {
        let Some((key, value)) = word.split_once('=') else {
            return Err(Diagnostic::error(format!(
                "cannot find = in {word:?}: every word must be of the form name=value"
            ))
            .with_hint("put a value with spaces in quotes"));
        };
        out.extend([key.to_owned(), value.to_owned(), "=".to_owned()]);
    }
    Ok(out)
}
