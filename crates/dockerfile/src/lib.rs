//! The Dockerfile language: lines, instructions, expansion, ignore files and lint rules.

mod diagnostic;
mod directive;
pub mod expand;
pub mod ignore;
mod instruction;
pub mod lint;
pub mod mount;
mod node;
mod parse;
mod span;
mod suggest;

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
