//! `rbuild build`.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use anyhow::Context as _;
use rbuild_builder::export::{Destination, Output, OutputKind};
use rbuild_builder::{Bases, Build, Built};
use rbuild_sandbox::Cancel;

use super::parse::Verdict;
use super::{call, environment, lint, open_store, print, remark};
use crate::args::{BuildArgs, ProgressMode};
use crate::interrupt::{self, Signals};
use crate::render::diagnostic::Colour;
use crate::render::progress::Progress;
use crate::render::report;
use crate::settings::{self, BuildSettings, Call, Usage};

/// Builds, and says what came of it; or does what `--call` asks for instead.
pub(crate) async fn run(args: BuildArgs, colour: Colour) -> anyhow::Result<Verdict> {
    let call = Call::new(&args)?;
    let settings = BuildSettings::new(&args, &environment)?;
    match call {
        Call::Build => build_image(args, settings).await?,
        Call::Check(format) => {
            let build = with_images(&args, settings)?;
            let check = async { Ok(build.check(Bases::Resolve).await) };
            return lint::report(interrupt::or_interrupted(check).await?, format, colour);
        }
        Call::Outline(format) => {
            let outline = async { Ok(with_images(&args, settings)?.outline().await?) };
            let (dockerfile, outline) = interrupt::or_interrupted(outline).await?;
            call::outline(&dockerfile, &outline, format)?;
        }
        Call::Targets(format) => {
            let build = match settings.options.context.holds_dockerfile() {
                true => with_images(&args, settings)?,
                false => Build::from(settings.options),
            };
            let targets = async { Ok(build.read().await?) };
            let (_, dockerfile) = interrupt::or_interrupted(targets).await?;
            call::targets(&dockerfile, format)?;
        }
    }
    Ok(Verdict::Accepted)
}

/// A build that can ask for base images.
fn with_images(args: &BuildArgs, settings: BuildSettings) -> anyhow::Result<Build> {
    let build = Build::from(settings.options).store(open_store(&args.store)?);
    Ok(build.registry(settings::client(&args.registry)?))
}

async fn build_image(args: BuildArgs, settings: BuildSettings) -> anyhow::Result<()> {
    let BuildSettings { options, progress: mode } = settings;
    let takes_stdout = check_stdout(&options.outputs)?;
    let progress = Arc::new(Progress::new(mode));
    let limit = args.disk_limit.as_deref().map(|text| settings::bytes("--disk-limit", text)).transpose()?;
    let store = open_store(&args.store)?;
    if let Some(limit) = limit {
        store.limit(limit).context("cannot hold the store to --disk-limit")?;
    }
    let build = Build::from(options.clone()).store(store).registry(settings::client(&args.registry)?);
    let result = run_interruptibly(build, &progress).await;
    progress.clear();
    let built = result?;
    write_files(&args, &built)?;
    match mode {
        ProgressMode::Quiet if takes_stdout => Ok(()),
        ProgressMode::Quiet => print(&format!("{}\n", built.digest())),
        ProgressMode::Rawjson => Ok(()),
        _ => {
            remark(&report::summary(&options, &built));
            Ok(())
        }
    }
}

/// Runs the build; the first signal cancels it and waits until nothing of it is left, a second one does not wait.
async fn run_interruptibly(build: Build, progress: &Arc<Progress>) -> anyhow::Result<Built> {
    let mut signals = Signals::listen()?;
    let cancel = Cancel::new();
    let shown = Arc::clone(progress);
    let build = build.cancel(cancel.clone()).on_event(move |event| shown.event(&event));
    let mut running = pin!(build.run());
    let signal = tokio::select! {
        result = &mut running => return Ok(result?),
        signal = signals.next() => signal,
    };
    cancel.cancel();
    tokio::select! {
        _ = running => {}
        _ = signals.next() => {}
    }
    Err(signal.into())
}

/// Tells whether an output goes to standard output, which has room for one and must not be a terminal.
fn check_stdout(outputs: &[Output]) -> Result<bool, Usage> {
    let to_stdout = |output: &&Output| {
        use OutputKind::{Docker, Oci, Tar};
        let (Oci { dest, .. } | Docker { dest, .. } | Tar(dest)) = &output.kind else { return false };
        *dest == Destination::Stdout
    };
    match outputs.iter().filter(to_stdout).count() {
        0 => Ok(false),
        1 if io::stdout().is_terminal() => {
            Err(Usage::new("a tar would go to the terminal").hint("add dest=FILE to --output, or a pipe"))
        }
        1 => Ok(true),
        _ => {
            Err(Usage::new("two outputs cannot share standard output").hint("add dest=FILE to one --output"))
        }
    }
}

fn write_files(args: &BuildArgs, built: &Built) -> anyhow::Result<()> {
    let write = |path: &Path, text: &str| {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    if let Some(path) = &args.iidfile {
        write(path, &built.config_digest().unwrap_or_else(|| built.digest()).to_string())?;
    }
    if let Some(path) = &args.metadata_file {
        write(path, &format!("{}\n", serde_json::to_string_pretty(&built.metadata())?))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuild_builder::export::LayerAttributes;

    #[test]
    fn standard_output_takes_one_tar() {
        let tar = |dest| Output { kind: OutputKind::Tar(dest), attributes: LayerAttributes::default() };
        let file = || Destination::File("a.tar".into());
        assert_eq!(check_stdout(&[]), Ok(false));
        assert_eq!(check_stdout(&[tar(file()), tar(file())]), Ok(false));
        let two = check_stdout(&[tar(Destination::Stdout), tar(Destination::Stdout)]).unwrap_err();
        assert_eq!(two.to_string(), "two outputs cannot share standard output");
    }
}
