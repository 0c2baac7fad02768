//! Builds again: what is executed nevertheless, and what moves when nothing changed.

#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::fs;
use std::sync::{Arc, Mutex};

use rbuild_builder::export::{LayerAttributes, Output, OutputKind};
use rbuild_builder::options::{CacheUse, DockerfileSource, Push};
use rbuild_builder::{Build, BuildOptions, Built, Context, Event};
use rbuild_layers::Store;
use rbuild_registry::{Client, ClientOptions, Credentials};
use rbuild_test_registry::{Demand, Method, Registry};

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("context")).unwrap();
        fs::write(dir.path().join("context/file"), vec![b'x'; 100_000]).unwrap();
        Self { store: Store::open(&dir.path().join("store")).unwrap(), dir }
    }

    fn options(&self, text: &str) -> BuildOptions {
        BuildOptions {
            context: Context::dir(self.dir.path().join("context")),
            dockerfile: DockerfileSource::Text { name: "Dockerfile".into(), text: text.into() },
            ..BuildOptions::default()
        }
    }

    /// Runs a build; with it, whether each step was cached, in the order of the plan.
    async fn run(&self, options: BuildOptions) -> (Built, Vec<bool>) {
        let cached = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&cached);
        let client = ClientOptions { credentials: Credentials::none(), ..ClientOptions::default() };
        let build = Build::from(options).store(self.store.clone()).registry(Client::new(client).unwrap());
        let build = build.on_event(move |event| {
            if let Event::StepFinished { id, cached, .. } = event {
                seen.lock().unwrap().push((id, cached));
            }
        });
        let built = build.run().await.unwrap();
        let mut cached = std::mem::take(&mut *cached.lock().unwrap());
        cached.sort_unstable();
        (built, cached.into_iter().map(|(_, cached)| cached).collect())
    }
}

/// Requests that carry content to the registry.
fn sent(registry: &Registry) -> usize {
    [Method::PUT, Method::POST, Method::PATCH].into_iter().map(|method| registry.count(method, "/v2/")).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_changes_nothing_only_asks() {
    let registry = Registry::start(Demand::Nothing).await;
    let bench = Bench::new();
    let options = || BuildOptions {
        tags: ["team/app:1", "team/app:2", "other/app:1"].map(|tag| registry.name(tag).to_string()).into(),
        ..bench.options("FROM scratch\nCOPY file /\nENV A=b\nCOPY file /again\n")
    };
    let (first, _) = bench.run(options()).await;
    assert!(!first.unchanged && first.metadata()["unchanged"] == false);

    let (log, sends, before) = (registry.requests().len(), sent(&registry), registry.traffic());
    let (second, cached) = bench.run(options()).await;
    assert_eq!((second.digest(), cached), (first.digest(), vec![true, true]));
    assert!(second.unchanged && second.metadata()["unchanged"] == true);
    assert_eq!(sent(&registry), sends);
    let asked = registry.requests().split_off(log);
    assert!(asked.iter().all(|request| request.starts_with("HEAD ")), "{asked:?}");
    let received = registry.traffic().received - before.received;
    assert!(received < 8_000, "headers alone: {received} bytes");

    // who else may have the name meanwhile
    registry.forget_manifest("team/app", "2");
    let (third, _) = bench.run(options()).await;
    assert!(!third.unchanged, "a name is given anew");
    assert!(registry.manifest("team/app", "2").is_some());
    let (fourth, _) = bench.run(options()).await;
    assert!(fourth.unchanged);

    // a name that outlived what it leads to
    let layer = first.images[0].descriptor.digest;
    let manifest: serde_json::Value =
        serde_json::from_slice(&registry.manifest("team/app", &layer.to_string()).unwrap()).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
    registry.forget_blob("team/app", layer);
    let (fifth, _) = bench.run(options()).await;
    assert!(!fifth.unchanged && registry.blob("team/app", layer).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_is_not_called_unchanged() {
    let bench = Bench::new();
    let named = |tag: &str, text: &str| BuildOptions {
        tags: vec![tag.into()],
        push: Push::Never,
        ..bench.options(text)
    };
    let text = "FROM scratch\nCOPY file /\n";
    assert!(!bench.run(named("app:1", text)).await.0.unchanged);
    assert!(bench.run(named("app:1", text)).await.0.unchanged);
    assert!(!bench.run(named("app:2", text)).await.0.unchanged, "another name");
    let labelled = format!("{text}LABEL a=b\n");
    assert!(!bench.run(named("app:1", &labelled)).await.0.unchanged, "another config");
    assert!(!bench.run(named("app:1", text)).await.0.unchanged, "the name stood for that one");
    assert!(bench.run(named("app:1", text)).await.0.unchanged);
    assert!(!bench.run(bench.options(text)).await.0.unchanged, "no name can tell");
    let everything = BuildOptions { cache: CacheUse::Ignore, ..named("app:1", text) };
    assert!(!bench.run(everything).await.0.unchanged, "it was made anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_can_be_executed_whatever_the_cache_holds() {
    let bench = Bench::new();
    let text = "FROM scratch AS Base\nCOPY file /base\nFROM base AS one\nCOPY file /one\nFROM scratch AS two\nCOPY file /two\n\
                FROM scratch\nCOPY --from=one /one /\nCOPY --from=two /two /\nCOPY file /last\n";
    let check = async |stages: &[&str], expect: [bool; 6]| {
        let nowhere = Output { kind: OutputKind::CacheOnly, attributes: LayerAttributes::default() };
        let options = BuildOptions {
            no_cache_stages: stages.iter().map(|&stage| stage.to_owned()).collect(),
            outputs: vec![nowhere],
            ..bench.options(text)
        };
        assert_eq!(bench.run(options).await.1, expect, "{stages:?}");
    };
    check(&[], [false; 6]).await;
    check(&[], [true; 6]).await;
    check(&["one"], [true, false, true, true, true, true]).await;
    check(&["ONE", "two"], [true, false, false, true, true, true]).await;
    check(&["BASE"], [false, true, true, true, true, true]).await;
    check(&["nowhere"], [true; 6]).await;
}
