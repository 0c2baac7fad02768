//! Pulls an image into an OCI layout: `cargo run -p rbuild-registry --example pull -- debian:bookworm debian.oci`

use std::sync::Arc;

use rbuild_image::{Layout, Platform, Reference};
use rbuild_registry::{Client, CopyOptions, Progress, Transfer, copy};

#[tokio::main]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "an example talks")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(directory)) = (args.next(), args.next()) else {
        return Err("give the name of an image and a directory".into());
    };
    let name: Reference = name.parse()?;
    let client = Client::from_env()?
        .on_retry(|retry| eprintln!("{}, again in {:.1} s", retry.failure, retry.delay.as_secs_f64()));
    let report = |Progress { digest, size, transfer }: Progress| match transfer {
        Transfer::Finished => eprintln!("{digest} {size} bytes"),
        Transfer::Exists => eprintln!("{digest} is there already"),
        _ => {}
    };
    let options = CopyOptions {
        platform: Some(Platform::host()),
        tags: vec![name.clone()],
        on_progress: Some(Arc::new(report)),
        ..CopyOptions::default()
    };
    let pulled = copy(&client.remote(&name), &Layout::create(directory)?, &name, &options).await?;
    println!("{}", pulled.digest);
    Ok(())
}
