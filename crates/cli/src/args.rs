//! What was typed: the command line as clap reads it, nothing resolved.

mod cache;
mod node;
mod registry;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

pub(crate) use cache::{CacheArgs, CacheVerb, CacheVerbArgs, PruneArgs};
pub(crate) use node::{CriArgs, CriServeArgs, CriVerb, LogFormat, NodeArgs, PullArgs};
pub(crate) use registry::{CredentialArgs, FallbackMode, LoginArgs, LogoutArgs, RegistryArgs};

const EXIT_CODES: &str = "Exit codes: 0 done, 1 the build failed, 2 usage or refused Dockerfile, 3 registry, \
    4 this host cannot, 130 and 143 interrupted.";

/// Build OCI images from Dockerfiles without a daemon.
///
/// Without a verb the arguments are those of `build`: `rbuild -t registry.example/team/app .`
#[derive(Debug, Parser)]
#[command(name = "rbuild", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

impl Cli {
    /// Reads the command line; without a verb it is a build.
    ///
    /// # Errors
    /// clap's, which also carries the texts of `--help` and `--version`.
    pub(crate) fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut args: Vec<OsString> = args.into_iter().collect();
        let first = args.get(1).map(|first| first.to_string_lossy().into_owned());
        let is_verb = |first: &str| matches!(first, "-V" | "--version") || Verb::has_subcommand(first);
        match first.as_deref() {
            Some(flag @ ("-h" | "--help")) => Err(Self::help(flag)),
            Some(first) if is_verb(first) => Self::try_parse_from(args),
            _ => {
                args.insert(args.len().min(1), "build".into());
                Self::try_parse_from(args)
            }
        }
    }

    /// The help without a verb: the verbs, and what `build` takes.
    fn help(flag: &str) -> clap::Error {
        let build = BuildArgs::augment_args(clap::Command::new("build"));
        let name = "rbuild";
        let command = Self::command()
            .subcommand_required(false)
            .args(build.get_arguments())
            .override_usage(format!("{name} [build] [OPTIONS] [CONTEXT]\n       {name} <COMMAND>"));
        match command.try_get_matches_from([name, flag]) {
            Err(help) => help,
            Ok(_) => Self::command().error(clap::error::ErrorKind::DisplayHelp, ""),
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Build an image from a Dockerfile and a context
    Build(Box<BuildArgs>),
    /// Check a Dockerfile against the lint rules
    Lint(LintArgs),
    /// Show how Dockerfiles are read
    Parse(ParseArgs),
    /// Copy images from registries into the store, or to where a node's runtime reads them
    Pull(PullArgs),
    /// Copy an image from the store or an OCI layout to a registry
    Push(PushArgs),
    /// Copy an image between registries, the store, OCI layouts and archives
    Copy(CopyArgs),
    /// List the images of the store
    Images(ImagesArgs),
    /// Show manifest and config of an image
    Inspect(InspectArgs),
    /// Keep credentials for a registry, or show which are found and why
    Login(LoginArgs),
    /// Forget the credentials kept for a registry
    Logout(LogoutArgs),
    /// Remove from the store what was not used for longest
    Gc(GcArgs),
    /// Look after caches in registries and directories
    Cache(CacheVerbArgs),
    /// Look after the store
    Store(StoreVerbArgs),
    /// Show what this host allows, and what would allow more
    Doctor(DoctorArgs),
    /// Serve the images of a Kubernetes node
    Cri(CriArgs),
    /// Show the version
    Version,
}

/// `rbuild build`.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The build context: a directory, a tar archive, `-` for standard input (a tar or a Dockerfile), a git repository or
    /// an http(s) URL
    #[arg(default_value = ".")]
    pub(crate) context: String,

    /// Path of the Dockerfile, `-` for standard input; default: CONTEXT/Dockerfile
    #[arg(short, long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,

    /// Name of the image; a name with a registry is pushed, a bare one stays in the store (repeatable)
    #[arg(short, long = "tag", value_name = "NAME")]
    pub(crate) tags: Vec<String>,

    /// Build this stage instead of the last
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,

    /// Set a build argument; without a value it is taken from the environment (repeatable)
    #[arg(long = "build-arg", value_name = "KEY[=VALUE]")]
    pub(crate) build_args: Vec<String>,

    /// Platforms of the image, as linux/arm64; several make an index; default: this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT],…")]
    pub(crate) platform: Vec<String>,

    /// Run every step, whatever the cache holds
    #[arg(long)]
    pub(crate) no_cache: bool,

    /// Run the steps of this stage, whatever the cache holds (repeatable)
    #[arg(long, value_name = "STAGE,…", value_delimiter = ',', conflicts_with = "no_cache")]
    pub(crate) no_cache_filter: Vec<String>,

    /// Say of every step that is not in the cache why not: which file, argument, base or flag changed
    #[arg(long)]
    pub(crate) explain: bool,

    /// Ask the registry for base images even when the store has them
    #[arg(long)]
    pub(crate) pull: bool,

    /// Set a label of the image (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,

    /// Set an annotation of the manifest (repeatable)
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    pub(crate) annotations: Vec<String>,

    /// Where the result goes: a directory, or type=image|registry|oci|docker|local|tar|cacheonly,key=value,… (repeatable)
    #[arg(short, long = "output", value_name = "OUTPUT")]
    pub(crate) outputs: Vec<String>,

    /// Attributes of the output that is implied when no --output is given, as compression=zstd,rewrite-timestamp=true
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub(crate) output_attrs: Option<String>,

    /// Push every tag, bare names to Docker Hub
    #[arg(long, conflicts_with = "no_push")]
    pub(crate) push: bool,

    /// Push nothing, keep the image in the store
    #[arg(long)]
    pub(crate) no_push: bool,

    /// Replace an image name by DIR, `oci-layout://PATH[:TAG]` or docker-image://REF (repeatable)
    #[arg(long = "build-context", value_name = "NAME=VALUE")]
    pub(crate) build_contexts: Vec<String>,

    /// How progress is shown on standard error
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto)]
    pub(crate) progress: ProgressMode,

    /// Print nothing but the digest
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Write the digest of the image config to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,

    /// Write digests and names of the result to a JSON file
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,

    /// Check the Dockerfile and build nothing; the same as --call=check
    #[arg(long)]
    pub(crate) check: bool,

    /// What to do instead of building: check, outline or targets, with `,format=json` for programs
    #[arg(long, value_name = "METHOD[,format=FORMAT]")]
    pub(crate) call: Option<String>,

    /// How many steps may run at the same time at most [default: the number of processors]
    #[arg(long, value_name = "COUNT")]
    pub(crate) jobs: Option<usize>,

    /// Disk space the store may take, as 20g: what was used least recently is removed first, a build that needs more fails
    #[arg(long, value_name = "SIZE", help_heading = "Store")]
    pub(crate) disk_limit: Option<String>,

    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) refused: RefusedArgs,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// What RUN steps get, and may do.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "RUN")]
pub(crate) struct RunArgs {
    /// Network of RUN steps
    #[arg(long, value_enum, default_value_t = NetworkMode::Default)]
    pub(crate) network: NetworkMode,
    /// Give a secret to the steps that mount it: id=ID[,src=FILE|,env=NAME] (repeatable)
    #[arg(long, value_name = "id=ID,…")]
    pub(crate) secret: Vec<String>,
    /// Let the steps that mount it use an SSH agent or private keys: default, ID=SOCKET or ID=KEY,… (repeatable)
    #[arg(long, value_name = "ID[=PATH,…]", num_args = 0..=1, default_missing_value = "default")]
    pub(crate) ssh: Vec<String>,
    /// Add a line to /etc/hosts of the steps (repeatable)
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(crate) add_host: Vec<String>,
    /// Limit a resource of the steps, as nofile=1024:2048 (repeatable)
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<String>,
    /// Size of /dev/shm, as 128m; default: 64m
    #[arg(long, value_name = "SIZE")]
    pub(crate) shm_size: Option<String>,
    /// Let the Dockerfile ask for network.host, security.insecure or device (repeatable)
    #[arg(long, value_name = "NAME")]
    pub(crate) allow: Vec<String>,
    /// How RUN steps are isolated; default: the strongest that works here (but supervised, which must be asked for)
    #[arg(long, value_name = "NAME")]
    pub(crate) isolation: Option<String>,
    /// A cgroup (version 2) in which every RUN gets one of its own; needs write access to it
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup_parent: Option<String>,
}

/// Options of docker's that are understood well enough to be refused by name.
#[derive(Debug, Default, Args)]
pub(crate) struct RefusedArgs {
    /// Only `false` is accepted: no provenance attestation is made
    #[arg(long, value_name = "false", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) provenance: Option<String>,
    /// Only `false` is accepted: no SBOM attestation is made
    #[arg(long, value_name = "false", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) sbom: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) load: bool,
    #[arg(long, hide = true)]
    pub(crate) attest: Vec<String>,
}

/// Where the store is.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct StoreArgs {
    /// Directory of the store; default: /var/lib/rbuild for root, else $XDG_DATA_HOME/rbuild
    #[arg(long, value_name = "DIR", env = "RBUILD_ROOT", help_heading = "Store")]
    pub(crate) root: Option<PathBuf>,
}

/// `rbuild lint`.
#[derive(Debug, Args)]
pub(crate) struct LintArgs {
    /// The build context: a directory
    #[arg(default_value = ".")]
    pub(crate) context: String,
    /// Path of the Dockerfile, `-` for standard input; default: CONTEXT/Dockerfile
    #[arg(short, long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
    /// Set a build argument; BUILDKIT_DOCKERFILE_CHECK stands in for `# check=` (repeatable)
    #[arg(long = "build-arg", value_name = "KEY[=VALUE]")]
    pub(crate) build_args: Vec<String>,
    /// How findings are printed
    #[arg(long, value_enum, default_value_t = LintFormat::Text)]
    pub(crate) format: LintFormat,
}

/// Values of `--format` of `rbuild lint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LintFormat {
    /// Source excerpts, for people
    Text,
    /// The document of docker's --call=check,format=json
    Json,
    /// SARIF 2.1.0, for code scanning services
    Sarif,
}

/// `rbuild parse`.
#[derive(Debug, Args)]
pub(crate) struct ParseArgs {
    /// The Dockerfiles, `-` for standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// text: findings with source excerpts; json: one object per file and line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// `rbuild push`.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Name of an image in the store, or an OCI layout directory as `DIR[:TAG]`
    #[arg(value_name = "SRC")]
    pub(crate) source: String,
    /// Name in the registry; default: SRC
    #[arg(value_name = "DST")]
    pub(crate) destination: Option<String>,
    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
}

const PLACES: &str = "SRC and DST: NAME or docker://NAME of a registry, store:NAME, oci:DIR[:TAG], \
    oci-archive:FILE[:TAG], docker-archive:FILE[:NAME].";

/// `rbuild copy`.
#[derive(Debug, Args)]
#[command(after_help = PLACES)]
pub(crate) struct CopyArgs {
    /// Where the image is
    #[arg(value_name = "SRC")]
    pub(crate) source: String,
    /// Where it goes
    #[arg(value_name = "DST")]
    pub(crate) destination: String,
    /// Copy the image of one platform out of a multi-platform one; default: all, for docker-archive this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]|all")]
    pub(crate) platform: Option<String>,
    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
}

/// What copies to and from registries have in common.
#[derive(Debug, Args)]
pub(crate) struct TransferArgs {
    /// Print nothing but the digest
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Write the digest of what was copied to a file
    #[arg(long, alias = "digest-file", value_name = "FILE")]
    pub(crate) digestfile: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// `rbuild images`.
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// text: a table; json: an array
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// `rbuild inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Name of an image, looked up in the store first, then in its registry
    #[arg(value_name = "REF")]
    pub(crate) name: String,
    /// Which platform of a multi-platform image; default: this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    /// text: a summary; json: descriptor, manifest and config
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// `rbuild gc`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["max_size", "keep_duration"])))]
pub(crate) struct GcArgs {
    /// Remove until the store takes no more disk space than this, as 20g; default: 0
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_size: Option<String>,
    /// Keep what was used within this time, as 48h, even if the store stays larger; default: 0
    #[arg(long, value_name = "DURATION")]
    pub(crate) keep_duration: Option<String>,
    /// Remove images that have a name too, when it is their turn
    #[arg(long)]
    pub(crate) all: bool,
    /// text: a table; json: one object
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// `rbuild store`.
#[derive(Debug, Args)]
pub(crate) struct StoreVerbArgs {
    #[command(subcommand)]
    pub(crate) verb: StoreVerb,
}

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreVerb {
    /// Compare every blob with its digest and look through every snapshot; exit code 1 if something is damaged
    Verify(VerifyArgs),
}

/// `rbuild store verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Remove what is damaged, so that it is fetched or built again
    #[arg(long)]
    pub(crate) remove: bool,
    /// text: lines; json: one object
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// `rbuild doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// text: a page; json: one object
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// Fail with code 4 when this isolation does not work here
    #[arg(long, value_name = "NAME")]
    pub(crate) isolation: Option<String>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) credentials: CredentialArgs,
}

/// Values of `--network`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkMode {
    /// The network of this host
    #[default]
    Default,
    /// Loopback only
    None,
    /// The network of this host
    Host,
}

/// Values of `--progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// tty on a terminal, plain elsewhere
    Auto,
    /// Lines
    Plain,
    /// A live view
    Tty,
    /// One JSON object per line
    Rawjson,
    /// Nothing
    Quiet,
}

/// Values of `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::from_args(std::iter::once("rbuild").chain(line.split_whitespace()).map(OsString::from))
    }

    #[test]
    fn clap_accepts_its_own_definition() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_verb_is_build() {
        let check = |line: &str, context: &str, file: Option<&str>| match parse(line).unwrap().verb {
            Verb::Build(args) => {
                assert_eq!((args.context.as_str(), args.file), (context, file.map(PathBuf::from)), "{line}");
            }
            other => panic!("{line}: {other:?}"),
        };
        check("", ".", None);
        check("dir", "dir", None);
        check("-f x dir", "dir", Some("x"));
        check("build -f x dir", "dir", Some("x"));
        check("dir -f x", "dir", Some("x"));
        check("./parse", "./parse", None);
        check("-- parse", "parse", None);
    }

    #[test]
    fn help_lists_verbs_and_the_options_of_build() {
        for flag in ["--help", "-h"] {
            let help = parse(flag).unwrap_err().to_string();
            for word in ["--file", "--tag", "[CONTEXT]", "  inspect", "Exit codes"] {
                assert!(help.contains(word), "{flag}: {help}");
            }
        }
    }

    #[test]
    fn docker_spellings_are_read() {
        let Verb::Build(args) =
            parse("-t a -t=b --tag c -oout -q --provenance=false --sbom . ").unwrap().verb
        else {
            panic!("not a build");
        };
        assert_eq!(args.tags, ["a", "b", "c"]);
        assert_eq!(args.outputs, ["out"]);
        assert!(args.quiet);
        assert_eq!(args.refused.provenance.as_deref(), Some("false"));
        assert_eq!((args.refused.sbom.as_deref(), args.context.as_str()), (Some("true"), "."));
    }

    #[test]
    fn mistakes_are_refused() {
        for line in ["--nope", "a b", "--push --no-push", "parse", "--progress loud", "push", "--jobs x"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
