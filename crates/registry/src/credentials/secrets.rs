//! Kubernetes pull secrets as files.

use std::io;
use std::path::{Path, PathBuf};

use super::CredentialsError;

/// The keys of secrets of the types `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg`, and the name that
/// mounts of them often choose instead.
const NAMES: [&str; 3] = [".dockerconfigjson", "config.json", ".dockercfg"];

/// Lists the files of credentials that a path stands for, in the order of their names.
///
/// # References
/// <https://kubernetes.io/docs/concepts/configuration/secret/#docker-config-secrets>
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>, CredentialsError> {
    let failed = |source| CredentialsError::Read { path: path.to_owned(), source };
    if !path.metadata().map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = named(path);
    let directories = path.read_dir().and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed)?;
    // The `..data` and `..2026_11_20` of a volume hold what its links lead to.
    let shown = directories.iter().filter(|entry| !entry.file_name().to_string_lossy().starts_with(".."));
    let mut below: Vec<PathBuf> = shown.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    below.sort();
    found.extend(below.iter().flat_map(|directory| named(directory)));
    if found.is_empty() {
        return Err(CredentialsError::NoSecrets { path: path.to_owned() });
    }
    Ok(found)
}

fn named(directory: &Path) -> Vec<PathBuf> {
    NAMES.iter().map(|name| directory.join(name)).filter(|path| path.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_searched() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        assert!(matches!(files(root), Err(CredentialsError::NoSecrets { .. })));
        assert!(matches!(files(&root.join("none")), Err(CredentialsError::Read { .. })));
        for path in
            ["..2026/.dockerconfigjson", "b/.dockercfg", "a/.dockerconfigjson", "a/other", "c/d/config.json"]
        {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), "{}").unwrap();
        }
        std::os::unix::fs::symlink("..2026/.dockerconfigjson", root.join(".dockerconfigjson")).unwrap();
        let expect = [".dockerconfigjson", "a/.dockerconfigjson", "b/.dockercfg"];
        assert_eq!(files(root).unwrap(), expect.map(|path| root.join(path)));
        assert_eq!(files(&root.join("a/other")).unwrap(), [root.join("a/other")]);
    }
}
