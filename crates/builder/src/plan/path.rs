//! Paths inside an image, as text: slash separated, never touching a file system.

/// Removes `.`, `..` and repeated slashes without looking at any file system.
///
/// # References
/// <https://pkg.go.dev/path#Clean>
pub(super) fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match (part, parts.last()) {
            ("" | ".", _) => {}
            ("..", None) if absolute => {}
            ("..", None | Some(&"..")) => parts.push(".."),
            ("..", Some(_)) => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    match (absolute, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// Joins two paths and cleans the result; empty ones count for nothing.
pub(super) fn join(parent: &str, path: &str) -> String {
    match (parent, path) {
        ("", path) => clean(path),
        (parent, "") => clean(parent),
        (parent, path) => clean(&format!("{parent}/{path}")),
    }
}

/// Makes a path absolute below a directory.
///
/// An absolute path stays as it was typed, `..`, doubled and final slashes included; a relative one is joined and
/// cleaned; an empty one is the directory itself. The directory may be relative or empty, which counts from the root.
pub(super) fn absolute(directory: &str, path: &str) -> String {
    match path {
        path if path.starts_with('/') => path.to_owned(),
        "" if directory.starts_with('/') => directory.to_owned(),
        path => join("/", &join(directory, path)),
    }
}

/// Makes the destination of a copy absolute and clean; a final slash tells that it names a directory.
pub(super) fn destination(directory: &str, path: &str) -> String {
    let names_directory = matches!(path, "" | ".") || path.ends_with('/') || path.ends_with("/.");
    let mut out = clean(&absolute(directory, path));
    if names_directory && !out.ends_with('/') {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans() {
        let check = |input: &str, expect: &str| assert_eq!(clean(input), expect, "{input:?}");
        check("", ".");
        check("/", "/");
        check("//a///b/./c/..", "/a/b");
        check("/../..", "/");
        check("../a/../..", "../..");
        check("a/..", ".");
    }

    #[test]
    fn makes_absolute() {
        let check = |directory: &str, path: &str, expect: &str| {
            assert_eq!(absolute(directory, path), expect, "{path:?}");
        };
        check("/a", "b", "/a/b");
        check("/a", "b/", "/a/b");
        check("/a/", "../b/.", "/b");
        check("/a", "..", "/");
        check("/a", "../", "/");
        check("/a", "/b/../c/", "/b/../c/");
        check("/a", "", "/a");
        check("/a/", "", "/a/");
        check("", "", "/");
        check("", "x", "/x");
        check("rel", "x", "/rel/x");
        check("/a", ".", "/a");
    }

    #[test]
    fn marks_directories() {
        let check = |directory: &str, path: &str, expect: &str| {
            assert_eq!(destination(directory, path), expect, "{path:?}");
        };
        check("/a", ".", "/a/");
        check("/a", "", "/a/");
        check("/", ".", "/");
        check("/a", "b/.", "/a/b/");
        check("/a", "/b/.", "/b/");
        check("/a", "/b", "/b");
        check("/a", "..", "/");
        check("/a", "/x/../b//", "/b/");
        check("/", "/", "/");
    }
}
