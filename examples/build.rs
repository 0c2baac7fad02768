//! Builds an image and pushes it, in ten lines: `cargo run --example build -- CONTEXT NAME`.

#![expect(clippy::print_stdout, reason = "an example prints")]

use rbuild_builder::{Build, Context, Event};
use rbuild_layers::Store;
use rbuild_registry::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [context, name] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "usage: build CONTEXT NAME")?;
    let built = Build::new(Context::dir(context))
        .store(Store::from_env()?)
        .registry(Client::from_env()?)
        .dockerfile("Dockerfile")
        .tag(name)
        .on_event(show)
        .run()
        .await?;
    println!("{} {} bytes", built.digest(), built.size);
    Ok(())
}

fn show(event: Event) {
    match event {
        Event::StepStarted { stage, number, total, display, .. } => {
            println!("[{stage} {number}/{total}] {display}");
        }
        Event::StepOutput { bytes, .. } => print!("{}", String::from_utf8_lossy(&bytes)),
        Event::StepFinished { cached: true, .. } => println!("CACHED"),
        _ => {}
    }
}
