//! What happens, for whoever logs or counts it.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rbuild_image::Digest;

use crate::error::Error;
use crate::pull::Pulled;

/// Something that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// An image was pulled.
    Pulled {
        /// The name it was asked for by.
        name: String,
        /// What came.
        pulled: Pulled,
        /// How long it took.
        took: Duration,
    },
    /// An image could not be pulled.
    PullFailed {
        /// The name it was asked for by.
        name: String,
        /// What the caller was told.
        reason: String,
        /// How long it took.
        took: Duration,
    },
    /// An image was removed.
    Removed {
        /// Its ID.
        id: Digest,
    },
}

type Listener = dyn Fn(&Event) + Send + Sync;

/// Who hears of events.
#[derive(Clone, Default)]
pub struct Events(Option<Arc<Listener>>);

impl Events {
    /// Nobody.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A function, called from several tasks at once.
    pub fn to(listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    pub(crate) fn emit(&self, event: &Event) {
        if let Some(listener) = &self.0 {
            listener(event);
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// Counters, all since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    running: AtomicU64,
    pulled: AtomicU64,
    failed: AtomicU64,
    abandoned: AtomicU64,
    removed: AtomicU64,
    bytes: AtomicU64,
}

impl Metrics {
    /// Prints them as Prometheus reads them.
    ///
    /// # References
    /// Prometheus, "Exposition formats"
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut metric = |name: &str, kind: &str, help: &str, values: &[(&str, u64)]| {
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            for (labels, value) in values {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        metric("rbuild_cri_pulls_running", "gauge", "Pulls under way.", &[("", read(&self.running))]);
        let outcomes = [
            ("{outcome=\"pulled\"}", read(&self.pulled)),
            ("{outcome=\"failed\"}", read(&self.failed)),
            ("{outcome=\"abandoned\"}", read(&self.abandoned)),
        ];
        metric("rbuild_cri_pulls_total", "counter", "Pulls that ended, by outcome.", &outcomes);
        let bytes = [("", read(&self.bytes))];
        metric(
            "rbuild_cri_fetched_bytes_total",
            "counter",
            "Bytes of layers fetched by pulls that succeeded.",
            &bytes,
        );
        metric("rbuild_cri_removals_total", "counter", "Images removed.", &[("", read(&self.removed))]);
        text
    }

    pub(crate) fn begin(self: &Arc<Self>) -> Counted {
        self.running.fetch_add(1, Ordering::Relaxed);
        Counted { metrics: Arc::clone(self), ended: false }
    }

    pub(crate) fn removed(&self) {
        self.removed.fetch_add(1, Ordering::Relaxed);
    }
}

/// A pull that is being counted; dropped, its caller has gone away.
pub(crate) struct Counted {
    metrics: Arc<Metrics>,
    ended: bool,
}

impl Counted {
    pub(crate) fn end(mut self, outcome: &Result<Pulled, Error>) {
        self.ended = true;
        match outcome {
            Ok(pulled) => {
                self.metrics.pulled.fetch_add(1, Ordering::Relaxed);
                self.metrics.bytes.fetch_add(pulled.bytes, Ordering::Relaxed);
            }
            Err(_) => drop(self.metrics.failed.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.running.fetch_sub(1, Ordering::Relaxed);
        if !self.ended {
            self.metrics.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulls_are_counted_by_how_they_end() {
        let metrics = Arc::new(Metrics::default());
        let digest = Digest::of(b"");
        metrics.begin().end(&Ok(Pulled { id: digest, target: digest, bytes: 7 }));
        metrics.begin().end(&Err(Error::Interrupted));
        drop(metrics.begin());
        let running = metrics.begin();
        let text = metrics.text();
        for line in [
            "rbuild_cri_pulls_running 1",
            "rbuild_cri_pulls_total{outcome=\"pulled\"} 1",
            "rbuild_cri_pulls_total{outcome=\"failed\"} 1",
            "rbuild_cri_pulls_total{outcome=\"abandoned\"} 1",
            "rbuild_cri_fetched_bytes_total 7",
        ] {
            assert!(text.lines().any(|has| has == line), "{line}\n{text}");
        }
        drop(running);
    }
}
