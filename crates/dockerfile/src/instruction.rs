//! The instructions, typed; nothing in them is expanded.

use std::time::Duration;

use crate::heredoc;
use crate::node::Heredoc;
use crate::span::Spanned;

/// One instruction of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    /// `RUN`: a command in a new layer.
    Run(Run),
    /// `CMD`: the default arguments of the image.
    Cmd(Command),
    /// `ENTRYPOINT`: the program of the image.
    Entrypoint(Command),
    /// `ENV`: variables of the image.
    Env(Vec<Pair>),
    /// `LABEL`: metadata of the image.
    Label(Vec<Pair>),
    /// `MAINTAINER`: the author, deprecated.
    Maintainer(String),
    /// `EXPOSE`: ports, sorted as strings.
    Expose(Vec<String>),
    /// `ADD`: files, archives, URLs and git repositories into a layer.
    Add(Add),
    /// `COPY`: files into a layer.
    Copy(Copy),
    /// `VOLUME`: mount points.
    Volume(Vec<String>),
    /// `USER`: who later steps and the image run as.
    User(String),
    /// `WORKDIR`: the working directory.
    Workdir(String),
    /// `ARG`: build arguments.
    Arg(Vec<Arg>),
    /// `ONBUILD`: an instruction for those who build on the image.
    Onbuild(Onbuild),
    /// `STOPSIGNAL`: the signal that ends the container.
    Stopsignal(String),
    /// `HEALTHCHECK`: how to ask whether the container works.
    Healthcheck(Healthcheck),
    /// `SHELL`: the shell of the shell forms that follow.
    Shell(Vec<String>),
}

impl Instruction {
    /// Returns the keyword in upper case.
    #[must_use]
    pub fn keyword(&self) -> &'static str {
        match self {
            Self::Run(_) => "RUN",
            Self::Cmd(_) => "CMD",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Expose(_) => "EXPOSE",
            Self::Add(_) => "ADD",
            Self::Copy(_) => "COPY",
            Self::Volume(_) => "VOLUME",
            Self::User(_) => "USER",
            Self::Workdir(_) => "WORKDIR",
            Self::Arg(_) => "ARG",
            Self::Onbuild(_) => "ONBUILD",
            Self::Stopsignal(_) => "STOPSIGNAL",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Shell(_) => "SHELL",
        }
    }
}

/// The two ways to write a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// The rest of the line, for the stage's shell; may be empty.
    Shell(String),
    /// A JSON array, for execve; may be empty.
    Exec(Vec<String>),
}

/// The command of CMD or ENTRYPOINT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The command as written.
    pub form: Form,
}

/// A RUN instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The command, without heredoc bodies; see [`Run::script`].
    pub form: Form,
    /// The inline documents.
    pub heredocs: Vec<Heredoc>,
    /// The values of `--mount`, for [`parse_mount`](crate::mount::parse_mount).
    pub mounts: Vec<Spanned<String>>,
    /// The value of `--network`.
    pub network: Option<Network>,
    /// The value of `--security`.
    pub security: Option<Security>,
    /// The values of `--device`.
    pub devices: Vec<Spanned<String>>,
}

impl Run {
    /// Puts the heredocs back: what is to be executed, before the shell is prepended.
    #[must_use]
    pub fn script(&self) -> Script {
        let text = match &self.form {
            Form::Exec(args) => return Script::Exec(args.clone()),
            Form::Shell(text) => text,
        };
        match self.heredocs.as_slice() {
            [] => Script::Shell(text.clone()),
            [only, ..] if heredoc::is_heredoc(text) => {
                if only.content.starts_with("#!") {
                    Script::File { name: only.name.clone(), content: only.body() }
                } else {
                    Script::Shell(only.body())
                }
            }
            all => {
                let mut full = text.clone();
                for Heredoc { content, name, .. } in all {
                    full.push('\n');
                    full.push_str(content);
                    full.push_str(name);
                }
                Script::Shell(full)
            }
        }
    }
}

/// What a RUN executes once its heredocs are put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// This vector, without a shell.
    Exec(Vec<String>),
    /// This text, as the argument of the stage's shell.
    Shell(String),
    /// A file with this name and content, mode 0755, given to the stage's shell by its path below `/dev/pipes/`.
    File {
        /// Name of the file: the delimiter.
        name: String,
        /// Its content, which begins with `#!`.
        content: String,
    },
}

/// The network of a RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// What the build was told to use.
    Default,
    /// Loopback only.
    None,
    /// The network of the host.
    Host,
}

/// The privileges of a RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Confined.
    Sandbox,
    /// Unconfined.
    Insecure,
}

/// A pair of ENV or LABEL; key and value still have their quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
    /// Whether it was written without `=`.
    pub legacy: bool,
}

/// One name of an ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    /// The name; may hold quotes and variables.
    pub name: String,
    /// The default, unexpanded.
    pub value: Option<String>,
    /// Its description, from the comment above: `# name text`.
    pub doc: Option<String>,
}

/// An inline file of COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    /// Name of the file: the delimiter.
    pub name: String,
    /// Its content, tabs removed, unexpanded.
    pub content: String,
    /// Whether variables in the content are expanded.
    pub expand: bool,
}

/// A COPY instruction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copy {
    /// The sources that are paths, as written.
    pub sources: Vec<String>,
    /// The sources that are inline documents; they come after the paths.
    pub files: Vec<InlineFile>,
    /// The destination, as written.
    pub destination: String,
    /// `--from`: a stage, a stage's number, a named context or an image.
    pub from: Option<Spanned<String>>,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// The values of `--exclude`.
    pub exclude: Vec<String>,
}

/// An ADD instruction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Add {
    /// The sources that are paths, URLs or git references, as written.
    pub sources: Vec<String>,
    /// The sources that are inline documents; they come after the others.
    pub files: Vec<InlineFile>,
    /// The destination, as written.
    pub destination: String,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// The values of `--exclude`.
    pub exclude: Vec<String>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `--checksum`.
    pub checksum: Option<String>,
    /// `--unpack`.
    pub unpack: Option<bool>,
}

/// An ONBUILD instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// What the image config stores: the line without `ONBUILD`, heredoc bodies included.
    pub text: String,
    /// The instruction it holds; `None` if that is wrong, which is found out only where the image is built upon.
    pub instruction: Option<Box<Spanned<Instruction>>>,
}

/// A HEALTHCHECK instruction; zero durations and retries mean the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    /// The check.
    pub test: HealthTest,
    /// `--interval`.
    pub interval: Duration,
    /// `--timeout`.
    pub timeout: Duration,
    /// `--start-period`.
    pub start_period: Duration,
    /// `--start-interval`.
    pub start_interval: Duration,
    /// `--retries`.
    pub retries: u32,
}

/// The check of a HEALTHCHECK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthTest {
    /// `NONE`: no check, also not the base image's.
    None,
    /// `CMD` with a command.
    Command(Form),
}
