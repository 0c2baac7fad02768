//! `docs/features.md`: every feature of the language and of the command line with its state, found out by building with it.

mod command;
mod language;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::support::{Answer, Image, Repository, Run, Web, World, can_run};

/// A heading and the features below it.
type Group = (&'static str, &'static [Row]);

/// A private key that opens nothing.
const KEY: &str = "\
-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACCTzS6M7esOCtBWg/hWLa5mxb52LtHSOtRhFB1ct7IqwwAAAIiHx4Wph8eF
qQAAAAtzc2gtZWQyNTUxOQAAACCTzS6M7esOCtBWg/hWLa5mxb52LtHSOtRhFB1ct7Iqww
AAAEBlF0cQ3jzGT2KSZhw2sPia7gFd4hi4NQsczXaS9KYZMJPNLozt6w4K0FaD+FYtrmbF
vnYu0dI61GEUHVy3sirDAAAABHRlc3QB
-----END OPENSSH PRIVATE KEY-----
";

/// A feature, what uses it, and what must come of that where it is not refused.
struct Row {
    name: &'static str,
    /// `{web}`, `{git}` and `{busybox}` stand for addresses, here and in the arguments.
    dockerfile: &'static str,
    /// The last is the context, unless it is no name of one; without `-o` the result is looked at.
    args: &'static [&'static str],
    wants: &'static [Want],
}

/// Something that is true of a result.
#[derive(Clone, Copy)]
enum Want {
    /// There is a file of this content.
    File(&'static str, &'static str),
    /// Two files are there and have the same content.
    Same(&'static str, &'static str),
    /// Mode and owner are so.
    Is(&'static str, &'static str),
    /// There is nothing of this name.
    Absent(&'static str),
    /// The config has this JSON at this pointer, `null` for nothing.
    Config(&'static str, &'static str),
    /// The output is there, below the folder of the test.
    Written(&'static str),
}

/// Mode, owner and content by path.
type Tree = BTreeMap<String, (String, String)>;

/// What all rows share, so that the base image is unpacked once.
struct Ground {
    world: World,
    web: Web,
    git: String,
    _repository: Repository,
    _agent: UnixListener,
}

#[test]
fn the_table_of_features_is_what_builds_say() {
    let Some(ground) = Ground::new() else { return };
    let mut table = String::from(
        "# Features\n\nEach row is a build: a small Dockerfile or command line that uses the feature. \"supported\" says that the files and the\n\
         config that came of it were what they must be, \"refused\" that nothing was built, with the exit status 2 and this text.\n\
         Written by `UPDATE_EXPECT=1 cargo test -p rbuild --test e2e features`, checked by the same test.\n",
    );
    for (group, rows) in language::LANGUAGE.iter().chain(command::COMMAND) {
        write!(table, "\n## {group}\n\n| feature | state |\n| --- | --- |\n").expect("a string");
        for row in *rows {
            let state = match ground.refusal(row) {
                Some(text) => format!("refused: {text}"),
                None => "supported".to_owned(),
            };
            writeln!(table, "| `{}` | {} |", row.name, state.replace('|', "\\|")).expect("a string");
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/features.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &table).expect("write");
    }
    let shown = fs::read_to_string(&path).unwrap_or_default();
    assert!(shown == table, "docs/features.md is out of date: UPDATE_EXPECT=1 rewrites it\n{table}");
}

impl Ground {
    fn new() -> Option<Self> {
        let world = World::new();
        if !can_run(&world) {
            return None;
        }
        let mut git = Repository::new()?;
        let address = git.served("");
        for (name, text) in [("a", "a\n"), ("d/b.md", "b\n"), ("d/e/c", "c\n")] {
            world.file(name, text);
        }
        let archive = tarball(&[("in/tar", "t\n")]);
        world.file("a.tar", &archive);
        let context = tarball(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "a\n")]);
        world.file("context.tar", &context);
        let web = Web::serve([
            ("/u", Answer::ok("u\n")),
            ("/a.tar", Answer::ok(archive)),
            ("/context.tar", Answer::ok(context)),
        ]);
        world.file("key", KEY);
        let agent = UnixListener::bind(world.context().join("agent")).expect("a socket");
        Some(Self { world, web, git: address, _repository: git, _agent: agent })
    }

    /// Builds with a feature: the text of the refusal, or nothing once the result is as it must be.
    fn refusal(&self, row: &Row) -> Option<String> {
        self.world.dockerfile(&self.filled(row.dockerfile));
        for name in ["image", "result.tar"] {
            let path = self.world.path(name);
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
        let run = self.run(row);
        match run.code {
            0 => {}
            2 => {
                assert!(!self.world.path("image").exists(), "{}: refused and written", row.name);
                let line = run.stderr.lines().find(|line| line.contains("error")).unwrap_or("by name");
                return Some(line.trim_start_matches("error: ").to_owned());
            }
            code => panic!("{}: exit status {code}: {}", row.name, run.stderr),
        }
        let tree = tree(&self.world.path("result.tar"));
        for want in row.wants {
            self.check(row, *want, &tree);
        }
        None
    }

    fn run(&self, row: &Row) -> Run {
        let mut args: Vec<String> = row.args.iter().map(|arg| self.filled(arg)).collect();
        let is_context = |arg: &String| {
            arg == "."
                || arg == "-"
                || arg.ends_with("context.tar") && !arg.contains('=')
                || arg.starts_with("git://")
        };
        if !args.last().is_some_and(is_context) {
            args.push(".".to_owned());
        }
        if !args.contains(&"-o".to_owned()) {
            let image = format!("type=oci,tar=false,dest={}", self.world.path("image").display());
            let tree = format!("type=tar,dest={}", self.world.path("result.tar").display());
            args.extend(["-o".to_owned(), image, "-o".to_owned(), tree]);
        }
        let busybox = self.world.busybox().expect("checked");
        let stdin = fs::File::open(self.world.context().join("context.tar")).expect("an archive");
        let mut command = self.world.command();
        command.args(["--progress", "plain", "--build-context", &busybox]).args(args).stdin(stdin);
        Run::of(command.output().expect("rbuild starts"))
    }

    fn filled(&self, text: &str) -> String {
        let busybox = self.world.busybox().expect("checked");
        let layout = busybox.trim_start_matches("busybox=");
        text.replace("{web}", &self.web.url("")).replace("{git}", &self.git).replace("{busybox}", layout)
    }

    fn check(&self, row: &Row, want: Want, tree: &Tree) {
        let (name, there) = (row.name, tree.keys().collect::<Vec<_>>());
        let found = |path: &str| tree.get(path).unwrap_or_else(|| panic!("{name}: no {path} in {there:?}"));
        match want {
            Want::File(path, content) => assert_eq!(found(path).1, content, "{name}: {path}"),
            Want::Same(path, other) => assert_eq!(found(path).1, found(other).1, "{name}: {path}"),
            Want::Is(path, attributes) => assert_eq!(found(path).0, attributes, "{name}: {path}"),
            Want::Absent(path) => assert!(!tree.contains_key(path), "{name}: {path} is there"),
            Want::Written(path) => {
                let path = self.world.path(path);
                assert!(path.metadata().is_ok_and(|file| file.len() > 0), "{name}: no {}", path.display());
            }
            Want::Config(pointer, value) => {
                let value: serde_json::Value = serde_json::from_str(value).expect("JSON");
                let config = Image::open(&self.world.path("image")).config;
                assert_eq!(config.pointer(pointer).cloned().unwrap_or_default(), value, "{name}: {pointer}");
            }
        }
    }
}

fn tarball(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content.as_bytes()).expect("an entry");
    }
    builder.into_inner().expect("a tar")
}

/// Reads the tree that was written; nothing where there is none.
fn tree(tar: &Path) -> Tree {
    use std::io::Read as _;
    let Ok(file) = fs::File::open(tar) else { return Tree::new() };
    let mut archive = tar::Archive::new(file);
    let read = |entry: std::io::Result<tar::Entry<'_, fs::File>>| {
        let mut entry = entry.expect("an entry");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        let path = entry.path().expect("a path").display().to_string();
        let header = entry.header();
        let (mode, uid, gid) = (header.mode(), header.uid(), header.gid());
        let attributes =
            format!("{:o} {}:{}", mode.expect("a mode") & 0o7777, uid.expect("a uid"), gid.expect("a gid"));
        (path.trim_end_matches('/').to_owned(), (attributes, String::from_utf8_lossy(&content).into_owned()))
    };
    archive.entries().expect("a tar").map(read).collect()
}
