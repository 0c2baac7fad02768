use std::fs;
use std::process::Command;

use proptest::prelude::*;
use rbuild_image::{Descriptor, Digest};

use super::*;
use crate::change::Entry;
use crate::meta::Time;
use crate::snapshot::ActiveRootfs;
use crate::store::Store;
use crate::unpack::Limits;

/// What a step does to the tree it is started in.
const BASE: &str = "umask 022; mkdir -p d/s old/2 deep/a/b; echo a > d/a; echo b > d/b; echo x > d/s/x; echo f > f; \
    ln -s f l; echo 1 > old/1; echo y > old/2/y; mkfifo p; truncate -s 1M sparse; printf z >> sparse; \
    echo link > deep/one; ln deep/one deep/two; echo n > deep/a/b/n; chmod 4755 d/b; \
    find . -exec touch -h -d @1000000000.5 {} +";

struct Trees {
    overlay: Overlay,
    plain: Plain,
    chain: Vec<Layer>,
    _directory: tempfile::TempDir,
}

/// A layer without a blob: enough for a snapshot that is committed.
fn named(name: &str) -> Layer {
    let digest = Digest::of(name.as_bytes());
    Layer { descriptor: Descriptor::new("application/x-test", digest, 0), diff_id: DiffId(digest) }
}

fn trees() -> Trees {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    let overlay = Overlay::new(store, Limits::default());
    let active = overlay.prepare(&[]).unwrap();
    shell(active.root().path(), BASE);
    let chain = vec![named("base")];
    overlay.commit(active, &Changes::new(), &chain).unwrap();
    Trees { plain: Plain::new(overlay.clone()), overlay, chain, _directory: directory }
}

fn shell(directory: &Path, script: &str) {
    let status = Command::new("sh").args(["-ec", script]).current_dir(directory).status().unwrap();
    assert!(status.success(), "{script}");
}

/// What a step changes in a plain tree, and what it leaves there.
fn in_place(trees: &Trees, script: &str) -> (Changes, Active) {
    let mut active = trees.plain.prepare(&trees.chain).unwrap();
    shell(active.root().path(), script);
    (active.changes().unwrap(), active)
}

/// What the same step changes on an overlay mount; none where there can be none.
fn mounted(trees: &Trees, script: &str) -> Option<Vec<String>> {
    let mut active = trees.overlay.prepare(&trees.chain).unwrap();
    let ActiveRootfs::Overlay { lower, upper, work } = active.rootfs() else { panic!() };
    let point = active.scratch().path().join("m");
    fs::create_dir(&point).unwrap();
    let lower: Vec<_> = lower.iter().rev().map(|path| path.to_str().unwrap()).collect();
    let (upper, work) = (upper.display(), work.display());
    let options = format!("lowerdir={},upperdir={upper},workdir={work},userxattr,volatile", lower.join(":"));
    let mount = "mount -t overlay overlay -o \"$1\" \"$2\" && cd \"$2\" || exit 99; ";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-ec", &format!("{mount}{script}"), "sh", &options]).arg(&point);
    match unshare.output() {
        Ok(output) if output.status.success() => Some(shown(&active.changes().unwrap())),
        Ok(output) if rustix::process::geteuid().is_root() && output.status.code() != Some(99) => {
            panic!("{script}: {}", String::from_utf8_lossy(&output.stderr))
        }
        _ => {
            eprintln!("skipped: overlayfs cannot be mounted here");
            None
        }
    }
}

/// The entries; the times of what the step touched are those of the run.
fn shown(changes: &Changes) -> Vec<String> {
    let show = |(path, entry): (&Path, &Entry)| match entry {
        Entry::Whiteout => format!("-{}", path.display()),
        Entry::HardLink(target) => format!("{}={}", path.display(), target.display()),
        Entry::Opaque(_) => format!("!{}", path.display()),
        Entry::Node { meta, content } => {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut content.open().unwrap(), &mut bytes).unwrap();
            let mut meta = meta.clone();
            if meta.mtime.seconds > 1_000_000_100 {
                meta.mtime = Time::default();
            }
            format!("{} {meta:?} {}", path.display(), String::from_utf8_lossy(&bytes).replace('\0', ""))
        }
    };
    changes.iter().map(show).collect()
}

fn paths(changes: &Changes) -> Vec<String> {
    let name = |(path, entry): (&Path, &Entry)| match entry {
        Entry::Whiteout => format!("-{}", path.display()),
        Entry::HardLink(target) => format!("{}={}", path.display(), target.display()),
        _ => path.display().to_string(),
    };
    changes.iter().map(name).collect()
}

#[test]
fn both_forms_find_the_same() {
    let trees = trees();
    let check = |script: &str, expect: &[&str]| {
        let (plain, _active) = in_place(&trees, script);
        assert_eq!(paths(&plain), expect, "{script}");
        if let Some(overlay) = mounted(&trees, script) {
            assert_eq!(shown(&plain), overlay, "{script}");
        }
    };
    check("true", &[]);
    check("touch d; touch -d @1000000000.5 d; chmod 755 d", &[]);
    check("echo b > f", &["f"]);
    check("echo c > d/a; touch -d @1000000000.5 d/a", &[]);
    check("echo c > d/a; touch -d @1000000001 d/a", &["d", "d/a"]);
    check("chmod 600 d/a; rm f", &["d", "d/a", "-f"]);
    check("rm -r d", &["-d"]);
    check("rm -r d; mkdir d; echo a > d/a", &["d", "d/a", "-d/b", "-d/s"]);
    check("cp -a d e; rm -r d; mv e d", &[]);
    check("rm f; mkdir f; echo x > f/x", &["f", "f/x"]);
    check("rm -r d; echo x > d", &["d"]);
    check("rm -r old; ln -s d old", &["old"]);
    check("mv f d/g; mv old new", &["d", "d/g", "-f", "new", "new/1", "new/2", "new/2/y", "-old"]);
    check("ln f g; ln d/a h; echo >> h", &["d", "d/a", "f", "g=f", "h=d/a"]);
    check("ln d/a a; ln a d/c; rm d/a", &["a", "d", "-d/a", "d/c=a"]);
    check("ln d/a a; rm a; ln deep/one one; rm one", &[]);
    check("cp -p f g; cp -p f h; ln -f g h; rm g h", &[]);
    check("echo 1 > x; ln x y; ln y d/z", &["d", "d/z", "x=d/z", "y=d/z"]);
    check("rm deep/one", &["deep", "-deep/one"]);
    check(
        "rm deep/one deep/two; echo > deep/one; ln deep/one deep/two",
        &["deep", "deep/one", "deep/two=deep/one"],
    );
    check("ln -sfn g l; rm p; mkfifo q", &["l", "-p", "q"]);
    check("rm p; mkfifo -m 644 p; touch -d @1000000000.5 p", &[]);
    check("chmod 1777 deep/a/b", &["deep", "deep/a", "deep/a/b"]);
    check("truncate -s 2M sparse", &["sparse"]);
}

#[test]
fn a_change_within_a_tick_is_seen() {
    let trees = trees();
    let mut active = trees.plain.prepare(&trees.chain).unwrap();
    let file = active.root().path().join("f");
    for content in ["1\n", "2\n", "3\n", "4\n"] {
        fs::write(&file, content).unwrap();
        let changes = active.changes().unwrap();
        assert_eq!(paths(&changes), ["f"], "{content:?}");
    }
}

#[test]
fn a_stage_keeps_its_tree() {
    let trees = trees();
    let (changes, active) = in_place(&trees, "echo new > d/new; rm f; mkdir -m 700 own; chmod 711 d");
    let path = active.root().path().to_owned();
    assert!(fs::metadata(path.join("sparse")).is_ok_and(|sparse| {
        use std::os::unix::fs::MetadataExt;
        sparse.len() > 1 << 20 && sparse.blocks() * 512 < 1 << 19
    }));
    let one = [trees.chain.clone(), vec![named("one")]].concat();
    trees.plain.commit(active, &changes, &one).unwrap();
    let view = trees.plain.view(&one).unwrap();
    assert_eq!(view.read(Path::new("d/new"), 9).unwrap().unwrap(), b"new\n");
    assert!(view.metadata(Path::new("f")).unwrap().is_none());

    // A layer that was made elsewhere, with a directory in the place of a file and the reverse.
    let mut copied = trees.overlay.prepare(&one).unwrap();
    let mut layer = Changes::new();
    layer.insert("d", Entry::node(Meta::default_directory()));
    layer.insert("d/a", Entry::node(Meta::default_directory()));
    layer.insert("d/a/in", Entry::node(Meta::new(crate::meta::Kind::Fifo, 0o600)));
    layer.insert("old", Entry::node(Meta::new(crate::meta::Kind::Symlink("d".into()), 0o777)));
    layer.insert("deep/a", Entry::Opaque(Meta::default_directory()));
    layer.insert("d/new", Entry::Whiteout);
    copied.write(&layer).unwrap();
    let changes = copied.changes().unwrap();
    let two = [one, vec![named("two")]].concat();
    trees.overlay.commit(copied, &changes, &two).unwrap();

    let mut active = trees.plain.prepare(&two).unwrap();
    assert_eq!(active.root().path(), path, "the tree of the stage is used again");
    assert!(active.changes().unwrap().is_empty());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for (view, list) in [(active.view(), &mut ours), (trees.plain.view(&two).unwrap(), &mut theirs)] {
        view.walk(Path::new(""), &mut |visit| {
            list.push((visit.path.to_owned(), visit.meta.clone()));
            Ok::<_, crate::root::RootError>(crate::view::Descend::Into)
        })
        .unwrap();
    }
    assert_eq!(ours, theirs);
    let other = trees.plain.prepare(&two).unwrap();
    assert_ne!(other.root().path(), path, "a tree in use is nobody else's");
}

fn operation() -> impl Strategy<Value = String> {
    let path = prop::sample::select(vec![
        "d",
        "d/a",
        "d/b",
        "d/s",
        "d/s/x",
        "f",
        "l",
        "old",
        "old/1",
        "old/2",
        "p",
        "sparse",
        "deep/a",
        "deep/a/b",
        "new",
        "d/new",
        "new/x",
        "deep/a/b/c",
    ]);
    (path.clone(), path, 0..9_u8).prop_map(|(one, other, what)| match what {
        0 => format!("rm -rf {one}"),
        1 => format!("mkdir -p {one}"),
        2 => format!("echo {other} >> {one}"),
        3 => format!("mv -T {one} {other}"),
        4 => format!("rm -rf {other}; ln {one} {other}"),
        5 => format!("chmod 751 {one}"),
        6 => format!("ln -sfn {other} {one}"),
        // what a copy of a directory into itself leaves depends on the order in which it is read
        7 => format!(
            "case $(realpath -m {other})/ in $(realpath -m {one})/*) ;; *) cp -aT {one} {other};; esac"
        ),
        _ => format!("touch -h -d @1000000007.25 {one}"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn random_steps_give_the_same(operations in prop::collection::vec(operation(), 1..10)) {
        let trees = trees();
        // pipes would block what opens them
        let script = format!("exec 2>/dev/null; rm p; {}", operations.iter().map(|it| format!("{it} || true; ")).collect::<String>());
        let (plain, _active) = in_place(&trees, &script);
        if let Some(overlay) = mounted(&trees, &script) {
            prop_assert_eq!(shown(&plain), overlay, "{}", script);
        }
    }
}
