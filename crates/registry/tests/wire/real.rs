//! Debian's `docker-registry`, the reference implementation, when it is installed.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rbuild_image::{Layout, Memory, Reference};
use rbuild_registry::{CopyOptions, copy};

use crate::support::{Demand, Registry, client, noise};

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the registry on a port of its own choosing; `None` when it is not installed.
async fn start(directory: &std::path::Path) -> Option<(Running, String)> {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = format!("127.0.0.1:{port}");
    let config = directory.join("config.yml");
    let root = directory.join("data");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {host}}}\n",
        root.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new("docker-registry");
    let command = command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("skipped: docker-registry is not installed");
        return None;
    };
    let stderr = child.stderr.take().unwrap();
    std::thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).for_each(drop));
    let running = Running(child);
    for _ in 0..200 {
        if tokio::net::TcpStream::connect(&host).await.is_ok() {
            return Some((running, host));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("docker-registry does not listen at {host}");
}

fn tagged(name: &Reference) -> CopyOptions {
    CopyOptions { tags: vec![name.clone()], ..CopyOptions::default() }
}

#[tokio::test]
async fn push_mount_and_pull() {
    let directory = tempfile::tempdir().unwrap();
    let Some((_running, host)) = start(directory.path()).await else { return };
    let origin = Registry::start(Demand::Nothing).await;
    let image = origin.put_image("team/app", "1", &[noise(3_000_000), noise(17), noise(0)]);
    let client = client();
    let from = origin.name("team/app:1");
    let name = |rest: &str| -> Reference { format!("{host}/{rest}").parse().unwrap() };

    let pushed = name("team/app:1");
    copy(&client.remote(&from), &client.remote(&pushed), &from, &tagged(&pushed)).await.unwrap();
    let mounted = name("team/copy:2");
    copy(&client.remote(&pushed), &client.remote(&mounted), &pushed, &tagged(&mounted)).await.unwrap();

    let layout = Layout::create(directory.path().join("layout")).unwrap();
    copy(&client.remote(&mounted), &layout, &mounted, &tagged(&mounted)).await.unwrap();
    assert_eq!(layout.get(&mounted).unwrap().unwrap().digest, image.digest);
    let memory = Memory::new();
    copy(&layout, &memory, &mounted, &tagged(&mounted)).await.unwrap();
    for (bytes, found) in [noise(3_000_000), noise(17), noise(0)].map(|bytes| {
        let digest = rbuild_image::Digest::of(&bytes);
        (bytes, memory.get(&digest))
    }) {
        assert_eq!(found, Some(bytes));
    }
}
