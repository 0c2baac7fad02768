//! The base image of the tests: Debian's static busybox, made into an OCI layout without rbuild's own code.

use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use serde_json::json;

const APPLETS: &[&str] = &[
    "cat", "chmod", "chown", "cp", "date", "dd", "echo", "env", "false", "find", "grep", "head", "hostname",
    "id", "kill", "ln", "ls", "mkdir", "mkfifo", "mknod", "mount", "mv", "printf", "ps", "pwd", "readlink",
    "rm", "rmdir", "sed", "seq", "setsid", "sh", "sleep", "sort", "stat", "su", "sync", "tail", "tar",
    "test", "touch", "tr", "true", "umount", "wc", "wget", "yes",
];
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n";
const GROUP: &str = "root:x:0:\napp:x:1000:\nextra:x:2000:app\n";

/// Writes a busybox image as an OCI layout tagged `latest`; `None` where there is no static busybox.
pub(crate) fn busybox_layout(layout: &Path) -> Option<()> {
    image_layout(layout, &[busybox_rootfs()?]);
    Some(())
}

/// The files of the busybox image as a tar; `None` where there is no static busybox.
pub(crate) fn busybox_rootfs() -> Option<Vec<u8>> {
    let busybox = std::fs::read("/bin/busybox").or_else(|_| std::fs::read("/usr/bin/busybox")).ok()?;
    is_static(&busybox).then(|| rootfs(&busybox))
}

/// Writes an image of these uncompressed layers as an OCI layout tagged `latest`.
pub(crate) fn image_layout(layout: &Path, layers: &[Vec<u8>]) {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("blobs");
    let put = |bytes: &[u8]| {
        let digest = rbuild_image::Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).expect("a blob");
        (digest.to_string(), bytes.len())
    };
    let compress = |tar: &Vec<u8>| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        std::io::Write::write_all(&mut gzip, tar).expect("in memory");
        let (digest, size) = put(&gzip.finish().expect("in memory"));
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size})
    };
    let described: Vec<_> = layers.iter().map(compress).collect();
    let diff_ids: Vec<_> = layers.iter().map(|tar| rbuild_image::Digest::of(tar).to_string()).collect();
    let history: Vec<_> =
        layers.iter().map(|_| json!({"created": "2026-01-01T00:00:00Z", "created_by": "busybox"})).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
        "x-unknown": {"kept": true},
    });
    let (config_digest, config_size) = put(config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config_size},
        "layers": described,
    });
    let (digest, size) = put(manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
        "annotations": {"org.opencontainers.image.ref.name": "latest"},
    }]});
    std::fs::write(layout.join("index.json"), index.to_string()).expect("index.json");
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("oci-layout");
}

/// An ELF file without a program interpreter.
fn is_static(elf: &[u8]) -> bool {
    elf.starts_with(b"\x7fELF") && !elf.windows(8).take(4096).any(|window| window == b"ld-linux")
}

fn rootfs(busybox: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, mode: u32, content: &[u8], link: Option<&str>| {
        let owner = if path.starts_with("home/app") { 1000 } else { 0 };
        let mut header = tar::Header::new_ustar();
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_767_225_600);
        header.set_size(content.len() as u64);
        match link {
            Some(link) => tar.append_link(&mut header, path, link).expect("in memory"),
            None => tar.append_data(&mut header, path, content).expect("in memory"),
        }
    };
    for dir in ["bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr", "usr/bin", "var"] {
        let mode = if dir == "tmp" { 0o1777 } else { 0o755 };
        add(dir, tar::EntryType::Directory, mode, b"", None);
    }
    add("home/app", tar::EntryType::Directory, 0o755, b"", None);
    add("bin/busybox", tar::EntryType::Regular, 0o755, busybox, None);
    for applet in APPLETS {
        add(&format!("bin/{applet}"), tar::EntryType::Symlink, 0o777, b"", Some("busybox"));
    }
    add("etc/passwd", tar::EntryType::Regular, 0o644, PASSWD.as_bytes(), None);
    add("etc/group", tar::EntryType::Regular, 0o644, GROUP.as_bytes(), None);
    tar.into_inner().expect("in memory")
}
