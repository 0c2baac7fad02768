//! What is read from elsewhere: files of a web server, git repositories, archives, standard input.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Answer, Image, Repository, SOME_TIME, Ssh, Web, World, have};

/// The SHA-256 of `hello\n`.
const HELLO: &str = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

/// A file of a built tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    content: String,
}

type Tree = BTreeMap<String, Node>;

/// Reads a tar into paths without final slashes.
fn tree(tar: &Path) -> Tree {
    let mut archive = tar::Archive::new(File::open(tar).expect("a tar"));
    let read = |entry: std::io::Result<tar::Entry<'_, File>>| {
        let mut entry = entry.expect("an entry");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        let link = entry.link_name().expect("a link").map(|link| format!("-> {}", link.display()));
        let header = entry.header();
        let node = Node {
            mode: header.mode().expect("a mode") & 0o7777,
            owner: (header.uid().expect("a uid"), header.gid().expect("a gid")),
            mtime: header.mtime().expect("a time"),
            content: link.unwrap_or_else(|| String::from_utf8_lossy(&content).into_owned()),
        };
        (entry.path().expect("a path").display().to_string().trim_end_matches('/').to_owned(), node)
    };
    archive.entries().expect("a tar").map(read).collect()
}

impl World {
    /// Builds `context` with standard input from `stdin` and returns the tree.
    #[track_caller]
    fn tree(&self, args: &[&str], stdin: Stdio) -> Tree {
        let tar = self.path("result.tar");
        let mut command = self.command();
        command.args(["--progress", "plain", "-o", &format!("type=tar,dest={}", tar.display())]);
        let output = command.args(args).stdin(stdin).output().expect("rbuild starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        tree(&tar)
    }

    /// As [`World::tree`], of a Dockerfile in the context directory.
    #[track_caller]
    fn built(&self, dockerfile: &str) -> Tree {
        self.dockerfile(dockerfile);
        self.tree(&["."], Stdio::null())
    }

    #[track_caller]
    fn fails(&self, dockerfile: &str, code: i32, says: &str) {
        self.dockerfile(dockerfile);
        self.rbuild(&["--progress", "plain", "-o", "type=cacheonly", "."]).exits(code).says(says);
    }
}

/// A small archive: a directory, a file of somebody's, a symbolic link and the Dockerfile given.
fn archive(dockerfile: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, content: &[u8], kind: tar::EntryType, mode: u32| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(SOME_TIME);
        let owner = if path == "d/f" { 7 } else { 0 };
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_size(content.len() as u64);
        if kind == tar::EntryType::Symlink {
            header.set_size(0);
            header.set_link_name("d/f").expect("a link");
        }
        header.set_path(path).expect("a path");
        header.set_cksum();
        let content = if kind == tar::EntryType::Symlink { b"" } else { content };
        builder.append(&header, content).expect("an entry");
    };
    add("Dockerfile", dockerfile.as_bytes(), tar::EntryType::Regular, 0o644);
    add("d", b"", tar::EntryType::Directory, 0o755);
    add("d/f", b"file\n", tar::EntryType::Regular, 0o640);
    add("l", b"", tar::EntryType::Symlink, 0o777);
    add(".dockerignore", b"d\n", tar::EntryType::Regular, 0o644);
    builder.into_inner().expect("a tar")
}

#[test]
fn add_of_a_url() {
    let dated = Answer {
        headers: vec!["Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT".into()],
        ..Answer::ok("hello\n")
    };
    let web = Web::serve([
        ("/a/hello.txt?x=1", dated),
        ("/", Answer::ok("root")),
        ("/far", Answer::redirect("/near")),
        ("/near", Answer::ok("hello\n")),
        ("/x.tar", Answer::ok(archive(""))),
    ]);
    let world = World::new();
    let url = |path: &str| web.url(path);
    let built = world.built(&format!(
        "FROM scratch\nADD {0} /into/\nADD --checksum={HELLO} {0} /named\nADD --chown=5:6 --chmod=755 {1} /dressed\n\
         ADD {2} /root/\nADD {3} /kept/\nADD --unpack=true {3} /unpacked/\n",
        url("/a/hello.txt?x=1"),
        url("/far"),
        url("/"),
        url("/x.tar"),
    ));
    let node = |mode, owner, mtime, content: &str| Node { mode, owner, mtime, content: content.into() };
    assert_eq!(built["into/hello.txt"], node(0o600, (0, 0), SOME_TIME, "hello\n"));
    assert_eq!(built["named"], node(0o600, (0, 0), SOME_TIME, "hello\n"));
    assert_eq!(built["dressed"], node(0o755, (5, 6), 0, "hello\n"));
    assert_eq!(built["root/__unnamed__"].content, "root");
    assert_eq!(built["kept/x.tar"].mode, 0o600);
    assert_eq!(built["unpacked/d/f"], node(0o640, (7, 7), SOME_TIME, "file\n"));
    // One request per URL, one more for the redirect.
    assert_eq!(web.requests(), 5);
    let heads = web.heads.lock().expect("no panic").concat().to_lowercase();
    assert!(!heads.contains("authorization"), "{heads}");
}

#[test]
fn add_of_a_url_is_cached_by_content() {
    let (one, two) = (Web::serve([("/f", Answer::ok("one"))]), Web::serve([("/f", Answer::ok("one"))]));
    let world = World::new();
    let build = |web: &Web, platform: &str| {
        world.dockerfile(&format!("FROM scratch\nADD {} /f\n", web.url("/f")));
        let args = ["--progress", "plain", "--platform", platform, "-o", "type=cacheonly", "."];
        world.rbuild(&args).success().stderr
    };
    build(&one, "linux/amd64");
    assert!(build(&one, "linux/amd64").to_lowercase().contains("cached"));
    build(&two, "linux/amd64");
    assert_eq!((one.requests(), two.requests()), (2, 1));
}

#[test]
fn add_of_a_url_that_fails() {
    let cut = Answer { promised: Some(100), ..Answer::ok("hello\n") };
    let web = Web::serve([
        ("/hello", Answer::ok("hello\n")),
        ("/cut", cut),
        ("/loop", Answer::redirect("/loop")),
        ("/local", Answer::redirect("file:///etc/passwd")),
    ]);
    let world = World::new();
    let fails = |flags: &str, path: &str, says: &str| {
        world.fails(&format!("FROM scratch\nADD {flags} {} /f\n", web.url(path)), 1, says);
    };
    let other = HELLO.replace("5891", "6891");
    let checksum = format!("--checksum={other}");
    fails(&checksum, "/hello", &format!("the content is {HELLO}, expected {other}"));
    fails("", "/missing?token=secret", "GET http://");
    fails("", "/missing?token=secret", "404 Not Found");
    fails("", "/cut", "/cut");
    fails("", "/loop", "more than 8 redirects");
    fails("", "/local", "the `Location` is no URL");
    assert!(world.scratch_left().is_empty());
    let text =
        format!("FROM scratch\nADD {} /f\n", web.url("/missing?token=secret").replace("//", "//me:word@"));
    world.dockerfile(&text);
    let run = world.rbuild(&["--progress", "rawjson", "-o", "type=cacheonly", "."]).exits(1);
    let error = run.stderr.lines().find(|line| line.contains("404 Not Found")).expect("an error");
    // The instruction is shown as it is written; what we say of it tells nothing.
    let said = error.split("cannot fetch").nth(1).expect("a cause");
    assert!(!said.contains("word") && !said.contains("secret"), "{error}");
}

#[test]
fn add_of_a_repository() {
    let Some(mut repository) = Repository::new() else { return };
    let (main, first) =
        (repository.git(&["rev-parse", "main"]), repository.git(&["rev-parse", "v1^{commit}"]));
    let world = World::new();
    let mut url = |rest: &str| repository.served(rest);
    let built = world.built(&format!(
        "FROM scratch\nADD {} /main/\nADD {} /tag/\nADD {} /side/\nADD {} /deep\nADD {} /commit/\n\
         ADD --checksum={} {} /sum/\nADD --keep-git-dir=true {} /kept/\nADD --exclude=sub {} /some/\n\
         ADD --chown=5:6 {} /timed/\nADD {} /clamped/\n",
        url(""),
        url("#v1"),
        url("?branch=side"),
        url("#main:sub/deep"),
        url(&format!("#{first}")),
        &main[..8],
        url("#main"),
        url("#v1"),
        url(""),
        url("?mtime=commit"),
        url("#:../../sub"),
    ));
    let node = |path: &str| &built[path];
    assert_eq!((node("main/run.sh").mode, node("main/run.sh").owner), (0o755, (0, 0)));
    assert_eq!((node("main/second").mode, node("main/second").content.as_str()), (0o644, "2\n"));
    assert_eq!(node("main/link").content, "-> run.sh");
    assert_eq!(node("main/sub/deep/g").content, "deep\n");
    assert_eq!(node("side/side").content, "s\n");
    assert_eq!(node("deep/g").content, "deep\n");
    assert_eq!(node("clamped/deep/g").content, "deep\n");
    assert_eq!(node("sum/second").content, "2\n");
    assert_eq!((node("timed/second").owner, node("timed/second").mtime), ((5, 6), SOME_TIME));
    assert!(node("main/second").mtime > SOME_TIME);
    assert_eq!(node("kept/.git/HEAD").content.trim(), first);
    let object = built.keys().find(|path| path.starts_with("kept/.git/objects/") && path.len() > 50);
    assert_eq!(object.map(|path| built[path].mode), Some(0o444), "as git has them");
    let there = |path: &str| built.contains_key(path);
    assert!(!there("main/.git") && !there("tag/second") && !there("commit/second"));
    assert!(there("tag/run.sh") && there("commit/run.sh") && !there("some/sub") && there("some/second"));
}

#[test]
fn add_of_a_repository_that_fails() {
    let Some(mut repository) = Repository::new() else { return };
    let main = repository.git(&["rev-parse", "main"]);
    let world = World::new();
    let mut fails = |flags: &str, rest: &str, says: &str| {
        let text = format!("FROM scratch\nADD {flags} {} /x/\n", repository.served(rest));
        world.fails(&text, 1, says);
    };
    fails("--checksum=abcdef12", "#main", &format!("expected checksum to match abcdef12, got {main}"));
    fails("", "#nosuch", "no branch, tag or reference \"nosuch\"");
    fails("", "#--upload-pack=x", "is no name of a branch");
    fails("", "#:no/such", "has no directory \"no/such\"");
    // What a Dockerfile says must not reach repositories of this host.
    let local = format!("FROM scratch\nADD {} /x/\n", repository.file_url(".git"));
    world.fails(&local, 1, "not found");
    assert!(world.scratch_left().is_empty());
}
/// Names and contents alone.
fn contents(tree: &Tree) -> BTreeMap<&str, &str> {
    tree.iter().map(|(path, node)| (path.as_str(), node.content.as_str())).collect()
}

fn compressed(program: &str, bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(["-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the compressor starts");
    child.stdin.take().expect("a pipe").write_all(bytes).expect("written");
    child.wait_with_output().expect("compressed").stdout
}

/// A Dockerfile that copies what `archive` holds.
const COPY_ALL: &str = "FROM scratch\nCOPY . /x/\n";

/// The tree that `COPY_ALL` gives of `archive`: with the archive's owners, and without regard to its ignore file.
#[track_caller]
fn is_the_archive(built: &Tree, name: &str) {
    let file = &built["x/d/f"];
    assert_eq!((file.mode, file.owner, file.mtime), (0o640, (7, 7), SOME_TIME), "{name}");
    let expect = [
        ("x", ""),
        ("x/.dockerignore", "d\n"),
        ("x/Dockerfile", COPY_ALL),
        ("x/d", ""),
        ("x/d/f", "file\n"),
        ("x/l", "-> d/f"),
    ];
    assert_eq!(contents(built), BTreeMap::from(expect), "{name}");
}

fn from_file(path: &Path) -> Stdio {
    Stdio::from(File::open(path).expect("a file"))
}

#[test]
fn archives_as_contexts() {
    let world = World::new();
    let plain = archive(COPY_ALL);
    let mut forms = vec![("plain", plain.clone())];
    for program in ["gzip", "bzip2", "xz", "zstd"] {
        if have(program) {
            forms.push((program, compressed(program, &plain)));
        }
    }
    for (name, bytes) in &forms {
        let path = world.path("context.bin");
        std::fs::write(&path, bytes).expect("an archive");
        is_the_archive(&world.tree(&["-"], from_file(&path)), name);
        is_the_archive(&world.tree(&[path.to_str().expect("a path")], Stdio::null()), name);
    }
    let web = Web::serve([("/c", Answer::ok(plain.clone()))]);
    is_the_archive(&world.tree(&[&web.url("/c")], Stdio::null()), "http");
    // `-f` within the archive, and next to it.
    let path = world.path("other.tar");
    std::fs::write(&path, archive("FROM scratch\nCOPY l /other\n")).expect("an archive");
    let other = world.tree(&["-f", "./Dockerfile", path.to_str().expect("a path")], Stdio::null());
    assert_eq!(contents(&other), BTreeMap::from([("other", "file\n")]));
    let beside = world.path("Beside");
    std::fs::write(&beside, "FROM scratch\nCOPY d /beside\n").expect("a Dockerfile");
    let built = world.tree(&["-f", beside.to_str().expect("a path"), "-"], from_file(&path));
    assert_eq!(contents(&built), BTreeMap::from([("beside", ""), ("beside/f", "file\n")]));
    assert!(world.scratch_left().is_empty());
}

#[test]
fn a_dockerfile_as_context() {
    let world = World::new();
    let path = world.path("Text");
    std::fs::write(&path, "FROM scratch\nCOPY <<f /\nhi\nf\n").expect("a Dockerfile");
    assert_eq!(contents(&world.tree(&["-"], from_file(&path))), BTreeMap::from([("f", "hi\n")]));
    // With a directory, it is the Dockerfile alone that comes from elsewhere.
    world.file("g", "g\n");
    std::fs::write(&path, "FROM scratch\nCOPY g /\n").expect("a Dockerfile");
    let built = world.tree(&["-f", "-", "."], from_file(&path));
    assert_eq!(contents(&built), BTreeMap::from([("g", "g\n")]));
    let run = |args: &[&str], stdin| {
        let output = world.command().args(["-o", "type=cacheonly"]).args(args).stdin(stdin).output();
        let output = output.expect("rbuild starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&["-"], from_file(&path));
    assert!(code == Some(1) && said.contains("not found"), "{said}");
    let (code, said) = run(&["-f", "x", "-"], from_file(&path));
    assert!(code == Some(2) && said.contains("the context - is a Dockerfile itself"), "{said}");
    // A web server's Dockerfile is also the only file of its context, called `context`.
    let web = Web::serve([("/df", Answer::ok("FROM scratch\nCOPY context /c\n"))]);
    let built = world.tree(&[&web.url("/df")], Stdio::null());
    assert_eq!((built.len(), built["c"].mode), (1, 0o600));
    let (code, said) = run(&[&web.url("/none")], Stdio::null());
    assert!(code == Some(1) && said.contains("404 Not Found"), "{said}");
}

#[test]
fn archives_do_not_lead_outside() {
    let world = World::new();
    let mut builder = tar::Builder::new(Vec::new());
    let mut link = |path: &str, target: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, path, target).expect("an entry");
    };
    link("Dockerfile", "/etc/hostname");
    link("out", "/etc");
    let path = world.path("links.tar");
    std::fs::write(&path, builder.into_inner().expect("a tar")).expect("an archive");
    let path = path.to_str().expect("a path");
    world.rbuild(&["-o", "type=cacheonly", path]).exits(2).says("cannot read the Dockerfile");
    let beside = world.path("Beside");
    std::fs::write(&beside, "FROM scratch\nCOPY out/passwd /\n").expect("a Dockerfile");
    let args = ["-o", "type=cacheonly", "-f", beside.to_str().expect("a path"), path];
    world.rbuild(&args).exits(1).says("not found");
    std::fs::write(world.path("short.tar.gz"), b"\x1f\x8b\x08 and no more").expect("an archive");
    let short = world.path("short.tar.gz");
    world
        .rbuild(&["-o", "type=cacheonly", short.to_str().expect("a path")])
        .exits(1)
        .says("is no tar archive");
}

#[test]
fn the_time_of_a_file_of_the_web_stands_for_now_where_it_is_asked_for() {
    let dockerfile = "ARG SOURCE_DATE_EPOCH=context\nFROM scratch\nLABEL a=b\n";
    let dated = Answer {
        headers: vec!["Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT".into()],
        ..Answer::ok(dockerfile)
    };
    let web = Web::serve([("/dated", dated), ("/undated", Answer::ok(dockerfile))]);
    let world = World::new();
    let dest = world.path("dated");
    let output = format!("type=oci,tar=false,dest={}", dest.display());
    world.rbuild(&["-o", &output, &web.url("/dated")]).success();
    assert_eq!(Image::open(&dest).config["created"], "1994-11-06T08:49:37Z");
    world.rbuild(&["-o", "type=cacheonly", &web.url("/undated")]).exits(2).says("SOURCE_DATE_EPOCH");
}

#[test]
fn repositories_as_contexts() {
    let Some(mut repository) = Repository::new() else { return };
    let world = World::new();
    let build = |context: &str, args: &[&str]| world.tree(&[args, &[context]].concat(), Stdio::null());
    // What a checkout by hand gives, as a directory without its ignore file.
    let main = build(&repository.file_url(""), &[]);
    let by_hand = world.path("by-hand");
    repository.git(&["worktree", "add", "-q", "--detach", by_hand.to_str().expect("a path"), "main"]);
    std::fs::write(world.path("Beside"), "FROM scratch\nCOPY . /x/\n").expect("a Dockerfile");
    std::fs::write(world.path("Beside.dockerignore"), ".git\n").expect("an ignore file");
    let beside = world.path("Beside");
    let expect = build(by_hand.to_str().expect("a path"), &["-f", beside.to_str().expect("a path")]);
    let attributes = |tree: &Tree| -> Vec<_> {
        tree.iter().map(|(path, node)| (path.clone(), node.mode, node.owner, node.content.clone())).collect()
    };
    let executable = |nodes: Vec<(String, u32, (u64, u64), String)>| -> Vec<_> {
        let mode = |mode: u32| if mode == 0o775 { 0o755 } else { mode };
        nodes.into_iter().map(|(path, bits, owner, text)| (path, mode(bits), owner, text)).collect()
    };
    assert_eq!(attributes(&main), executable(attributes(&expect)));

    let sub = build(&repository.file_url("#main:sub"), &[]);
    assert_eq!(contents(&sub)["sub/deep/g"], "deep\n");
    let pull = build(&repository.file_url("#refs/pull/1/head"), &[]);
    assert!(pull.contains_key("x/second"));
    let short = build(&repository.file_url("#pull/1/head"), &["-f", "sub/Dockerfile"]);
    assert!(short.contains_key("sub/second"));
    let tag = build(&repository.served("?tag=v1"), &[]);
    assert!(!tag.contains_key("x/second") && !tag.contains_key("x/.git"));
    let kept = build(&repository.file_url(""), &["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"]);
    assert!(kept.contains_key("x/.git/HEAD"));
    // A commit's time stands for now where it is asked for.
    let dated = ["--build-arg", "SOURCE_DATE_EPOCH=context", "-f", "sub/Dockerfile"];
    let dest = world.path("dated");
    let output = format!("type=oci,tar=false,dest={}", dest.display());
    world.rbuild(&[&dated[..], &["-o", &output, &repository.file_url("#main")]].concat()).success();
    assert_eq!(Image::open(&dest).config["created"], "1994-11-06T08:49:37Z");
    let wrong = repository.file_url("?ref=main&checksum=1234");
    world.rbuild(&["-o", "type=cacheonly", &wrong]).exits(1).says("expected checksum to match 1234");
    assert!(world.scratch_left().is_empty());
}

#[test]
fn repositories_over_ssh() {
    let Some(repository) = Repository::new() else { return };
    let world = World::new();
    let Some(ssh) = Ssh::start(&world) else { return };
    let path = repository.world.path("work").display().to_string();
    let build = |world: &World, context: &str, agent: &Path| {
        let output = format!("type=local,dest={}", world.path("out").display());
        let mut command = world.command();
        command.env("SSH_AUTH_SOCK", agent).args(["--progress", "plain", "-o", &output, context]);
        command.output().expect("rbuild starts")
    };
    let url = format!("ssh://root@127.0.0.1:{}{path}", ssh.port);
    let built = build(&world, &format!("{url}#side"), &ssh.agent);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    assert!(world.path("out/x/side").exists() && !world.path("out/x/second").exists());
    let refused = build(&world, &url, Path::new("/nonexistent"));
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"));
    assert!(world.scratch_left().is_empty());
}

#[test]
fn submodules_are_part_of_a_repository() {
    let Some(repository) = Repository::new() else { return };
    let Some(inner) = Repository::new() else { return };
    repository.git(&["submodule", "--quiet", "add", &inner.file_url(""), "module"]);
    repository.git(&["commit", "-q", "-m", "module"]);
    let world = World::new();
    let built = world.tree(&[&repository.file_url("")], Stdio::null());
    assert_eq!(built["x/module/second"].content, "2\n");
    assert!(!built.contains_key("x/module/.git"));
    let without = world.tree(&[&repository.file_url("?submodules=false")], Stdio::null());
    assert!(without.contains_key("x/module") && !without.contains_key("x/module/second"));
}

#[test]
fn named_contexts_of_every_kind() {
    let world = World::new();
    let web = Web::serve([("/one", Answer::ok("one\n"))]);
    std::fs::write(world.path("c.tar"), archive("")).expect("an archive");
    world.dockerfile("FROM scratch\nCOPY --from=web / /web/\nCOPY --from=tar d /tar/\n");
    let named = |name: &str, value: String| format!("--build-context={name}={value}");
    let (one, tar) = (named("web", web.url("/one")), named("tar", world.path("c.tar").display().to_string()));
    let built = world.tree(&[&one, &tar, "."], Stdio::null());
    assert_eq!(
        contents(&built),
        BTreeMap::from([("tar", ""), ("tar/f", "file\n"), ("web", ""), ("web/context", "one\n")])
    );
    assert_eq!((built["web/context"].mode, built["tar/f"].owner), (0o600, (7, 7)));

    // As the base of a stage.
    world.dockerfile("FROM tar AS first\nCOPY --from=web / /\nFROM tar\n");
    let base = world.tree(&[&one, &tar, "--target=first", "."], Stdio::null());
    assert_eq!((base["d/f"].owner, base["context"].mode), ((7, 7), 0o600));
    let image = world.build_layout("from-tree", &[&one, &tar, "--target=first"]);
    assert_eq!((image.layers(), image.config["history"].as_array().map(Vec::len)), (2, Some(2)));
    assert_eq!(image.config["config"]["WorkingDir"], "/", "as on scratch");

    let Some(repository) = Repository::new() else { return };
    world.dockerfile("FROM scratch\nCOPY --from=repo side /\n");
    let here = named("repo::linux/amd64", repository.file_url("#side"));
    let there = named("repo::linux/arm64", repository.file_url("#main"));
    let built = world.tree(&["--platform=linux/amd64", &here, &there, "."], Stdio::null());
    assert_eq!(contents(&built), BTreeMap::from([("side", "s\n")]));
    world
        .rbuild(&["-o", "type=cacheonly", "--platform=linux/arm64", &here, &there, "."])
        .exits(1)
        .says("not found");
}
