//! Progress of a build on standard error, in one of several forms.

mod json;
mod lines;
mod plain;
mod tty;

use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rbuild_builder::event::Event;

use crate::args::ProgressMode;

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
        let draw: Option<Box<dyn Draw>> = match mode {
            ProgressMode::Quiet => None,
            ProgressMode::Rawjson => Some(Box::new(json::Json::new(io::stderr()))),
            ProgressMode::Plain => Some(Box::new(plain::Plain::new(io::stderr()))),
            ProgressMode::Tty => Some(Box::new(tty::Tty::new())),
            ProgressMode::Auto if io::stderr().is_terminal() => Some(Box::new(tty::Tty::new())),
            ProgressMode::Auto => Some(Box::new(plain::Plain::new(io::stderr()))),
        };
        Self { draw: Mutex::new(draw), started: Instant::now() }
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
