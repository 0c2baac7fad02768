//! Instructions as they are written, before their arguments mean anything.

use crate::span::Span;

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
    pub sub: Option<Box<Node>>,
    /// The whole instruction as one line: continuations joined, comments dropped, without the heredoc bodies.
    pub original: String,
    /// The comment lines right above, without `#` and surrounding space.
    pub comments: Vec<String>,
    /// The keyword as written.
    pub keyword: Span,
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
    /// The body; with `<<-` its lines have lost their leading tabs.
    pub content: String,
    /// The body as it stands in the file, tabs included; this is what a shell gets to see.
    pub raw: String,
    /// Whether variables in the body are expanded: no part of the delimiter is quoted.
    pub expand: bool,
    /// Whether leading tabs are removed: `<<-`.
    pub chomp: bool,
    /// The file descriptor in front of `<<`, else 0.
    pub fd: u32,
}
