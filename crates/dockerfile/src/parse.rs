//! From text to stages.

use crate::diagnostic::Diagnostic;
use crate::directive::Directives;
use crate::instruction::{Arg, Instruction, Run, Script};
use crate::node::Node;
use crate::span::{Span, Spanned};

/// A parsed Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dockerfile {
    /// The text that all spans point into; invalid UTF-8 has become U+FFFD.
    pub text: String,
    /// What the first comment lines say.
    pub directives: Directives,
    /// Every instruction as written, in order.
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
    /// The diagnostics hold errors only ([`lint`](crate::lint::lint) gives the warnings). With any error the file must
    /// not be built.
    pub fn parse(text: impl AsRef<[u8]>) -> (Self, Vec<Diagnostic>) {
        let _ = text.as_ref();
        unimplemented!()
    }

    /// Returns the node that an instruction of a stage, a FROM or an argument comes from.
    #[must_use]
    pub fn node_at(&self, span: Span) -> Option<&Node> {
        self.nodes.iter().rfind(|node| node.span.start <= span.start && span.end <= node.span.end)
    }

    /// Returns the first and the last line of the instruction at a place.
    #[must_use]
    pub fn lines(&self, span: Span) -> Option<(u32, u32)> {
        self.node_at(span).map(|node| (node.start, node.end))
    }
}

impl Run {
    /// Puts the heredocs back: what is to be executed, before the shell is prepended.
    #[must_use]
    pub fn script(&self) -> Script {
        unimplemented!()
    }
}

/// Parses a single instruction other than FROM: the ONBUILD trigger of a base image.
///
/// # Errors
/// When the text is not exactly one valid instruction.
pub fn parse_instruction(text: &str) -> Result<Instruction, Diagnostic> {
    let _ = text;
    unimplemented!()
}
