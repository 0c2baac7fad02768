//! Copying over real directories, checked against the rules of BuildKit's copy.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rbuild_layers::{Changes, Entry, Kind, Root, Store, Time, View};
use rbuild_sandbox::Cancel;

use super::copy;
use super::draft::Draft;
use super::host_credentials::HostCredentials;
use super::remote::Remotes;
use super::tree::Tree;
use crate::context::{ContextDir, Git};
use crate::plan::{CopyKind, CopySource, CopyStep, Source};

/// A tree from lines: `d/` is a directory, `f` a file, `l -> t` a symbolic link, `h = f` a hard link; `:700` a mode,
/// `@9` a time.
fn plant(root: &Path, lines: &[&str]) {
    for line in lines {
        let (path, mode) = line.split_once(':').map_or((*line, None), |(path, mode)| (path, Some(mode)));
        let (path, time) = path.split_once('@').map_or((path, None), |(path, time)| (path, Some(time)));
        let name = path.split(' ').next().unwrap_or_default();
        let at = root.join(name);
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent).unwrap();
        }
        if let Some((_, target)) = path.split_once(" -> ") {
            symlink(target, &at).unwrap();
        } else if let Some((_, target)) = path.split_once(" = ") {
            fs::hard_link(root.join(target), &at).unwrap();
        } else if name.ends_with('/') {
            fs::create_dir_all(&at).unwrap();
        } else {
            fs::write(&at, at.file_name().unwrap().as_encoded_bytes()).unwrap();
        }
        if let Some(time) = time {
            let time = UNIX_EPOCH + Duration::from_secs(time.parse().unwrap());
            fs::File::open(&at).unwrap().set_modified(time).unwrap();
        }
        if let Some(mode) = mode {
            let mode = u32::from_str_radix(mode, 8).unwrap();
            fs::set_permissions(&at, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

/// The entries of a layer: path, `/` for directories with a mode other than 755, link targets, owners other than 0:0.
fn show(changes: &Changes) -> String {
    let one = |(path, entry): (&Path, &Entry)| {
        let path = path.display();
        match entry {
            Entry::HardLink(target) => format!("{path}={}", target.display()),
            Entry::Whiteout => format!("{path}!"),
            Entry::Opaque(_) => format!("{path}/!"),
            Entry::Node { meta, .. } => {
                let owner = if (meta.uid, meta.gid) == (0, 0) {
                    String::new()
                } else {
                    format!("@{}:{}", meta.uid, meta.gid)
                };
                match &meta.kind {
                    Kind::Directory if meta.mode == 0o755 => format!("{path}/{owner}"),
                    Kind::Directory => format!("{path}/{:o}{owner}", meta.mode),
                    Kind::Symlink(target) => format!("{path}->{}{owner}", target.display()),
                    _ if meta.mode == 0o644 => format!("{path}{owner}"),
                    _ => format!("{path}:{:o}{owner}", meta.mode),
                }
            }
        }
    };
    changes.iter().map(one).collect::<Vec<_>>().join(" ")
}

struct Case<'a> {
    context: &'a [&'a str],
    rootfs: &'a [&'a str],
    step: CopyStep,
}

fn step(sources: &[&str], destination: &str) -> CopyStep {
    CopyStep {
        from: Source::Context,
        sources: sources.iter().map(|source| CopySource::Pattern((*source).to_owned())).collect(),
        destination: destination.to_owned(),
        chown: None,
        chmod: None,
        link: false,
        parents: false,
        exclude: Vec::new(),
        kind: CopyKind::Copy,
    }
}

fn run(case: &Case<'_>) -> Result<String, String> {
    run_all(case.context, case.rootfs, std::slice::from_ref(&case.step)).remove(0)
}

/// What each of the steps of one stage says.
fn run_all(context_lines: &[&str], lines: &[&str], steps: &[CopyStep]) -> Vec<Result<String, String>> {
    let (context, rootfs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    plant(context.path(), context_lines);
    plant(rootfs.path(), lines);
    let tree = Tree::Context(Arc::new(ContextDir::open(context.path(), None).unwrap()));
    let mut draft = Draft::new(View::directory(Root::open(rootfs.path()).unwrap()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let store = Store::open(elsewhere.path()).unwrap();
    let _inside = runtime.enter();
    let remotes = Remotes::new(store, None, Git::default(), HostCredentials::default(), Cancel::new());
    let making =
        copy::Making { now: Time::seconds(0), scratch: Path::new("/nonexistent"), remotes: &remotes };
    let mut one = |step: &CopyStep| match copy::run(step, &tree, &mut draft, making) {
        Ok(changes) => {
            let shown = show(&changes);
            draft.keep(changes);
            Ok(shown)
        }
        Err(error) => Err(std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string)),
    };
    steps.iter().map(&mut one).collect()
}

#[test]
fn copies_as_buildkit_does() {
    let check = |context: &[&str],
                 rootfs: &[&str],
                 sources: &[&str],
                 destination: &str,
                 expect: Result<&str, &str>| {
        let case = Case { context, rootfs, step: step(sources, destination) };
        let expect = expect.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(run(&case), expect, "{sources:?} {destination} over {rootfs:?}");
    };
    // Files and where they land.
    check(&["f"], &[], &["f"], "/g", Ok("g"));
    check(&["f"], &[], &["f"], "/a/b/", Ok("a/ a/b/ a/b/f"));
    check(&["f"], &["d/"], &["f"], "/d", Ok("d/ d/f"));
    check(&["f"], &["d/:700"], &["f"], "/d/", Ok("d/700 d/f"));
    check(&["f:4755"], &[], &["f"], "/f", Ok("f:4755"));
    check(&["f"], &["g/"], &["f"], "/g/f", Ok("g/ g/f"));
    check(&["f@9"], &["f@9"], &["f"], "/f", Ok(""));
    check(&["f@9"], &["f@8"], &["f"], "/f", Ok("f"));
    check(&["d/f@9", "d/g"], &["e/f@9"], &["d"], "/e", Ok("e/ e/g"));
    // Links to a file that is no change, which the layer has for them; names that are one file already.
    let linked = ["d/f@9", "d/h = d/f", "d/i = d/f"];
    check(&linked, &["e/f@9"], &["d"], "/e", Ok("e/ e/f e/h=e/f e/i=e/f"));
    check(&linked, &["e/f@9", "e/h = e/f"], &["d"], "/e", Ok("e/ e/f e/h=e/f e/i=e/f"));
    check(&linked, &["e/f@9", "e/h = e/f", "e/i = e/f"], &["d"], "/e", Ok(""));
    check(
        &linked,
        &["e/f@9", "e/h = e/f", "e/i = e/f", "o = e/f"],
        &["d"],
        "/e",
        Ok("e/ e/f e/h=e/f e/i=e/f"),
    );
    check(&linked, &["e/f@9", "e/h@9", "e/i = e/h"], &["d"], "/e", Ok("e/ e/f e/h=e/f e/i=e/f"));
    // One of several names parts from the others.
    check(&["f@9"], &["f@9", "h = f"], &["f"], "/f", Ok("f"));
    check(&["f@9", "h = f"], &["f@9", "h = f"], &["f", "h"], "/", Ok("f h"));
    check(&["f@9", "h = f"], &[], &["f", "h", "f"], "/", Ok("f h"));
    check(&["f", "g"], &[], &["f", "g"], "/x", Ok("x"));
    check(&["f"], &[], &["../../f"], "/f", Ok("f"));
    check(&["f"], &[], &["missing"], "/f", Err("`missing` not found"));
    check(&["f"], &["d/f/"], &["f"], "/d/", Err("cannot replace directory `/d/f` with a file"));
    check(&["f"], &["x"], &["f"], "/x/", Err("cannot copy to non-directory: `/x`"));
    // Directories are merged.
    check(&["d/a", "d/s/b"], &[], &["d"], "/e", Ok("e/ e/a e/s/ e/s/b"));
    check(&["d/a", "d/:700"], &[], &["d"], "/e/", Ok("e/ e/a"));
    check(&["d/s/:700", "d/s/a"], &["e/s/b"], &["d"], "/e", Ok("e/ e/s/700 e/s/a"));
    check(&["d/s/a"], &["e/s"], &["d"], "/e", Err("cannot copy to non-directory: `/e/s`"));
    check(&["d/a"], &["e"], &["d"], "/e", Err("cannot copy to non-directory: `/e`"));
    check(&["a", "d/b"], &[], &["."], "/", Ok("a d/ d/b"));
    check(&["d/"], &[], &["d"], "/e/f", Ok("e/ e/f/"));
    // Wildcards.
    check(&["d/a", "d/b", "d/s/c"], &[], &["d/*"], "/e/", Ok("e/ e/a e/b e/c"));
    check(&["a1", "a2", "b"], &[], &["a?"], "/e/", Ok("e/ e/a1 e/a2"));
    check(&["a"], &[], &["nomatch*"], "/x/", Ok(""));
    check(&["x/1/f", "x/2/g"], &[], &["x/*/[fg]"], "/e/", Ok("e/ e/f e/g"));
    // Symbolic links: followed as source, kept in trees, followed in the destination.
    check(&["f", "l -> f"], &[], &["l"], "/e/", Ok("e/ e/l"));
    check(&["d/a", "l -> d"], &[], &["l"], "/e/", Ok("e/ e/a"));
    check(&["d/l -> nowhere"], &[], &["d"], "/e/", Ok("e/ e/l->nowhere"));
    check(&["f"], &["real/", "l -> real"], &["f"], "/l/", Ok("real/ real/f"));
    check(&["f"], &["real/", "l -> /real"], &["f"], "/l/x/", Ok("real/ real/x/ real/x/f"));
    check(&["f"], &["l -> ../../../x/y"], &["f"], "/l", Ok("x/ x/y"));
    // Hard links stay within one source.
    check(&["d/a", "d/b = d/a"], &[], &["d"], "/e/", Ok("e/ e/a e/b=e/a"));
    check(&["d/a", "d/b = d/a", "z/a"], &[], &["d", "z"], "/e/", Ok("e/ e/a e/b"));
    check(&["d/a", "d/b = d/a"], &[], &["d", "d/a"], "/e/", Ok("e/ e/a e/b"));
}

#[test]
fn obeys_the_flags() {
    let check =
        |context: &[&str], rootfs: &[&str], change: &dyn Fn(&mut CopyStep), expect: Result<&str, &str>| {
            let mut step = step(&["d"], "/e/");
            change(&mut step);
            let case = Case { context, rootfs, step };
            assert_eq!(run(&case), expect.map(str::to_owned).map_err(str::to_owned), "{:?}", case.step);
        };
    let sources =
        |step: &mut CopyStep, source: &str| step.sources = vec![CopySource::Pattern(source.to_owned())];
    let tree = &["d/a", "d/s/b", "d/s/c"];
    check(tree, &[], &|s| s.chown = Some("5:6".into()), Ok("e/@5:6 e/a@5:6 e/s/@5:6 e/s/b@5:6 e/s/c@5:6"));
    check(tree, &["e/"], &|s| s.chown = Some("nobody".into()), Ok("e/ e/a e/s/ e/s/b e/s/c"));
    check(tree, &[], &|s| s.chmod = Some("700".into()), Ok("e/700 e/a:700 e/s/700 e/s/b:700 e/s/c:700"));
    let named = |s: &mut CopyStep| {
        s.chmod = Some("700".into());
        s.destination = "/x/e".into();
    };
    check(tree, &[], &named, Ok("x/700 x/e/700 x/e/a:700 x/e/s/700 x/e/s/b:700 x/e/s/c:700"));
    let special = |s: &mut CopyStep| {
        s.chmod = Some("7750".into());
        s.destination = "/e".into();
    };
    check(&["d/a"], &[], &special, Ok("e/750 e/a:7750"));
    let symbolic = |s: &mut CopyStep| {
        s.chmod = Some("u+s".into());
        s.destination = "/e".into();
    };
    check(&["d/a"], &[], &symbolic, Ok("e/ e/a:4644"));
    check(tree, &[], &|s| s.chmod = Some("go=".into()), Ok("e/ e/a:600 e/s/700 e/s/b:600 e/s/c:600"));
    check(tree, &[], &|s| s.exclude = vec!["s".into()], Ok("e/ e/a"));
    check(tree, &[], &|s| s.exclude = vec!["s/b".into()], Ok("e/ e/a e/s/ e/s/c"));
    check(tree, &[], &|s| s.exclude = vec!["d/s".into()], Ok("e/ e/a e/s/ e/s/b e/s/c"));
    check(tree, &["e -> x", "x/"], &|s| s.link = true, Ok("e/ e/a e/s/ e/s/b e/s/c"));
    let parents = |source: &'static str| {
        move |s: &mut CopyStep| {
            s.parents = true;
            sources(s, source);
        }
    };
    check(tree, &[], &parents("d/s/b"), Ok("e/ e/d/ e/d/s/ e/d/s/b"));
    check(tree, &[], &parents("d/./s/b"), Ok("e/ e/s/ e/s/b"));
    check(tree, &[], &parents("**/c"), Ok("e/ e/d/ e/d/s/ e/d/s/c"));
    check(tree, &[], &parents("d/none"), Err("`d/none` not found"));
    check(tree, &[], &parents("d/none*"), Ok("e/"));
}

#[test]
fn links_last_from_step_to_step() {
    let check = |rootfs: &[&str], steps: &[(&str, &str)]| {
        let copies: Vec<_> = steps.iter().map(|(source, _)| step(&[source], "/")).collect();
        let expect: Vec<_> = steps.iter().map(|(_, expect)| Ok((*expect).to_owned())).collect();
        assert_eq!(run_all(&["d/f@9", "d/h = d/f"], rootfs, &copies), expect, "{steps:?} over {rootfs:?}");
    };
    let linked = [
        ("d", ""),
        ("d/f", "f"),
        ("d/h", ""),
        ("d/f", ""),
        ("d", "f h=f"),
        ("d", ""),
        ("d/h", "h"),
        ("d/f", ""),
    ];
    check(&["f@9", "h = f"], &linked);
    check(&[], &[&[("d", "f h=f")], &linked[..]].concat());
    check(&[], &[("d/f", "f"), ("d", "f h=f"), ("d/h", "h"), ("d", "f h=f")]);
}
