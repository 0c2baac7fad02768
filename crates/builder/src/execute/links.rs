//! Where a path leads in a tree that is only known by looking up one path at a time.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use rbuild_layers::{Follow, Kind, Meta, RootError};

/// The kernel's own bound on links in one path walk.
const MAX_LINKS: usize = 40;

/// Follows symbolic links below the root, clamping absolute links and `..` there; what does not exist is kept.
///
/// # Errors
/// [`RootError::TooManyLinks`], and what `lookup` returns.
///
/// # References
/// `path_resolution(7)`
pub(crate) fn resolve(
    lookup: &dyn Fn(&Path) -> Result<Option<Meta>, RootError>,
    path: &Path,
    follow: Follow,
) -> Result<PathBuf, RootError> {
    let mut left: VecDeque<OsString> = VecDeque::new();
    prepend(&mut left, path);
    let (mut at, mut links) = (PathBuf::new(), 0);
    while let Some(component) = left.pop_front() {
        if component == ".." {
            at.pop();
            continue;
        }
        let candidate = at.join(&component);
        let followed = follow == Follow::All || !left.is_empty();
        let meta = if followed { lookup(&candidate)? } else { None };
        let Some(Meta { kind: Kind::Symlink(target), .. }) = meta else {
            at = candidate;
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(RootError::TooManyLinks { path: path.to_owned() });
        }
        let target = Path::new(&target);
        if target.is_absolute() {
            at = PathBuf::new();
        }
        prepend(&mut left, target);
    }
    Ok(at)
}

fn prepend(left: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => left.push_front(name.to_owned()),
            Component::ParentDir => left.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_links_below_the_root() {
        let lookup = |path: &Path| {
            let target = match path.to_str() {
                Some("abs") => "/real/dir",
                Some("rel") => "real/../other",
                Some("up") => "../../../etc",
                Some("loop") => "loop",
                _ => return Ok(Some(Meta::default_directory())),
            };
            Ok(Some(Meta::new(Kind::Symlink(target.into()), 0o777)))
        };
        let check = |path: &str, follow: Follow, expect: Option<&str>| {
            let got = resolve(&lookup, Path::new(path), follow).ok();
            assert_eq!(got.as_deref(), expect.map(Path::new), "{path}");
        };
        check("/a/b", Follow::All, Some("a/b"));
        check("a/../../b", Follow::All, Some("b"));
        check("/abs/x", Follow::All, Some("real/dir/x"));
        check("abs", Follow::Parents, Some("abs"));
        check("abs", Follow::All, Some("real/dir"));
        check("rel/x", Follow::Parents, Some("other/x"));
        check("up/passwd", Follow::All, Some("etc/passwd"));
        check("loop/x", Follow::All, None);
        check("loop", Follow::Parents, Some("loop"));
        check("/", Follow::All, Some(""));
    }
}
