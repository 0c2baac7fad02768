//! Variables: what words expand against, and where their values come from.

use std::collections::BTreeMap;

use rbuild_image::Platform;

/// Arguments that configure the build and are never exported to `RUN`.
const NOT_EXPORTED: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Whether an argument stays out of the environment of `RUN`.
pub(super) fn is_exported(name: &str) -> bool {
    !NOT_EXPORTED.contains(&name)
}

/// Variables in order; setting one again moves it to the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Environment(Vec<(String, String)>);

impl Environment {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.0.retain(|(key, _)| key != name);
        self.0.push((name.to_owned(), value.to_owned()));
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub(super) fn into_entries(self) -> Vec<(String, String)> {
        self.0
    }
}

/// Splits `NAME=value` at the first `=`.
pub(super) fn split_entry(entry: &str) -> (&str, &str) {
    entry.split_once('=').unwrap_or((entry, ""))
}

/// Sets a variable in a config's list, in place where it is known.
pub(super) fn set_entry(entries: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    match entries.iter_mut().find(|entry| split_entry(entry).0 == name) {
        Some(found) => *found = entry,
        None => entries.push(entry),
    }
}

/// The predefined arguments: platforms and the target's name, overridden by `--build-arg`. What a
/// platform lacks is set and empty.
pub(super) fn predefined(
    build: &Platform,
    target: &Platform,
    target_stage: &str,
    build_args: &BTreeMap<String, String>,
) -> Environment {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let of = |prefix: &str, platform: &Platform| {
        [
            (format!("{prefix}PLATFORM"), platform.to_string()),
            (format!("{prefix}OS"), platform.os.clone()),
            (format!("{prefix}OSVERSION"), text(&platform.os_version)),
            (format!("{prefix}ARCH"), platform.architecture.clone()),
            (format!("{prefix}VARIANT"), text(&platform.variant)),
        ]
    };
    let stage = if target_stage.is_empty() { "default" } else { target_stage };
    let mut environment = Environment::default();
    for (name, value) in of("BUILD", build)
        .into_iter()
        .chain(of("TARGET", target))
        .chain([("TARGETSTAGE".to_owned(), stage.to_owned())])
    {
        environment.set(&name, build_args.get(&name).unwrap_or(&value));
    }
    environment
}

/// The proxy variables of a step, each in upper and lower case, in a fixed order.
///
/// They come from `--build-arg` in any case; of several spellings the last in byte order wins.
pub(super) fn proxies(build_args: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"] {
        let value =
            build_args.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            out.push((name.to_owned(), value.clone()));
            out.push((name.to_lowercase(), value.clone()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_moves_what_is_set_again() {
        let mut environment = Environment::default();
        for (name, value) in [("A", "1"), ("B", ""), ("C", "x=y")] {
            environment.set(name, value);
        }
        environment.set("A", "2");
        let expect =
            [("B", ""), ("C", "x=y"), ("A", "2")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(environment.into_entries(), expect);
    }

    #[test]
    fn config_keeps_the_place_of_what_is_set_again() {
        let mut entries = vec!["A=1".to_owned(), "B=2".to_owned()];
        set_entry(&mut entries, "A", "3");
        set_entry(&mut entries, "C", "");
        assert_eq!(entries, ["A=3", "B=2", "C="]);
    }

    #[test]
    fn proxies_come_in_both_cases() {
        let args =
            |pairs: &[(&str, &str)]| pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        let check = |pairs: &[(&str, &str)], expect: &[(&str, &str)]| {
            let expect: Vec<_> = expect.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
            assert_eq!(proxies(&args(pairs)), expect, "{pairs:?}");
        };
        check(&[], &[]);
        check(&[("no_proxy", "x")], &[("NO_PROXY", "x"), ("no_proxy", "x")]);
        check(
            &[("HTTP_PROXY", "a"), ("Http_Proxy", "b"), ("https_proxy", "")],
            &[("HTTP_PROXY", "b"), ("http_proxy", "b")],
        );
    }
}
