//! What lint rules say of single instructions when variables have their values.

use rbuild_dockerfile::Span;
use rbuild_dockerfile::lint::{
    EXPOSE_INVALID_FORMAT, EXPOSE_PROTO_CASING, JSON_ARGS_RECOMMENDED, LEGACY_KEY_VALUE_FORMAT,
    MULTIPLE_INSTRUCTIONS_DISALLOWED, Rule, SECRETS_USED_IN_ARG_OR_ENV, WORKDIR_RELATIVE_PATH,
};

use super::go_format::quoted;

/// Words that make a name a secret's.
const SECRET: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];

/// Words that say the secret itself is elsewhere.
const HARMLESS: [&str; 3] = ["public", "file", "version"];

/// Tells whether a variable of this name is likely to hold a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    let any = |words: &[&str]| name.split('_').any(|part| words.contains(&part));
    any(&SECRET) && !any(&HARMLESS)
}

/// What a rule has to say of an instruction.
#[derive(Debug)]
pub(super) struct Remark {
    pub(super) rule: Rule,
    pub(super) message: String,
    /// Where it belongs, if not to the instruction that is looked at.
    pub(super) elsewhere: Option<Span>,
}

impl Remark {
    fn new(rule: &Rule, message: String) -> Self {
        Self { rule: *rule, message, elsewhere: None }
    }

    /// A pair written `key value`.
    pub(super) fn legacy_pair(keyword: &str) -> Self {
        let message = format!(
            "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
        );
        Self::new(&LEGACY_KEY_VALUE_FORMAT, message)
    }

    /// A variable that probably holds a secret.
    pub(super) fn secret(keyword: &str, name: &str) -> Option<Self> {
        let message =
            format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {})", quoted(name));
        is_secret(name).then(|| Self::new(&SECRETS_USED_IN_ARG_OR_ENV, message))
    }

    /// A command line for the default shell.
    pub(super) fn shell_form(keyword: &str) -> Self {
        let message = format!(
            "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
        );
        Self::new(&JSON_ARGS_RECOMMENDED, message)
    }

    /// An earlier instruction that has no effect.
    pub(super) fn repeated(keyword: &str, earlier: Span) -> Self {
        let message = format!(
            "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
        );
        Self { elsewhere: Some(earlier), ..Self::new(&MULTIPLE_INSTRUCTIONS_DISALLOWED, message) }
    }

    /// The first `WORKDIR`, when it is relative.
    pub(super) fn relative_directory(path: &str) -> Self {
        let message = format!(
            "Relative workdir {} can have unexpected results if the base image changes",
            quoted(path)
        );
        Self::new(&WORKDIR_RELATIVE_PATH, message)
    }

    /// A word of `EXPOSE`.
    pub(super) fn of_port(port: &str) -> Vec<Self> {
        let (host, container) = port.rsplit_once(':').unwrap_or(("", port));
        let protocol = container.split_once('/').map_or("", |(_, protocol)| protocol);
        let mut found = Vec::new();
        if protocol != protocol.to_lowercase() {
            let message = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
            found.push(Self::new(&EXPOSE_PROTO_CASING, message));
        }
        if host.chars().any(|c| c != ':') {
            let message = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
            );
            found.push(Self::new(&EXPOSE_INVALID_FORMAT, message));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets() {
        for name in ["TOKEN", "GPG_KEY", "my_password", "AUTH_X", "a_ApiKey_b"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["KEYS", "TOKEN_FILE", "PUBLIC_KEY", "KEY_VERSION", "MONKEY", "", "API-KEY"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
