//! A private world for one test: its own folder, store, home and, where wanted, its own registry.

pub(crate) mod arm64;
mod base_image;
mod docker_registry;
mod mounted;
mod repository;
mod ssh;
mod web;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub(crate) use base_image::{busybox_layout, busybox_rootfs, image_layout};
pub(crate) use docker_registry::Registry;
pub(crate) use mounted::Mounted;
pub(crate) use repository::{Repository, SOME_TIME};
pub(crate) use ssh::Ssh;
pub(crate) use web::{Answer, Certificate, Web};

/// A folder with a store, a build context and an environment that holds nothing of the caller's.
pub(crate) struct World {
    dir: tempfile::TempDir,
}

/// What one run of the binary gave.
pub(crate) struct Run {
    /// The exit status; a signal counts as 128 plus its number.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(dir.path().join("context")).expect("a context folder");
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How many files and folders it has beside the context.
    pub(crate) fn entries(&self) -> usize {
        std::fs::read_dir(self.dir.path()).map(Iterator::count).unwrap_or_default()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    pub(crate) fn context(&self) -> PathBuf {
        self.path("context")
    }

    /// Writes a file of the build context, with the folders it stands in.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.context().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders of the context");
        std::fs::write(&path, content).expect("a file of the context");
        path
    }

    pub(crate) fn dockerfile(&self, text: &str) {
        self.file("Dockerfile", text);
    }

    /// The busybox base image as `--build-context NAME=…` wants it.
    pub(crate) fn busybox(&self) -> Option<String> {
        let layout = self.path("busybox");
        if !layout.exists() {
            busybox_layout(&layout)?;
        }
        Some(format!("busybox=oci-layout://{}:latest", layout.display()))
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbuild"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.path("home")).env("RBUILD_ROOT", self.store());
        command.current_dir(self.context()).stdin(Stdio::null());
        command
    }

    pub(crate) fn rbuild<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Run {
        Run::of(self.command().args(args).output().expect("rbuild starts"))
    }

    /// Builds the context into an OCI layout folder and returns what is in it.
    pub(crate) fn build_layout(&self, name: &str, args: &[&str]) -> Image {
        let dest = self.path(name);
        let output = format!("type=oci,dest={},tar=false", dest.display());
        let mut all = vec!["--output", output.as_str(), "--progress", "plain"];
        let busybox = self.busybox();
        if let Some(busybox) = &busybox {
            all.extend(["--build-context", busybox.as_str()]);
        }
        all.extend(args);
        all.push(".");
        self.rbuild(&all).success();
        Image::open(&dest)
    }

    /// Builds for the sake of the steps, with busybox as a context and without network.
    pub(crate) fn run_steps(&self) -> Run {
        let mut all = vec!["--progress", "plain", "--network", "none", "--output", "type=cacheonly"];
        let busybox = self.busybox();
        if let Some(busybox) = &busybox {
            all.extend(["--build-context", busybox.as_str()]);
        }
        all.push(".");
        self.rbuild(&all)
    }

    /// Names of everything below the store that is not a blob, an index or a cache entry of its own accord.
    pub(crate) fn scratch_left(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.store().join("tmp"))
            .map(|dir| dir.map(|entry| entry.expect("an entry").path()).collect())
            .unwrap_or_default()
    }
}

impl Run {
    pub(crate) fn of(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    #[track_caller]
    pub(crate) fn success(self) -> Self {
        self.exits(0)
    }

    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit status\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert!(!self.stderr.contains("panicked at"), "{}", self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "stderr lacks {text:?}:\n{}", self.stderr);
        self
    }
}

/// The one image of an OCI layout folder, read without rbuild's own code.
pub(crate) struct Image {
    pub(crate) dir: PathBuf,
    pub(crate) digest: String,
    pub(crate) manifest: serde_json::Value,
    pub(crate) config: serde_json::Value,
}

impl Image {
    #[track_caller]
    pub(crate) fn open(dir: &Path) -> Self {
        let json = |path: PathBuf| -> serde_json::Value {
            let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            serde_json::from_slice(&bytes).expect("JSON")
        };
        let blob = |digest: &str| dir.join("blobs").join(digest.replace(':', "/"));
        let index = json(dir.join("index.json"));
        let digest = index["manifests"][0]["digest"].as_str().expect("a digest").to_owned();
        let manifest = json(blob(&digest));
        let config = json(blob(manifest["config"]["digest"].as_str().expect("a digest")));
        Self { dir: dir.to_owned(), digest, manifest, config }
    }

    pub(crate) fn layers(&self) -> usize {
        self.manifest["layers"].as_array().map_or(0, Vec::len)
    }

    /// Path, kind, mode, owner and content of the entries of layer `index`, as the `tar` crate reads them.
    pub(crate) fn entries(&self, index: usize) -> Vec<Entry> {
        use std::io::Read;
        let digest = self.manifest["layers"][index]["digest"].as_str().expect("a digest");
        let blob =
            std::fs::File::open(self.dir.join("blobs").join(digest.replace(':', "/"))).expect("a blob");
        let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(blob));
        let entries = archive.entries().expect("a tar");
        entries
            .map(|entry| {
                let mut entry = entry.expect("an entry");
                let mut content = Vec::new();
                entry.read_to_end(&mut content).expect("content");
                let header = entry.header();
                Entry {
                    path: entry.path().expect("a path").display().to_string(),
                    kind: header.entry_type(),
                    mode: header.mode().expect("a mode") & 0o7777,
                    owner: (header.uid().expect("a uid"), header.gid().expect("a gid")),
                    content: String::from_utf8_lossy(&content).into_owned(),
                }
            })
            .collect()
    }

    /// The paths of layer `index` without a final slash, in order.
    pub(crate) fn paths(&self, index: usize) -> Vec<String> {
        self.entries(index).into_iter().map(|entry| entry.path.trim_end_matches('/').to_owned()).collect()
    }

    #[track_caller]
    pub(crate) fn entry(&self, layer: usize, path: &str) -> Entry {
        let found = self.entries(layer).into_iter().find(|entry| entry.path.trim_end_matches('/') == path);
        found.unwrap_or_else(|| panic!("no {path} in layer {layer}: {:?}", self.paths(layer)))
    }
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) kind: tar::EntryType,
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    pub(crate) content: String,
}

/// Says why a test did not run.
pub(crate) fn skipped(reason: &str) {
    eprintln!("skipped: {reason}");
}

/// Whether this machine can run steps and has the base image for it; says so where it cannot.
pub(crate) fn can_run(world: &World) -> bool {
    if world.busybox().is_none() {
        skipped("no statically linked /bin/busybox (Debian: busybox-static)");
        return false;
    }
    is_root("RUN needs root until unprivileged isolation stands")
}

/// Whether an isolation works here; says so where it does not.
pub(crate) fn works(world: &World, isolation: &str) -> bool {
    let works = world.rbuild(&["doctor", "--isolation", isolation]).code == 0;
    if !works {
        skipped(&format!("the isolation {isolation} does not work here"));
    }
    works
}

/// Whether the tests run as root; says `why` they should where they do not.
pub(crate) fn is_root(why: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped(why);
    }
    root
}

/// Whether a program is on the PATH; says so where it is not.
pub(crate) fn have(program: &str) -> bool {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|dir| dir.join(program).is_file());
    if !found {
        skipped(&format!("{program} is not installed"));
    }
    found
}

/// Runs another tool and returns its standard output; fails the test with what it said otherwise.
#[track_caller]
pub(crate) fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().expect("the tool starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    text
}
