//! The Dockerfile language: from text to typed instructions, without I/O, clock or environment.
//!
//! [`Dockerfile::parse`] turns text into a [`Dockerfile`] and errors. It never panics, it never stops at the first error,
//! and its time is in proportion to the length of the text. A file is there in two forms:
//!
//! - [`Dockerfile::nodes`]: every [`Node`] as it is written, its flags and words split and nothing more. This is what a
//!   formatter or a checker wants; also wrong and unknown instructions have one.
//! - [`Dockerfile::stages`]: each [`Stage`] with its [`Instruction`]s, flags checked and values typed. This is what a
//!   builder wants. Nothing is expanded in it: a variable's value depends on the build.
//!
//! What a build needs next stands in the modules: [`expand`] gives `${name:-word}` its value, [`mount`] reads
//! `RUN --mount`, [`ignore`] reads `.dockerignore`, [`lint`] warns. All of them do what BuildKit's frontend does, whether
//! or not its documentation says so.
//!
//! # Example
//!
//! ```
//! use rbuild_dockerfile::{Dockerfile, Expander, Form, Instruction, line_col, lint};
//!
//! let (dockerfile, errors) = Dockerfile::parse(
//!     "ARG TAG=bookworm\n\
//!      FROM debian:${TAG} AS build\n\
//!      RUN --mount=type=cache,target=/var/cache/apt apt-get update\n\
//!      CMD [\"sh\"]\n",
//! );
//! assert!(errors.is_empty());
//!
//! // Stages hold words as written; the caller decides what the variables are.
//! let stage = &dockerfile.stages[0];
//! let tag = |name: &str| (name == "TAG").then(|| "trixie".to_owned());
//! let base = Expander::new(dockerfile.directives.escape).word(&stage.base.value, &tag)?;
//! assert_eq!((stage.name.as_deref(), base.text.as_str()), (Some("build"), "debian:trixie"));
//!
//! // Instructions are values, and know where they stand.
//! let Instruction::Run(run) = &stage.instructions[0].value else { panic!("not a RUN") };
//! assert_eq!(run.form, Form::Shell("apt-get update".to_owned()));
//! assert_eq!(line_col(&dockerfile.text, stage.instructions[0].span.start), (3, 1));
//!
//! // Errors name the place and what was probably meant.
//! let (_, errors) = Dockerfile::parse("FROM debian\nCOPY --chwon=1:1 a /b\n");
//! assert_eq!(errors[0].to_string(), "line 2: unknown flag: --chwon (did you mean `chown`?)");
//!
//! // Warnings come from the linter.
//! let (dockerfile, _) = Dockerfile::parse("FROM debian as build\n");
//! assert_eq!(lint::lint(&dockerfile)[0].rule, Some("FromAsCasing"));
//! # Ok::<(), rbuild_dockerfile::ExpandError>(())
//! ```
//!
//! # References
//! <https://docs.docker.com/reference/dockerfile/>

mod csv;
mod diagnostic;
mod directive;
pub mod duration;
pub mod expand;
mod flags;
mod glob;
mod heredoc;
pub mod ignore;
mod ignore_path;
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
pub use suggest::{nearest, nearest_variable};
