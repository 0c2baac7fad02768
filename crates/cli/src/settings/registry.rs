//! From registry flags to a client.

use anyhow::Context as _;
use rbuild_registry::{Client, ClientOptions};

use super::{Usage, key_value};
use crate::args::RegistryArgs;

/// Makes the client for all registries: the environment's credentials, the flags' exceptions.
///
/// # Errors
/// When a flag is malformed, or credentials or certificates cannot be read.
pub(crate) fn client(args: &RegistryArgs) -> anyhow::Result<Client> {
    let mut options = ClientOptions::from_env();
    options.insecure.extend(
        args.insecure
            .iter()
            .map(|host| check_host("--insecure-registry", host))
            .collect::<Result<Vec<_>, _>>()?,
    );
    options.skip_tls_verify.extend(
        args.skip_tls_verify
            .iter()
            .map(|host| check_host("--skip-tls-verify-registry", host))
            .collect::<Result<Vec<_>, _>>()?,
    );
    for text in &args.ca {
        let (host, file) = key_value("--registry-ca", text)?;
        options.ca.insert(check_host("--registry-ca", host)?, file.into());
    }
    options.user_agent = concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned();
    Client::new(options).context("cannot set up the registry client")
}

/// Refuses a URL or a repository where a host is meant: it would never match.
fn check_host(option: &str, host: &str) -> Result<String, Usage> {
    if host.is_empty() || host.contains(['/', '=', ' ']) {
        let bare = host.split_once("://").map_or(host, |(_, rest)| rest);
        let bare = bare.split('/').next().unwrap_or_default();
        return Err(Usage::new(format!("{option} {host:?} is not HOST[:PORT]"))
            .hint(format!("write {option} {bare}")));
    }
    Ok(host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_are_taken() {
        let check = |host: &str, expect: Result<&str, &str>| {
            let got = check_host("--insecure-registry", host).map_err(|usage| usage.hint.unwrap());
            assert_eq!(got, expect.map(str::to_owned).map_err(str::to_owned));
        };
        check("reg.local:5000", Ok("reg.local:5000"));
        check("http://reg.local:5000/", Err("write --insecure-registry reg.local:5000"));
        check("reg.local/team", Err("write --insecure-registry reg.local"));
    }
}
