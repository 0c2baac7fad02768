//! Descriptions of devices (CDI) that this host has for `RUN --device`.

use std::path::{Path, PathBuf};

/// Where the descriptions are.
///
/// # References
/// Container Device Interface, "How to configure CDI"
pub(crate) const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Lists the files that describe devices, sorted; a directory that cannot be read has none.
pub(crate) fn specifications<P: AsRef<Path>>(directories: &[P]) -> Vec<PathBuf> {
    let entries =
        directories.iter().filter_map(|directory| std::fs::read_dir(directory).ok()).flatten().flatten();
    let is_description = |path: &PathBuf| {
        path.extension().is_some_and(|extension| ["json", "yaml"].iter().any(|known| extension == *known))
    };
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_description).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_files_of_two_kinds() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.json", "a.yaml", "c.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = specifications(&[dir.path().to_owned(), dir.path().join("missing")]);
        assert_eq!(found, [dir.path().join("a.yaml"), dir.path().join("b.json")]);
    }
}
