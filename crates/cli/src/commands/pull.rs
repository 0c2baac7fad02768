//! `rbuild pull`: registry to store, or to where a node's runtime reads images.

use anyhow::Context as _;
use rbuild_image::Descriptor;
use rbuild_registry::{CopyOptions, copy};

use super::transfer::{Direction, watch, write_digest};
use super::{containers_storage, open_store, print, remark};
use crate::args::PullArgs;
use crate::settings::{self, Node, Usage};

/// Copies the images of one platform and prints their digests.
pub(crate) async fn run(args: PullArgs) -> anyhow::Result<()> {
    if args.names.len() > 1 && args.transfer.digestfile.is_some() {
        return Err(Usage::new("--digestfile holds one digest, and several images are named").into());
    }
    match &args.into {
        None => into_store(&args).await,
        Some(into) => into_node(&args, &Node::new("--into", into)?).await,
    }
}

async fn into_store(args: &PullArgs) -> anyhow::Result<()> {
    let client = settings::client(&args.transfer.registry)?;
    for text in &args.names {
        // The name of an image is checked first: a mistake in it is one of usage.
        settings::reference(text)?;
        let name = client.reference(text)?;
        let platform = settings::platform(args.platform.as_deref())?;
        let store = open_store(&args.transfer.store)?;
        let (progress, on_progress) = watch(Direction::Pull, name.familiar(), args.transfer.quiet);
        let remote = progress.hear_retries(client.clone()).remote(&name);
        let options = CopyOptions {
            platform: Some(platform),
            tags: vec![name.clone()],
            on_progress: Some(on_progress),
            ..CopyOptions::default()
        };
        let copied = copy(&remote, &store, &name, &options).await;
        progress.clear();
        let descriptor = copied.with_context(|| format!("cannot pull {}", name.familiar()))?;
        write_digest(args.transfer.digestfile.as_deref(), &descriptor)?;
        if !args.transfer.quiet {
            remark(&format!("pulled {} into {}", name.familiar(), store.path().display()));
        }
        print(&format!("{}\n", descriptor.digest))?;
    }
    Ok(())
}

/// Pulls as the service for kubelets does: what broke off is taken up, and names are what runtimes make of them.
async fn into_node(args: &PullArgs, node: &Node) -> anyhow::Result<()> {
    let names = args.names.iter().map(|text| settings::reference(text)).collect::<Result<Vec<_>, _>>()?;
    let options = settings::pull_options(&args.node, &args.transfer.registry, args.platform.as_deref())?;
    let store = node.open(&args.node, &args.transfer.store)?;
    for name in &names {
        let pulled = match &store {
            Some(store) => rbuild_cri::pull(&**store, &options, name, None).await,
            None => containers_storage::pull(&options, name).await?,
        };
        let pulled = pulled.with_context(|| format!("cannot pull {}", name.familiar()))?;
        write_digest(args.transfer.digestfile.as_deref(), &Descriptor::new("", pulled.target, 0))?;
        if !args.transfer.quiet {
            remark(&format!(
                "pulled {}: image {}, {} bytes fetched",
                name.familiar(),
                pulled.id,
                pulled.bytes
            ));
        }
        print(&format!("{}\n", pulled.target))?;
    }
    Ok(())
}
