//! From registry flags to a client.

use std::path::Path;

use anyhow::Context as _;
use rbuild_registry::{
    Client, ClientCertificate, ClientOptions, Credential, Credentials, CredentialsError, Fallback, Hosts,
    ShortNames,
};

use super::{Usage, key_value};
use crate::args::{CredentialArgs, FallbackMode, RegistryArgs};

/// Makes the client for all registries: the environment's credentials, the flags' exceptions.
///
/// # Errors
/// When a flag is malformed, or credentials or certificates cannot be read.
pub(crate) fn client(args: &RegistryArgs) -> anyhow::Result<Client> {
    client_as(args, credentials(args)?)
}

/// As [`client`], with these credentials.
pub(crate) fn client_as(args: &RegistryArgs, credentials: Credentials) -> anyhow::Result<Client> {
    Client::new(client_options(args, credentials)?).context("cannot set up the registry client")
}

/// The settings that [`client_as`] makes a client of.
pub(crate) fn client_options(args: &RegistryArgs, credentials: Credentials) -> anyhow::Result<ClientOptions> {
    let mut options = ClientOptions { credentials, hosts: hosts(args)?, ..ClientOptions::from_env() };
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
    for text in &args.token_services {
        let (registry, host) = key_value("--registry-token-service", text)?;
        let registry = check_host("--registry-token-service", registry)?;
        let host = check_host("--registry-token-service", host)?;
        options.token_services.entry(registry).or_default().insert(host);
    }
    for text in &args.client_certificates {
        let (host, files) = key_value("--registry-client-cert", text)?;
        let (certificate, key) = match files.split_once(',') {
            Some((certificate, key)) => (certificate.into(), Some(key.into())),
            None => (files.into(), None),
        };
        let host = check_host("--registry-client-cert", host)?;
        options.client_certificates.insert(host, ClientCertificate { certificate, key });
    }
    for text in &args.mirrors {
        // Docker Hub is what most mirrors are of.
        let (host, address) = text.split_once('=').unwrap_or(("docker.io", text));
        let host = check_host("--registry-mirror", host)?;
        options.mirrors.entry(host).or_default().push(address.to_owned());
    }
    options.fallback = match args.fallback {
        FallbackMode::Always => Fallback::Always,
        FallbackMode::Never => Fallback::Never,
    };
    options.user_agent = concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned();
    Ok(options)
}

/// The files that say how registries are reached: what flags name, then the environment's.
fn hosts(args: &RegistryArgs) -> Result<Hosts, Usage> {
    let mut hosts = Hosts::from_env();
    if let Some(file) = &args.registries_conf {
        hosts.registries_conf = Some(file.clone());
        hosts.drop_ins.clear();
        hosts.short_names = ShortNames::Taken;
        check_exists("--registries-conf", file)?;
    }
    for directory in args.hosts_dir.iter().rev() {
        check_exists("--hosts-dir", directory)?;
        hosts.trees.insert(0, directory.clone());
    }
    Ok(hosts)
}

/// All places of credentials: what flags name, then the environment's.
///
/// # Errors
/// When a flag is malformed or a file that it names cannot be read.
pub(crate) fn credentials(args: &RegistryArgs) -> Result<Credentials, Usage> {
    Ok(credentials_in_files(&args.credentials)?.with_helpers_of(&hosts(args)?))
}

/// As [`credentials`], without what `registries.conf` names.
pub(crate) fn credentials_in_files(args: &CredentialArgs) -> Result<Credentials, Usage> {
    let mut named = Credentials::none();
    // Each goes before those that are there; the first one given shall be first.
    for text in args.given.iter().rev() {
        let (scope, credential) = given(text)?;
        named = named.with(scope, credential);
    }
    if let Some(file) = &args.authfile {
        named = named.then(Credentials::from_file(file).map_err(|error| unusable("--authfile", &error))?);
    }
    for path in &args.pull_secrets {
        let secrets = Credentials::from_pull_secret(path);
        named = named.then(secrets.map_err(|error| unusable("--pull-secret", &error))?);
    }
    Ok(named.then(Credentials::from_env()))
}

fn unusable(option: &str, error: &CredentialsError) -> Usage {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Usage::new(format!("{option}: {error}{cause}"))
}

/// Reads a value of `--creds`. No message shows it: it may be the password alone.
fn given(text: &str) -> Result<(String, Credential), Usage> {
    let form = || Usage::new("--creds is not HOST[:PORT][/PATH]=USER:PASSWORD");
    let (scope, account) = text.split_once('=').ok_or_else(form)?;
    let (username, password) = account.split_once(':').ok_or_else(form)?;
    if scope.is_empty() || scope.contains(['@', ' ']) || scope.contains("://") || username.is_empty() {
        return Err(form());
    }
    let credential = Credential::Basic { username: username.to_owned(), password: password.to_owned() };
    Ok((scope.to_owned(), credential))
}

/// What is named must be there: a mirror that is not used because of a slip of the pen is hard to see.
fn check_exists(option: &str, path: &Path) -> Result<(), Usage> {
    let found = path.metadata().map(drop);
    found.map_err(|error| Usage::new(format!("{option} {}: {error}", path.display())))
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
    fn credentials_are_read_and_not_quoted() {
        let read = |text: &str| given(text).map_err(|usage| usage.to_string());
        let credential =
            |password: &str| Credential::Basic { username: "u".to_owned(), password: password.to_owned() };
        assert_eq!(
            read("r.example:5000/team=u:p=:q"),
            Ok(("r.example:5000/team".to_owned(), credential("p=:q")))
        );
        assert_eq!(read("r.example=u:"), Ok(("r.example".to_owned(), credential(""))));
        for text in
            ["u:hunter2", "r.example=hunter2", "=u:hunter2", "r.example=:hunter2", "https://r=u:hunter2"]
        {
            assert!(!read(text).unwrap_err().contains("hunter2"), "{text}");
        }
    }

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
