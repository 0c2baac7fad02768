//! Images for CRI-O and podman: pulled into a layout, and put into their storage by the installed skopeo.

use std::process::Stdio;

use anyhow::Context as _;
use rbuild_cri::{OwnStore, PullOptions, Pulled, Sync};
use rbuild_image::Reference;
use tokio::process::Command;

/// Pulls one image. The outer error is skopeo's, the inner one the pull's own.
///
/// The storage's format belongs to a Go library; nobody else writes it with certainty.
pub(super) async fn pull(
    options: &PullOptions,
    name: &Reference,
) -> anyhow::Result<Result<Pulled, rbuild_cri::Error>> {
    let directory = tempfile::Builder::new().prefix("rbuild-pull-").tempdir();
    let directory = directory.context("cannot make a temporary directory")?;
    let layout = OwnStore::layout(directory.path(), Sync::No)?;
    let pulled = match rbuild_cri::pull(&layout, options, name, None).await {
        Ok(pulled) => pulled,
        failed => return Ok(failed),
    };
    let source = match name.tag().filter(|_| name.digest().is_none()) {
        Some(tag) => format!("oci:{}:{tag}", directory.path().display()),
        None => format!("oci:{}", directory.path().display()),
    };
    let target = format!("containers-storage:{name}");
    // The policy has been checked already, for the place the image came from.
    let mut skopeo = Command::new("skopeo");
    skopeo
        .args(["--insecure-policy", "copy", "--quiet", &source, &target])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let done =
        skopeo.output().await.context("cannot run skopeo, which writes containers-storage: install it")?;
    if done.status.success() {
        return Ok(Ok(pulled));
    }
    anyhow::bail!("skopeo cannot store {name}: {}", String::from_utf8_lossy(&done.stderr).trim())
}
