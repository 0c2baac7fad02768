//! From text to stages.

use std::borrow::Cow;

use crate::diagnostic::Diagnostic;
use crate::directive::{self, Check, Directives};
use crate::heredoc;
use crate::instruction::{Arg, Instruction};
use crate::lines::Lines;
use crate::node::Node;
use crate::span::{Span, Spanned};
use crate::typed;

/// A parsed Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dockerfile {
    /// The text that all spans point into; invalid UTF-8 has become U+FFFD.
    pub text: String,
    /// What the first comment lines say.
    pub directives: Directives,
    /// Every instruction as written, in order; empty if the text cannot be split into instructions.
    pub nodes: Vec<Node>,
    /// The arguments declared before the first FROM.
    pub args: Vec<Spanned<Arg>>,
    /// The stages, in order; empty when an instruction is wrong.
    pub stages: Vec<Stage>,
}

/// A stage: FROM and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The name behind AS, in lower case.
    pub name: Option<String>,
    /// The name behind AS, as written.
    pub name_written: Option<Spanned<String>>,
    /// What it builds on, as written.
    pub base: Spanned<String>,
    /// The value of `--platform`, as written.
    pub platform: Option<Spanned<String>>,
    /// The FROM instruction.
    pub from: Span,
    /// First and last line of the FROM instruction.
    pub lines: (u32, u32),
    /// Its description, from the comment above: `# name text`.
    pub doc: Option<String>,
    /// What follows.
    pub instructions: Vec<Spanned<Instruction>>,
}

impl Dockerfile {
    /// Parses a Dockerfile; never panics, and takes time in proportion to the length.
    ///
    /// The diagnostics hold errors only, in the order of the file ([`lint`](crate::lint::lint) gives the warnings).
    /// With any error the file must not be built.
    pub fn parse(text: impl AsRef<[u8]>) -> (Self, Vec<Diagnostic>) {
        let bytes = text.as_ref();
        let text = String::from_utf8_lossy(bytes);
        let mut dockerfile = Self::default();
        let mut errors = Vec::new();
        match read_nodes(&text, bytes) {
            Ok((nodes, escape)) => {
                dockerfile.nodes = nodes;
                dockerfile.directives.escape = escape;
            }
            Err(error) => errors.push(*error),
        }
        dockerfile.directives.syntax = directive::find_syntax(&text);
        if let Some(Spanned { value, span }) = directive::find_check(&text) {
            match Check::parse(&value) {
                Ok(check) => dockerfile.directives.check = Some(check),
                Err(message) => errors.push(Diagnostic::error(message).at(span)),
            }
        }
        if let Cow::Owned(_) = &text {
            errors.extend(not_utf8(&dockerfile.nodes, bytes));
        }
        dockerfile.text = text.into_owned();
        if errors.is_empty() {
            errors = dockerfile.read_stages();
        }
        (dockerfile, errors)
    }

    /// Returns the instruction that stands at a place: the last one that begins at or before it.
    ///
    /// The span of a FROM, of an argument or of a stage's instruction gives the node it was made from.
    #[must_use]
    pub fn node_at(&self, span: Span) -> Option<&Node> {
        let behind = self.nodes.partition_point(|node| node.span.start <= span.start);
        let node = self.nodes.get(behind.checked_sub(1)?)?;
        (span.end <= node.span.end).then_some(node)
    }

    /// Returns the first and the last line of the instruction at a place.
    #[must_use]
    pub fn lines(&self, span: Span) -> Option<(u32, u32)> {
        self.node_at(span).map(|node| (node.start, node.end))
    }

    /// Types the nodes and sorts them into stages; every wrong instruction gives an error.
    fn read_stages(&mut self) -> Vec<Diagnostic> {
        let (mut args, mut stages, mut errors) = (Vec::new(), Vec::<Stage>::new(), Vec::new());
        let mut misplaced = false;
        for node in &self.nodes {
            if node.instruction == "from" {
                match typed::from(node) {
                    Ok(stage) => stages.push(stage),
                    Err(error) => errors.push(error),
                }
                misplaced = true;
                continue;
            }
            match (typed::instruction(node), stages.last_mut()) {
                (Err(error), _) => errors.push(error),
                (Ok(value), Some(stage)) => stage.instructions.push(Spanned::new(value, node.span)),
                (Ok(Instruction::Arg(list)), None) => {
                    args.extend(list.into_iter().map(|arg| Spanned::new(arg, node.span)));
                }
                // One misplaced instruction is enough to say so; behind a wrong FROM none is.
                (Ok(_), None) if !std::mem::replace(&mut misplaced, true) => errors.push(
                    Diagnostic::error("no build stage in current context")
                        .at(node.keyword)
                        .on_lines(node.start, node.end)
                        .with_hint("begin with FROM; only ARG may stand before it"),
                ),
                (Ok(_), None) => {}
            }
        }
        self.args = args;
        if !errors.is_empty() {
            return errors;
        }
        self.stages = stages;
        if self.stages.is_empty() {
            let error = Diagnostic::error("dockerfile contains no stages to build");
            return vec![error.with_hint("add a FROM instruction")];
        }
        Vec::new()
    }
}

/// Refuses bytes that are no UTF-8 where they would reach a file or a command.
///
/// In comments they do no harm, and what goes into the image config becomes U+FFFD in JSON anyway.
fn not_utf8(nodes: &[Node], bytes: &[u8]) -> Vec<Diagnostic> {
    let replaced = |text: &str| text.contains('\u{fffd}');
    let lines = (1u32..).zip(bytes.split(|byte| *byte == b'\n'));
    let wrong: Vec<u32> =
        lines.filter(|(_, line)| std::str::from_utf8(line).is_err()).map(|(line, _)| line).collect();
    let used = nodes.iter().filter(|node| {
        let first = wrong.partition_point(|line| *line < node.start);
        matches!(node.instruction.as_str(), "run" | "copy" | "add")
            && wrong.get(first).is_some_and(|line| *line <= node.end)
            && (replaced(&node.original) || node.heredocs.iter().any(|heredoc| replaced(&heredoc.content)))
    });
    used.map(|node| {
        Diagnostic::error("the instruction is not valid UTF-8").at(node.span).on_lines(node.start, node.end)
    })
    .collect()
}

/// Splits a text into nodes, heredoc bodies included, and tells its escape character.
fn read_nodes(text: &str, bytes: &[u8]) -> Result<(Vec<Node>, char), Box<Diagnostic>> {
    let mut lines = Lines::new(text, bytes);
    let mut nodes = Vec::new();
    while let Some(mut logical) = lines.next_logical()? {
        let mut node = Node::from_line(&logical, lines.directives.escape())?;
        if node.takes_heredocs() {
            let found = heredoc::in_line(&logical.text).map_err(|error| typed::lexing(&error, &node))?;
            for mut heredoc in found {
                lines.read_heredoc(&mut heredoc, &mut logical)?;
                node.heredocs.push(heredoc);
            }
            node.end = logical.end;
            node.span = logical.span;
        }
        nodes.push(node);
    }
    if nodes.is_empty() {
        return Err(Box::new(Diagnostic::error("file with no instructions")));
    }
    Ok((nodes, lines.directives.escape()))
}

/// Parses a single instruction other than FROM: the ONBUILD trigger of a base image.
///
/// # Errors
/// When the text is not exactly one valid instruction.
pub fn parse_instruction(text: &str) -> Result<Instruction, Diagnostic> {
    let (nodes, _) = read_nodes(text, text.as_bytes()).map_err(|error| *error)?;
    match nodes.as_slice() {
        [node] => typed::instruction(node),
        _ => Err(Diagnostic::error(format!("expected one instruction, found {}", nodes.len()))),
    }
}
