//! The Dockerfile language: lines, instructions, expansion, ignore files and lint rules.

mod diagnostic;
mod directive;
mod duration;
pub mod expand;
mod flags;
mod glob;
mod heredoc;
pub mod ignore;
mod ignore_pattern;
mod instruction;
mod json;
mod lines;
pub mod lint;
pub mod mount;
mod node;
mod parse;
mod span;
mod suggest;
mod typed;
mod words;

pub use diagnostic::{Diagnostic, Severity};
pub use directive::{Check, Directives};
pub use expand::{ExpandError, Expanded, Expander};
pub use ignore::IgnoreFile;
pub use instruction::{
    Add, Arg, Command, Copy, Form, HealthTest, Healthcheck, InlineFile, Instruction, Network, Onbuild, Pair,
    Run, Script, Security,
};
pub use mount::{Mount, parse_mount};
pub use node::{Heredoc, Node};
pub use parse::{Dockerfile, Stage, parse_instruction};
pub use span::{Span, Spanned, line_col};
pub use suggest::nearest;
