//! Unpacks every layer of an image that is in a store and prints where they are, the lowest first.
//!
//!     cargo run --release -p rbuild-layers --example unpack -- STORE NAME

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::error::Error;
use std::path::Path;

use rbuild_image::{Image, ImageConfig, Manifest, Reference};
use rbuild_layers::unpack::Limits;
use rbuild_layers::{ActiveRootfs, Overlay, Snapshotter, Store};

/// More than any manifest or config has.
const MAX_DOCUMENT: u64 = 4 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, name] = arguments.as_slice() else { return Err("usage: unpack STORE NAME".into()) };
    let store = Store::open(Path::new(store))?;
    let name: Reference = name.parse()?;
    let descriptor = store.layout().get(&name)?.ok_or("the store has no image of this name")?;
    let manifest: Manifest = serde_json::from_slice(&store.read_bytes(&descriptor.digest, MAX_DOCUMENT)?)?;
    let config = store.read_bytes(&manifest.config.digest, MAX_DOCUMENT)?;
    let config: ImageConfig = serde_json::from_slice(&config)?;
    let chain = Image::from_parts(manifest, config)?.chain();
    let active = Overlay::new(store, Limits::default()).prepare(&chain)?;
    if let ActiveRootfs::Overlay { lower, .. } = active.rootfs() {
        lower.iter().for_each(|layer| println!("{}", layer.display()));
    }
    Ok(())
}
