//! Progress of a build on standard error, in one of several forms.

mod json;
mod lines;
mod plain;
mod tty;

use std::io::{self, IsTerminal as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rbuild_builder::event::{DockerfileText, Event, Reason};
use rbuild_dockerfile::Diagnostic;
use rbuild_registry::{Client, Retry};

use crate::args::ProgressMode;
use crate::commands::shown_path;
use crate::render::diagnostic::{self, Colour};
use crate::render::one_line;

/// What is said of a request that will be sent again.
fn retrying(failure: &str, tries: u32, delay: Duration) -> String {
    format!("{}; try {tries} failed, retrying in {:.1}s", one_line(failure), delay.as_secs_f64())
}

/// Why a step was not in the cache.
fn missed(reason: &Reason) -> String {
    format!("not cached: {}", one_line(&reason.to_string()))
}

/// What became of an output.
fn exported(unchanged: bool) -> &'static str {
    if unchanged { "unchanged" } else { "exported" }
}

/// Draws events; `at` is the time since the build began.
trait Draw: Send {
    fn draw(&mut self, event: &Event, at: Duration) -> io::Result<()>;

    /// Takes down what is not meant to stay.
    fn clear(&mut self) {}
}

/// Shows the events of one build. Events may come from several threads.
pub(crate) struct Progress {
    draw: Mutex<Option<Box<dyn Draw>>>,
    started: Instant,
}

impl Progress {
    /// Starts the clock.
    pub(crate) fn new(mode: ProgressMode) -> Self {
        let colour = Colour::on(&io::stderr());
        let draw: Option<Box<dyn Draw>> = match mode {
            ProgressMode::Quiet => None,
            ProgressMode::Rawjson => Some(Box::new(json::Json::new(io::stderr()))),
            ProgressMode::Plain => Some(Box::new(plain::Plain::new(io::stderr(), colour))),
            ProgressMode::Tty => Some(Box::new(tty::Tty::new(colour))),
            ProgressMode::Auto if io::stderr().is_terminal() => Some(Box::new(tty::Tty::new(colour))),
            ProgressMode::Auto => Some(Box::new(plain::Plain::new(io::stderr(), colour))),
        };
        Self { draw: Mutex::new(draw), started: Instant::now() }
    }

    /// Makes a client whose retries are shown.
    pub(crate) fn hear_retries(self: &Arc<Self>, client: Client) -> Client {
        let shown = Arc::clone(self);
        client.on_retry(move |retry| {
            let Retry { failure, tries, delay } = retry.clone();
            shown.event(&Event::Retrying { failure, tries, delay });
        })
    }

    /// Shows one event. When standard error is closed nobody watches, and the build goes on.
    pub(crate) fn event(&self, event: &Event) {
        let at = self.started.elapsed();
        let mut draw = self.draw.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(drawing) = draw.as_mut()
            && drawing.draw(event, at).is_err()
        {
            *draw = None;
        }
    }

    /// Leaves on the terminal only what is meant to stay.
    pub(crate) fn clear(&self) {
        let mut draw = self.draw.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(draw) = draw.as_mut() {
            draw.clear();
        }
    }
}

/// Draws a warning as `rbuild lint` does; an empty line belongs below.
fn warning(finding: &Diagnostic, file: &DockerfileText, colour: Colour) -> String {
    let DockerfileText { name, text } = file;
    let finding = std::slice::from_ref(finding);
    diagnostic::render(&shown_path(name), text, finding, colour)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::Arc;

    use rbuild_dockerfile::{Severity, Span};

    /// What [`warned`] looks like.
    pub(crate) const DRAWN: &str = "\
warning[StageNameCasing]: stage name 'Base' should be lowercase
 --> Dockerfile:1:16
  |
1 | FROM debian AS Base
  |                ^^^^
  |
  = help: write `base`
  = note: https://docs.docker.com/go/dockerfile/rule/stage-name-casing/

";

    pub(crate) fn warned() -> Event {
        let text = "FROM debian AS Base\nRUN true\n".to_owned();
        let start = text.find("Base").unwrap();
        let finding = Diagnostic {
            severity: Severity::Warning,
            rule: Some("StageNameCasing"),
            url: Some("https://docs.docker.com/go/dockerfile/rule/stage-name-casing/"),
            ..Diagnostic::error("stage name 'Base' should be lowercase")
                .at(Span::new(start, start + 4))
                .with_hint("write `base`")
        };
        Event::Warning { finding, file: Arc::new(DockerfileText { name: "./Dockerfile".into(), text }) }
    }
}
