//! Credentials that come with a request, and the one host they are for.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rbuild_registry::Credential;

use crate::messages::cri::AuthConfig;

/// Reads the credential of a request to a registry; `None` when there is none, or when it is for another host.
///
/// As containerd has it, user name and password go before the identity token, that before `auth`; a registry token is
/// sent as it is.
///
/// # Errors
/// `auth` is not base64 of `user:password`.
pub(crate) fn credential(config: &AuthConfig, registry: &str) -> Result<Option<Credential>, &'static str> {
    if !config.server_address.is_empty() && host(&config.server_address) != registry {
        return Ok(None);
    }
    let basic = |username: &str, password: &str| {
        Some(Credential::Basic { username: username.to_owned(), password: password.to_owned() })
    };
    if !config.username.is_empty() || !config.password.is_empty() {
        return Ok(basic(&config.username, &config.password));
    }
    if !config.identity_token.is_empty() {
        return Ok(Some(Credential::IdentityToken(config.identity_token.clone())));
    }
    if !config.auth.is_empty() {
        // The decoder's own message is left out: it may quote the secret.
        let decoded =
            BASE64_STANDARD.decode(config.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let decoded = decoded.ok_or("the field `auth` is not base64")?;
        let (username, password) =
            decoded.split_once(':').ok_or("the field `auth` is not `user:password`")?;
        return Ok(basic(username, password.trim_end_matches('\0')));
    }
    if !config.registry_token.is_empty() {
        return Ok(Some(Credential::RegistryToken(config.registry_token.clone())));
    }
    Ok(None)
}

/// The registry that a server address means: `https://index.docker.io/v1/` is Docker Hub.
fn host(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or(rest) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_fields_and_their_order() {
        let check = |config: AuthConfig, expect: Result<Option<Credential>, &str>| {
            assert_eq!(credential(&config, "r.example:5000"), expect);
        };
        let basic = |user: &str, password: &str| {
            Ok(Some(Credential::Basic { username: user.into(), password: password.into() }))
        };
        let all = AuthConfig {
            username: "u".into(),
            password: "p".into(),
            auth: BASE64_STANDARD.encode("a:b\0"),
            server_address: "https://r.example:5000/v2/".into(),
            identity_token: "i".into(),
            registry_token: "t".into(),
        };
        check(all.clone(), basic("u", "p"));
        let all = AuthConfig { username: String::new(), password: String::new(), ..all };
        check(all.clone(), Ok(Some(Credential::IdentityToken("i".into()))));
        let all = AuthConfig { identity_token: String::new(), ..all };
        check(all.clone(), basic("a", "b"));
        check(AuthConfig { auth: "!".into(), ..all.clone() }, Err("the field `auth` is not base64"));
        let all = AuthConfig { auth: String::new(), ..all };
        check(all.clone(), Ok(Some(Credential::RegistryToken("t".into()))));
        check(AuthConfig { server_address: "other.example".into(), ..all.clone() }, Ok(None));
        check(AuthConfig { server_address: "r.example".into(), ..all }, Ok(None));
        check(AuthConfig::default(), Ok(None));
    }

    #[test]
    fn hosts() {
        assert_eq!(host("https://index.docker.io/v1/"), "docker.io");
        assert_eq!(host("docker.io"), "docker.io");
        assert_eq!(host("http://r.example:5000"), "r.example:5000");
    }
}
