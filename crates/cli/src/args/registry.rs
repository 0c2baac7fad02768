//! What was typed about registries.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// How registries are spoken to.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Registries")]
pub(crate) struct RegistryArgs {
    /// Speak plain HTTP to this registry; localhost needs no flag (repeatable)
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]")]
    pub(crate) insecure: Vec<String>,
    /// Accept any certificate of this registry (repeatable)
    #[arg(long = "skip-tls-verify-registry", value_name = "HOST[:PORT]")]
    pub(crate) skip_tls_verify: Vec<String>,
    /// Trust the certificate authorities of a PEM file for this registry (repeatable)
    #[arg(long = "registry-ca", value_name = "HOST[:PORT]=FILE")]
    pub(crate) ca: Vec<String>,
    /// Show this certificate to a registry that asks for one; both in one PEM file when there is no KEY (repeatable)
    #[arg(long = "registry-client-cert", value_name = "HOST[:PORT]=CERT[,KEY]")]
    pub(crate) client_certificates: Vec<String>,
    /// Pull from a mirror of the registry first, else of Docker Hub; a path goes before the repository (repeatable)
    #[arg(long = "registry-mirror", value_name = "[HOST[:PORT]=]ADDRESS")]
    pub(crate) mirrors: Vec<String>,
    /// Whether a registry that has mirrors is asked when they fail
    #[arg(long = "registry-fallback", value_enum, default_value_t = FallbackMode::Always, value_name = "WHEN")]
    pub(crate) fallback: FallbackMode,
    /// Read podman's registries.conf from here instead of the usual places
    #[arg(long, value_name = "FILE", env = "CONTAINERS_REGISTRIES_CONF")]
    pub(crate) registries_conf: Option<PathBuf>,
    /// Look for HOST_PORT_/hosts.toml and HOST:PORT/*.crt in this directory first, as in containerd's certs.d (repeatable)
    #[arg(long, value_name = "DIR")]
    pub(crate) hosts_dir: Vec<PathBuf>,
    /// Send the credentials of a registry to this token service, which is of another domain (repeatable)
    #[arg(long = "registry-token-service", value_name = "HOST[:PORT]=HOST")]
    pub(crate) token_services: Vec<String>,
    // Last: its heading is for all that follows.
    #[command(flatten)]
    pub(crate) credentials: CredentialArgs,
}

/// Who we are at registries.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Credentials")]
pub(crate) struct CredentialArgs {
    /// Credentials of a registry or of what is below a path of it; other users of this machine can see them (repeatable)
    #[arg(long = "creds", value_name = "HOST[:PORT][/PATH]=USER:PASSWORD")]
    pub(crate) given: Vec<String>,
    /// Look for credentials in this file first, in the form of Docker's config.json or podman's auth.json
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
    /// Look for credentials in Kubernetes pull secrets: a file, or a mounted secret (repeatable)
    #[arg(long = "pull-secret", value_name = "FILE|DIR")]
    pub(crate) pull_secrets: Vec<PathBuf>,
}

/// Values of `--registry-fallback`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum FallbackMode {
    /// After its mirrors
    #[default]
    Always,
    /// Not for pulls; pushes go there all the same
    Never,
}

/// `rbuild login`.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// The registry, or a path below it (registry.example/team); with --explain the name of an image; default: Docker Hub
    #[arg(value_name = "REGISTRY|REF")]
    pub(crate) name: Option<String>,
    /// User name
    #[arg(short, long, value_name = "NAME", required_unless_present = "explain")]
    pub(crate) username: Option<String>,
    /// Read the password from standard input, which is the only way to give it
    #[arg(long, required_unless_present = "explain")]
    pub(crate) password_stdin: bool,
    /// Show every place that is searched for the image's credentials and what came of it; nothing is changed
    #[arg(long, requires = "name", conflicts_with_all = ["username", "password_stdin"])]
    pub(crate) explain: bool,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// `rbuild logout`.
#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// The registry, or a path below it; default: Docker Hub
    #[arg(value_name = "REGISTRY")]
    pub(crate) name: Option<String>,
    /// The file to forget them in; default: $DOCKER_CONFIG/config.json, $REGISTRY_AUTH_FILE or ~/.docker/config.json
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
}
