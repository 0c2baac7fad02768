//! `rbuild cri serve`: the images of a node, for its kubelet.

use anyhow::Context as _;
use rbuild_cri::{Event, Events, Listener, Service, normalised, serve, serve_metrics};
use serde_json::json;
use tokio::net::TcpListener;

use super::remark;
use crate::args::{CriServeArgs, LogFormat};
use crate::settings::{self, Node, Usage};

/// Serves until it is dropped.
pub(crate) async fn run(args: CriServeArgs) -> anyhow::Result<()> {
    let mut options = settings::pull_options(&args.node, &args.registry, None)?;
    for name in &args.pinned {
        let name = normalised(name).map_err(|error| Usage::new(format!("--pin {name}: {error}")))?;
        options.pinned.push(name);
    }
    let store = Node::new("--store", &args.store)?.open(&args.node, &args.work)?;
    let store =
        store.ok_or_else(|| Usage::new("--store containers-storage cannot be served, only pulled into"))?;
    let log = args.log;
    let service = Service::new(store, options, Events::to(move |event| remark(&line(event, log))));
    let listener = match Listener::from_env()? {
        Some(listener) => listener,
        None => Listener::bind(settings::socket("--listen", &args.listen)?)?,
    };
    let metrics = service.metrics();
    let served = serve(&listener, service, std::future::pending());
    match args.metrics {
        None => served.await.context("cannot serve"),
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("cannot listen on {address} for --metrics"))?;
            tokio::select! {
                done = served => done.context("cannot serve"),
                done = serve_metrics(&listener, metrics) => done.context("cannot serve metrics"),
            }
        }
    }
}

/// An event as one line.
fn line(event: &Event, format: LogFormat) -> String {
    let fields = match event {
        Event::Pulled { name, pulled, took } => json!({
            "event": "pulled", "image": name, "id": pulled.id, "digest": pulled.target, "bytes": pulled.bytes,
            "seconds": took.as_secs_f64(),
        }),
        Event::PullFailed { name, reason, took } => {
            json!({ "event": "pull failed", "image": name, "reason": reason, "seconds": took.as_secs_f64() })
        }
        Event::Removed { id } => json!({ "event": "removed", "id": id }),
        _ => json!({}),
    };
    if format == LogFormat::Json {
        return fields.to_string();
    }
    let fields = fields.as_object().into_iter().flatten();
    let shown = fields.filter(|(key, _)| *key != "event").map(|(key, value)| format!(" {key}={value}"));
    let kind = match event {
        Event::Pulled { .. } => "pulled",
        Event::PullFailed { .. } => "pull failed",
        _ => "removed",
    };
    std::iter::once(kind.to_owned()).chain(shown).collect()
}
