//! The `rbuild` binary: arguments in, exit code out.

mod args;
mod commands;
mod failure;
mod interrupt;
mod render;
mod settings;

use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::args::{CacheVerb, CacheVerbArgs, Cli, CriArgs, CriVerb, StoreVerb, StoreVerbArgs, Verb};
use crate::commands::parse::Verdict;
use crate::failure::Failure;
use crate::render::diagnostic::Colour;

fn main() -> ExitCode {
    let cli = match Cli::from_args(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no failure. A closed one is not ours to complain about.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(failure::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match run(cli.verb) {
        Ok(code) => code,
        Err(error) => {
            let failure = Failure::of(&error, Colour::on(&io::stderr()));
            // Nobody is left to tell when this fails.
            let _ = io::stderr().lock().write_all(failure.to_string().as_bytes());
            ExitCode::from(failure.code)
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Parse(args) => {
            let verdict = commands::parse::run(&args, Colour::on(&io::stdout()))?;
            return Ok(code(verdict, failure::BUILD));
        }
        Verb::Gc(args) => commands::gc::run(&args)?,
        Verb::Store(StoreVerbArgs { verb: StoreVerb::Verify(args) }) => {
            return Ok(code(commands::verify::run(&args)?, failure::BUILD));
        }
        Verb::Doctor(args) => commands::doctor::run(&args)?,
        Verb::Version => commands::version::run()?,
        verb => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let result = runtime.block_on(network_verb(verb));
            // What still runs in the background, as a read from a silent registry, must not hold up the end.
            runtime.shutdown_background();
            return result;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn code(verdict: Verdict, rejected: u8) -> ExitCode {
    match verdict {
        Verdict::Accepted => ExitCode::SUCCESS,
        Verdict::Warned => ExitCode::from(failure::BUILD),
        Verdict::Rejected => ExitCode::from(rejected),
    }
}

async fn network_verb(verb: Verb) -> anyhow::Result<ExitCode> {
    let done = match verb {
        Verb::Build(args) => {
            return Ok(code(commands::build::run(*args, Colour::on(&io::stdout())).await?, failure::USAGE));
        }
        Verb::Lint(args) => {
            let linted =
                interrupt::or_interrupted(commands::lint::run(args, Colour::on(&io::stdout()))).await;
            return Ok(code(linted?, failure::USAGE));
        }
        Verb::Pull(args) => interrupt::or_interrupted(commands::pull::run(args)).await,
        Verb::Push(args) => interrupt::or_interrupted(commands::push::run(args)).await,
        Verb::Copy(args) => interrupt::or_interrupted(commands::copy::run(args)).await,
        Verb::Images(args) => interrupt::or_interrupted(commands::images::run(args)).await,
        Verb::Inspect(args) => interrupt::or_interrupted(commands::inspect::run(args)).await,
        Verb::Cache(CacheVerbArgs { verb: CacheVerb::Prune(args) }) => {
            interrupt::or_interrupted(commands::cache::run(args)).await
        }
        Verb::Login(args) => interrupt::or_interrupted(commands::login::login(args)).await,
        Verb::Logout(args) => interrupt::or_interrupted(commands::login::logout(args)).await,
        Verb::Cri(CriArgs { verb: CriVerb::Serve(args) }) => {
            interrupt::or_interrupted(commands::cri::run(*args)).await
        }
        Verb::Parse(_) | Verb::Doctor(_) | Verb::Gc(_) | Verb::Store(_) | Verb::Version => Ok(()),
    };
    done.map(|()| ExitCode::SUCCESS)
}
