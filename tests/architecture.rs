//! The directions between the crates, as ARCHITECTURE.md draws them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What each crate may use of the others.
const MAY_USE: &[(&str, &[&str])] = &[
    ("image", &[]),
    ("dockerfile", &[]),
    ("sandbox", &[]),
    ("layers", &["image"]),
    ("registry", &["image"]),
    ("test-registry", &["image"]),
    ("builder", &["dockerfile", "image", "layers", "registry", "sandbox"]),
    ("cri", &["image", "layers", "registry"]),
    ("cli", &["builder", "cri", "dockerfile", "image", "layers", "registry", "sandbox"]),
];

#[test]
fn crates_depend_only_downwards() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the folder of all crates");
    let allowed: BTreeMap<_, BTreeSet<_>> =
        MAY_USE.iter().map(|(name, uses)| (*name, uses.iter().copied().collect())).collect();
    for entry in std::fs::read_dir(crates).expect("crates") {
        let dir = entry.expect("an entry").path();
        let name = dir.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
        let allowed = allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in MAY_USE"));
        let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).expect("a manifest");
        let used = dependencies(&manifest);
        let used: BTreeSet<_> = used.iter().map(String::as_str).collect();
        assert!(used.is_subset(allowed), "{name} uses {used:?}, but may use {allowed:?} only");
    }
}

/// Our own crates in the `[dependencies]` of a manifest, without `rbuild-`.
fn dependencies(manifest: &str) -> Vec<String> {
    let section = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let lines = section.take_while(|line| !line.starts_with('['));
    let name = |line: &str| {
        line.split(['.', ' ', '=']).next().and_then(|name| name.strip_prefix("rbuild-")).map(str::to_owned)
    };
    lines.filter_map(name).collect()
}

#[test]
fn unsafe_code_is_in_the_sandbox_only() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the folder of all crates");
    let mut sources = Vec::new();
    for (name, _) in MAY_USE.iter().filter(|(name, _)| *name != "sandbox") {
        collect(&crates.join(name).join("src"), &mut sources);
    }
    assert!(sources.len() > 50, "{}", sources.len());
    for source in sources {
        let text = std::fs::read_to_string(&source).expect("UTF-8");
        assert!(!text.contains("unsafe_code"), "{} allows unsafe code", source.display());
    }
}

fn collect(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}
