//! `--cache-from` and `--cache-to`: docker's syntax, and scopes.

use rbuild_builder::cache::remote::{CacheExport, CacheImport, CacheMode, CachePlace, CacheScope};
use rbuild_dockerfile::nearest;

use super::Usage;
use super::output::{fields, pairs, parse_bool};

const TYPES: [&str; 3] = ["registry", "local", "inline"];

/// Types of docker's that need a service's own protocol.
const SERVICES: [&str; 4] = ["gha", "s3", "azblob", "gcs"];

/// The keys of one cache that nobody took yet.
struct Keys(Vec<(String, String)>);

impl Keys {
    fn parse(option: &str, text: &str) -> Result<Self, Usage> {
        let fields =
            fields(text).ok_or_else(|| Usage::new(format!("{option} {text:?} has an open quote")))?;
        Ok(Self(pairs(text, &fields)?))
    }

    /// The last value of a key.
    fn take(&mut self, key: &str) -> Option<String> {
        self.take_all(key).pop()
    }

    /// All values of a key.
    fn take_all(&mut self, key: &str) -> Vec<String> {
        self.0.extract_if(.., |(found, _)| found == key).map(|(_, value)| value).collect()
    }

    fn finish(self, option: &str) -> Result<(), Usage> {
        const KNOWN: [&str; 6] = ["type", "ref", "src", "dest", "mode", "scope"];
        let Some((key, _)) = self.0.first() else { return Ok(()) };
        let error = Usage::new(format!("{option}: the key {key:?} is not known here"));
        Err(match nearest(key, KNOWN).filter(|near| near != key) {
            Some(near) => error.hint(format!("did you mean {near:?}?")),
            None => error,
        })
    }
}

/// Reads one `--cache-from`: a name, or `type=registry,ref=NAME` or `type=local,src=DIRECTORY`, with scopes.
///
/// Several scopes give one import each, in order.
pub(super) fn import(text: &str) -> Result<Vec<CacheImport>, Usage> {
    const OPTION: &str = "--cache-from";
    if !text.contains('=') {
        let (place, scope) = (CachePlace::Registry(super::reference(text)?), CacheScope::default());
        check(OPTION, &place, &scope)?;
        return Ok(vec![CacheImport { place, scope }]);
    }
    let mut keys = Keys::parse(OPTION, text)?;
    let kind = kind(OPTION, &mut keys)?;
    let scopes = keys.take_all("scope");
    let place = place(OPTION, &kind, &mut keys, "src")?.ok_or_else(|| {
        Usage::new("--cache-from type=inline is not known")
            .hint("an image with an inline cache is read with --cache-from type=registry,ref=IMAGE")
    })?;
    keys.finish(OPTION)?;
    let scopes = if scopes.is_empty() { vec!["default".to_owned()] } else { scopes };
    let import = |name: &String| {
        let scope = scope(OPTION, name)?;
        check(OPTION, &place, &scope)?;
        Ok(CacheImport { place: place.clone(), scope })
    };
    scopes.iter().map(import).collect()
}

/// Reads one `--cache-to`: `type=registry,ref=NAME`, `type=local,dest=DIRECTORY` or `type=inline`; a name alone is a registry's.
pub(super) fn export(text: &str) -> Result<CacheExport, Usage> {
    const OPTION: &str = "--cache-to";
    if !text.contains('=') && text != "inline" {
        let (place, scope) = (CachePlace::Registry(super::reference(text)?), CacheScope::default());
        check(OPTION, &place, &scope)?;
        return Ok(CacheExport::Place { place, scope, mode: CacheMode::Min });
    }
    let text = if text == "inline" { "type=inline" } else { text };
    let mut keys = Keys::parse(OPTION, text)?;
    let kind = kind(OPTION, &mut keys)?;
    let Some(place) = place(OPTION, &kind, &mut keys, "dest")? else {
        if keys.take("mode").is_some_and(|mode| mode != "min") {
            return Err(Usage::new(
                "--cache-to type=inline has mode min: an image holds its own layers only",
            )
            .hint("type=registry,ref=…,mode=max keeps those of all stages"));
        }
        keys.finish(OPTION)?;
        return Ok(CacheExport::Inline);
    };
    let mode = match keys.take("mode").as_deref() {
        None | Some("min") => CacheMode::Min,
        Some("max") => CacheMode::Max,
        Some(other) => return Err(Usage::new(format!("--cache-to mode {other:?} is neither min nor max"))),
    };
    let scope = keys.take("scope").map_or_else(|| Ok(CacheScope::default()), |name| scope(OPTION, &name))?;
    // These are what this cache is in any case.
    for key in ["oci-mediatypes", "image-manifest", "ignore-error"] {
        if let Some(value) = keys.take(key)
            && !parse_bool(key, &value)?
        {
            return Err(Usage::new(format!("--cache-to {key}={value} is not supported")));
        }
    }
    check(OPTION, &place, &scope)?;
    keys.finish(OPTION)?;
    Ok(CacheExport::Place { place, scope, mode })
}

/// Reads one `--cache-mounts-from` or `--cache-mounts-to`, whose directories are called `directory`.
pub(super) fn mounts(option: &str, directory: &str, text: &str) -> Result<CachePlace, Usage> {
    if !text.contains('=') {
        return place_of(text, None).map(|(place, _)| place);
    }
    let mut keys = Keys::parse(option, text)?;
    let kind = kind(option, &mut keys)?;
    let inline = || Usage::new(format!("{option} type=inline is not known"));
    let place = place(option, &kind, &mut keys, directory)?.ok_or_else(inline)?;
    check(option, &place, &CacheScope::default())?;
    keys.finish(option)?;
    Ok(place)
}

/// Reads the cache that `rbuild cache` is about.
pub(crate) fn place_of(text: &str, scope_name: Option<&str>) -> Result<(CachePlace, CacheScope), Usage> {
    let place = match super::split_layout(text) {
        (Some(directory), None) => CachePlace::Directory(directory.into()),
        // no name of a repository begins so, and the first write makes the directory
        _ if text.starts_with(['.', '/']) => CachePlace::Directory(text.into()),
        _ => CachePlace::Registry(super::reference(text)?),
    };
    let scope = scope_name.map_or_else(|| Ok(CacheScope::default()), |name| scope("--scope", name))?;
    check("cache", &place, &scope)?;
    Ok((place, scope))
}

fn kind(option: &str, keys: &mut Keys) -> Result<String, Usage> {
    let kind = keys.take("type");
    let missing = || Usage::new(format!("{option} has no type")).hint(format!("types: {}", TYPES.join(", ")));
    let kind = kind.ok_or_else(missing)?;
    if SERVICES.contains(&kind.as_str()) {
        return Err(Usage::new(format!("{option} type={kind} is not supported"))
            .hint("any registry can hold the cache: type=registry,ref=NAME"));
    }
    if TYPES.contains(&kind.as_str()) {
        return Ok(kind);
    }
    let unknown = Usage::new(format!("{option} type {kind:?} is not known"));
    Err(match nearest(&kind, TYPES) {
        Some(near) => unknown.hint(format!("did you mean {near:?}?")),
        None => unknown.hint(format!("types: {}", TYPES.join(", "))),
    })
}

/// Where; none within the image.
fn place(option: &str, kind: &str, keys: &mut Keys, directory: &str) -> Result<Option<CachePlace>, Usage> {
    let mut needed = |key: &str, what: &str| {
        let missing = || Usage::new(format!("{option} type={kind} needs {key}={what}"));
        keys.take(key).filter(|value| !value.is_empty()).ok_or_else(missing)
    };
    Ok(match kind {
        "registry" => Some(CachePlace::Registry(super::reference(&needed("ref", "NAME")?)?)),
        "local" => Some(CachePlace::Directory(needed(directory, "DIRECTORY")?.into())),
        _ => None,
    })
}

fn scope(option: &str, name: &str) -> Result<CacheScope, Usage> {
    name.parse().map_err(|error| Usage::new(format!("{option}: {error}")))
}

/// Finds out now whether names can be made of a reference and a scope.
fn check(option: &str, place: &CachePlace, scope: &CacheScope) -> Result<(), Usage> {
    if let CachePlace::Registry(name) = place
        && name.digest().is_some()
    {
        return Err(Usage::new(format!("{option} {name}: a cache has a tag, no digest")));
    }
    place.check(scope).map_err(|error| Usage::new(format!("{option}: {error}")).hint("give it a shorter tag"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_read_as_dockers() {
        let check = |text: &str, expect: &str| {
            let imports = import(text).expect("sound");
            let shown: Vec<String> =
                imports.iter().map(|import| format!("{} {}", import.place, import.scope)).collect();
            assert_eq!(shown.join(", "), expect, "{text}");
        };
        check("r.io/a:cache", "r.io/a:cache default");
        check("type=registry,ref=r.io/a", "r.io/a:latest default");
        check("type=registry,ref=r.io/a,scope=main,scope=pr", "r.io/a:latest main, r.io/a:latest pr");
        check("type=local,src=/tmp/c", "/tmp/c default");

        let registry = |scope: &str, mode| CacheExport::Place {
            place: CachePlace::Registry("r.io/a".parse().expect("a name")),
            scope: scope.parse().expect("a scope"),
            mode,
        };
        assert_eq!(export("r.io/a"), Ok(registry("default", CacheMode::Min)));
        assert_eq!(export("type=registry,ref=r.io/a,mode=max,scope=pr"), Ok(registry("pr", CacheMode::Max)));
        assert_eq!(
            export("type=registry,ref=r.io/a,oci-mediatypes=true,ignore-error=true"),
            export("r.io/a")
        );
        assert_eq!(export("type=inline"), Ok(CacheExport::Inline));
        assert_eq!(export("inline"), Ok(CacheExport::Inline));
    }

    #[test]
    fn mistakes_are_named() {
        let check = |outcome: Result<(), Usage>, expect: &str| {
            assert_eq!(outcome.expect_err("a mistake").to_string(), expect);
        };
        let from = |text: &str| import(text).map(drop);
        let to = |text: &str| export(text).map(drop);
        for service in SERVICES {
            check(to(&format!("type={service}")), &format!("--cache-to type={service} is not supported"));
            check(
                from(&format!("type={service},scope=x")),
                &format!("--cache-from type={service} is not supported"),
            );
        }
        check(to("type=registr,ref=a"), "--cache-to type \"registr\" is not known");
        check(to("ref=a"), "--cache-to has no type");
        check(to("type=registry"), "--cache-to type=registry needs ref=NAME");
        check(to("type=local,src=a"), "--cache-to type=local needs dest=DIRECTORY");
        check(from("type=local"), "--cache-from type=local needs src=DIRECTORY");
        check(from("type=inline"), "--cache-from type=inline is not known");
        check(
            to("type=inline,mode=max"),
            "--cache-to type=inline has mode min: an image holds its own layers only",
        );
        check(to("type=registry,ref=a,mode=all"), "--cache-to mode \"all\" is neither min nor max");
        check(
            to("type=registry,ref=a,image-manifest=false"),
            "--cache-to image-manifest=false is not supported",
        );
        let digest = format!("r.io/a@sha256:{}", "0".repeat(64));
        check(from(&digest), &format!("--cache-from {digest}: a cache has a tag, no digest"));
        let mounts = |text: &str| mounts("--cache-mounts-to", "dest", text).map(drop);
        check(mounts("type=inline"), "--cache-mounts-to type=inline is not known");
        check(mounts("type=local,src=a"), "--cache-mounts-to type=local needs dest=DIRECTORY");
        assert!(mounts("type=registry,ref=a,mode=max").is_err());
        assert!(mounts("./a").is_ok() && mounts("r.io/a").is_ok() && mounts("type=local,dest=a").is_ok());
        assert!(to("type=registry,ref=a,scope=a/b").is_err());
        assert!(to("type=registry,ref=a,colour=red").is_err());
        assert!(to(&format!("type=registry,ref=a:{}", "t".repeat(100))).is_err());
    }
}
