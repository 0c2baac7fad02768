//! podman's and CRI-O's `registries.conf`, version 2.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{HostsError, read};

/// Stands for podman's files of credentials among `credential-helpers`.
const AUTH_FILES: &str = "containers-auth.json";

/// What `registries.conf` and its drop-ins say together.
///
/// # References
/// containers-registries.conf(5), containers-registries.conf.d(5)
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Registries {
    #[serde(default, rename = "registry")]
    registries: Vec<Registry>,
    unqualified_search_registries: Option<Vec<String>>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    credential_helpers: Option<Vec<String>>,
}

/// One `[[registry]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Registry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    #[serde(rename = "mirror")]
    mirrors: Vec<Mirror>,
    mirror_by_digest_only: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: PullFromMirror,
}

/// Which names a mirror answers for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PullFromMirror {
    /// Every name.
    #[default]
    All,
    /// Names that pin a digest.
    DigestOnly,
    /// Names that do not.
    TagOnly,
}

/// Where a repository is to be had.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rewritten {
    /// In the order in which they are tried.
    pub(super) mirrors: Vec<(Location, PullFromMirror)>,
    pub(super) origin: Location,
}

/// A repository at a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    /// `HOST[:PORT]`.
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) insecure: bool,
}

impl Registries {
    /// Reads a file and the drop-ins of a directory, in the order of their names; later ones add registries and
    /// aliases, or replace those of the same name.
    pub(super) fn read(file: Option<&Path>, drop_ins: &[PathBuf]) -> Result<Self, HostsError> {
        let mut all = Self::default();
        let mut files: Vec<PathBuf> = file.map(Path::to_owned).into_iter().collect();
        for directory in drop_ins {
            let entries = directory.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
            let mut found: Vec<PathBuf> = entries
                .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
                .collect();
            found.sort();
            files.extend(found);
        }
        for path in files {
            let Some(text) = read(&path)? else { continue };
            let table: toml::Table =
                toml::from_str(&text).map_err(|source| HostsError::toml(&path, source))?;
            if table.contains_key("registries") {
                let what = "version 1 of the format; version 2 has [[registry]] tables".to_owned();
                return Err(HostsError::Invalid { path, what });
            }
            let read: Self = table.try_into().map_err(|source| HostsError::toml(&path, source))?;
            all.merge(read).map_err(|what| HostsError::Invalid { path, what })?;
        }
        Ok(all)
    }

    fn merge(&mut self, other: Self) -> Result<(), String> {
        for mut registry in other.registries {
            if registry.prefix.is_empty() {
                registry.prefix.clone_from(&registry.location);
            }
            registry.check()?;
            self.registries.retain(|known| known.prefix != registry.prefix);
            self.registries.push(registry);
        }
        self.aliases.extend(other.aliases);
        self.unqualified_search_registries =
            other.unqualified_search_registries.or(self.unqualified_search_registries.take());
        self.credential_helpers = other.credential_helpers.or(self.credential_helpers.take());
        Ok(())
    }

    /// Tells where a repository is to be had.
    ///
    /// # Errors
    /// The prefix that blocks it.
    pub(super) fn rewrite(&self, registry: &str, repository: &str) -> Result<Rewritten, String> {
        let name = format!("{registry}/{repository}");
        let own = |insecure| Location {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            insecure,
        };
        let fitting =
            self.registries.iter().filter_map(|entry| Some((prefix_length(&entry.prefix, &name)?, entry)));
        let Some((length, entry)) = fitting.max_by_key(|(_, entry)| entry.prefix.len()) else {
            return Ok(Rewritten { mirrors: Vec::new(), origin: own(false) });
        };
        if entry.blocked {
            return Err(entry.prefix.clone());
        }
        let rest = name.get(length..).unwrap_or_default();
        let location = |location: &str, insecure| {
            let joined = format!("{location}{rest}");
            let (registry, repository) = joined.split_once('/').unwrap_or((&joined, ""));
            Location { registry: registry.to_owned(), repository: repository.to_owned(), insecure }
        };
        let mirror = |mirror: &Mirror| {
            let of_registry = entry.mirror_by_digest_only && mirror.pull_from_mirror == PullFromMirror::All;
            let pulls = if of_registry { PullFromMirror::DigestOnly } else { mirror.pull_from_mirror };
            (location(&mirror.location, mirror.insecure), pulls)
        };
        let origin = match entry.location.is_empty() {
            true => own(entry.insecure),
            false => location(&entry.location, entry.insecure),
        };
        Ok(Rewritten { mirrors: entry.mirrors.iter().map(mirror).collect(), origin })
    }

    /// The credential programs that are asked about every registry, without `docker-credential-` in front.
    pub(super) fn credential_helpers(self) -> Vec<String> {
        let named = self.credential_helpers.unwrap_or_default();
        named.into_iter().filter(|name| name != AUTH_FILES).collect()
    }

    /// What a name without a registry may stand for here: an alias, or the name at each registry that is searched. None
    /// when these files do not say.
    pub(super) fn meanings(&self, short: &str) -> Vec<String> {
        let (name, suffix) = split_suffix(short);
        if let Some(alias) = self.aliases.get(name) {
            return vec![format!("{alias}{suffix}")];
        }
        let searched = self.unqualified_search_registries.iter().flatten();
        searched.map(|registry| format!("{registry}/{short}")).collect()
    }
}

impl Registry {
    fn check(&self) -> Result<(), String> {
        if self.prefix.is_empty() {
            return Err("a [[registry]] has neither `location` nor `prefix`".to_owned());
        }
        let mut locations = self.mirrors.iter().map(|mirror| &mirror.location).chain([&self.location]);
        if let Some(bad) = locations.find(|text| text.contains("://")) {
            return Err(format!("location `{bad}` has a scheme; it is HOST[:PORT][/PATH]"));
        }
        match self.mirrors.iter().any(|mirror| mirror.location.is_empty()) {
            true => Err(format!("a mirror of `{}` has no `location`", self.prefix)),
            false => Ok(()),
        }
    }
}

/// Splits `name:tag@digest` behind the name.
fn split_suffix(short: &str) -> (&str, &str) {
    let start = short.rfind('/').map_or(0, |slash| slash + 1);
    let end = short.get(start..).and_then(|last| last.find([':', '@'])).map_or(short.len(), |at| start + at);
    short.split_at(end)
}

/// How much of a name a prefix covers: whole components; `*.example` covers the host.
fn prefix_length(prefix: &str, name: &str) -> Option<usize> {
    let length = match prefix.strip_prefix("*.") {
        Some(suffix) => {
            let host = name.split('/').next().unwrap_or_default();
            let domain = host.split(':').next().unwrap_or_default();
            let fits = domain.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'));
            fits.then_some(host.len())?
        }
        None => name.starts_with(prefix).then_some(prefix.len())?,
    };
    let rest = name.get(length..)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registries(text: &str) -> Registries {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registries.conf");
        std::fs::write(&path, text).unwrap();
        Registries::read(Some(&path), &[]).unwrap()
    }

    #[test]
    fn names_are_rewritten_by_the_longest_prefix() {
        let conf = registries(
            r#"
            unqualified-search-registries = ["docker.io"]
            [[registry]]
            location = "docker.io"
            [[registry.mirror]]
            location = "m.example/hub"
            [[registry.mirror]]
            location = "n.example:5000"
            insecure = true
            pull-from-mirror = "digest-only"
            [[registry]]
            prefix = "docker.io/library"
            location = "lib.example/x"
            insecure = true
            [[registry]]
            prefix = "*.blocked.example"
            blocked = true
            [[registry]]
            prefix = "only.example"
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = "o.example"
            "#,
        );
        let check = |registry: &str, repository: &str, mirrors: &[(&str, PullFromMirror)], origin: &str| {
            let found = conf.rewrite(registry, repository).unwrap();
            let show = |location: &Location| {
                let sign = if location.insecure { "!" } else { "" };
                format!("{sign}{} {}", location.registry, location.repository)
            };
            let shown: Vec<_> =
                found.mirrors.iter().map(|(location, pulls)| (show(location), *pulls)).collect();
            let expect: Vec<_> = mirrors.iter().map(|(text, pulls)| ((*text).to_owned(), *pulls)).collect();
            assert_eq!((shown, show(&found.origin)), (expect, origin.to_owned()), "{registry}/{repository}");
        };
        use PullFromMirror::{All, DigestOnly};
        let hub = [("m.example hub/team/app", All), ("!n.example:5000 team/app", DigestOnly)];
        check("docker.io", "team/app", &hub, "docker.io team/app");
        check("docker.io", "library/debian", &[], "!lib.example x/debian");
        check(
            "docker.io",
            "librarys/debian",
            &[("m.example hub/librarys/debian", All), ("!n.example:5000 librarys/debian", DigestOnly)],
            "docker.io librarys/debian",
        );
        check("other.example:5000", "a", &[], "other.example:5000 a");
        check("only.example", "a", &[("o.example a", DigestOnly)], "only.example a");
        assert_eq!(conf.rewrite("a.blocked.example:5000", "x"), Err("*.blocked.example".to_owned()));
        assert!(conf.rewrite("blocked.example", "x").is_ok());
    }

    #[test]
    fn drop_ins_add_and_replace() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let drop_ins = root.join("registries.conf.d");
        std::fs::create_dir(&drop_ins).unwrap();
        std::fs::write(
            root.join("main"),
            "[[registry]]\nlocation = \"a.example\"\nblocked = true\n[aliases]\n\"x\" = \"a.example/x\"",
        )
        .unwrap();
        std::fs::write(
            drop_ins.join("1.conf"),
            "[[registry]]\nlocation = \"a.example\"\n[aliases]\n\"y\" = \"a.example/y\"",
        )
        .unwrap();
        std::fs::write(drop_ins.join("2.txt"), "nonsense").unwrap();
        let all = Registries::read(Some(&root.join("main")), std::slice::from_ref(&drop_ins)).unwrap();
        assert!(all.rewrite("a.example", "x").is_ok());
        assert_eq!(all.meanings("x:1"), ["a.example/x:1"]);
        assert_eq!(all.meanings("y@sha256:0"), ["a.example/y@sha256:0"]);
        assert_eq!(all.meanings("z"), [""; 0]);
        assert!(Registries::read(Some(&root.join("none")), &[]).is_ok());
    }

    #[test]
    fn credential_programs_are_those_of_the_last_file_that_names_some() {
        assert_eq!(registries("").credential_helpers(), [""; 0]);
        let files = registries("credential-helpers = [\"containers-auth.json\", \"one\"]");
        assert_eq!(files.credential_helpers(), ["one"]);
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("1.conf", "credential-helpers = [\"one\"]");
        write("2.conf", "credential-helpers = [\"two\", \"three\"]");
        write("3.conf", "unqualified-search-registries = []");
        let all = Registries::read(None, &[directory.path().to_owned()]).unwrap();
        assert_eq!(all.credential_helpers(), ["two", "three"]);
    }

    #[test]
    fn mistakes_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registries.conf");
        let check = |text: &str, expect: &str| {
            std::fs::write(&path, text).unwrap();
            let error = Registries::read(Some(&path), &[]).unwrap_err();
            let text = format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
            assert!(text.contains("registries.conf") && text.contains(expect), "{text}");
        };
        check("[registries.search]\nregistries = []", "version 1");
        check("[[registry]]\nblocked = true", "neither");
        check("[[registry]]\nlocation = \"https://a\"", "scheme");
        check("[[registry]]\nlocation = \"a\"\n[[registry.mirror]]\ninsecure = true", "no `location`");
        check("[[registry]]\nlocation = 1", "");
        check(
            "[[registry]]\nlocation = \"a\"\n[[registry.mirror]]\nlocation = \"b\"\npull-from-mirror = \"never\"",
            "",
        );
    }
}
