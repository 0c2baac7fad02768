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
/// An absolute path stays as it was typed, `..` and doubled slashes included; a relative one is joined and cleaned but
/// keeps a final `/` or `/.`; an empty one is the directory itself. The directory may be relative or empty, which
/// counts from the root.
pub(super) fn absolute(directory: &str, path: &str) -> String {
    let directory = match directory {
        "" => "/".to_owned(),
        directory if directory.starts_with('/') => directory.to_owned(),
        directory => join("/", directory),
    };
    if path.is_empty() {
        return directory;
    }
    if path.starts_with('/') {
        return path.to_owned();
    }
    let mut joined = join(&directory, path);
    if path.ends_with('/') && !joined.ends_with('/') {
        joined.push('/');
    } else if path.ends_with("/.") {
        if !joined.ends_with('/') {
            joined.push('/');
        }
        joined.push('.');
    }
    joined
}

/// Makes the destination of a copy absolute; a final slash tells that it names a directory.
pub(super) fn destination(directory: &str, path: &str) -> String {
    let path = match path {
        "" | "." => "./",
        path => path,
    };
    let mut out = absolute(directory, path);
    if out.ends_with("/.") {
        out.pop();
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
            assert_eq!(absolute(directory, path), expect, "{path:?}")
        };
        check("/a", "b", "/a/b");
        check("/a", "b/", "/a/b/");
        check("/a", "../b/.", "/b/.");
        check("/a", "..", "/");
        check("/a", "../", "/");
        check("/a", "/b/../c/", "/b/../c/");
        check("/a", "", "/a");
        check("", "x", "/x");
        check("rel", "x", "/rel/x");
        check("/a", ".", "/a");
    }

    #[test]
    fn marks_directories() {
        let check = |directory: &str, path: &str, expect: &str| {
            assert_eq!(destination(directory, path), expect, "{path:?}")
        };
        check("/a", ".", "/a/");
        check("/a", "", "/a/");
        check("/", ".", "/");
        check("/a", "b/.", "/a/b/");
        check("/a", "/b/.", "/b/");
        check("/a", "/b", "/b");
        check("/a", "..", "/");
    }
}
