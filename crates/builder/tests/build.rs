//! Whole builds over a private store: what is cached, what is fetched, what is refused.

#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rbuild_builder::context::NamedContext;
use rbuild_builder::execute::StepError;
use rbuild_builder::export::{Destination, LayerAttributes, OciForm, Output, OutputKind, Timestamps};
use rbuild_builder::options::DockerfileSource;
use rbuild_builder::{Build, BuildError, BuildOptions, Built, Context, Event, Failure};
use rbuild_image::{Layout, ManifestOrIndex};
use rbuild_layers::Store;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(bench.path("context")).unwrap();
        fs::write(bench.path("context/file"), "content").unwrap();
        bench
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn options(&self, text: &str) -> BuildOptions {
        BuildOptions {
            context: Context::dir(self.path("context")),
            dockerfile: DockerfileSource::Text { name: "Dockerfile".into(), text: text.into() },
            source_date_epoch: Some(1_700_000_000),
            ..BuildOptions::default()
        }
    }

    fn layout_output(&self, name: &str) -> Output {
        let dest = Destination::File(self.path(name));
        let kind = OutputKind::Oci { dest, form: OciForm::Directory, names: Vec::new() };
        Output {
            kind,
            attributes: LayerAttributes { timestamps: Timestamps::Rewrite, ..LayerAttributes::default() },
        }
    }

    /// Runs a build in the named store; with it, for every step whether it was cached.
    async fn run(&self, store: &str, options: BuildOptions) -> Result<(Built, Vec<bool>), BuildError> {
        let cached = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&cached);
        let built = Build::from(options)
            .store(Store::open(&self.path(store)).unwrap())
            .on_event(move |event| {
                if let Event::StepFinished { cached, .. } = event {
                    seen.lock().unwrap().push(cached);
                }
            })
            .run()
            .await?;
        let cached = cached.lock().unwrap().clone();
        Ok((built, cached))
    }
}

fn layers(layout: &Path) -> Vec<String> {
    let layout = Layout::open(layout).unwrap();
    let descriptor = layout.by_tag(None).unwrap();
    let bytes = layout.read(&descriptor).unwrap();
    let ManifestOrIndex::Manifest(manifest) = ManifestOrIndex::parse(&descriptor.media_type, bytes).unwrap()
    else {
        panic!("an index")
    };
    manifest.value().layers.iter().map(|layer| layer.digest.hex()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_inputs_give_the_same_image_and_hit_the_cache() {
    let bench = Bench::new();
    let text = "FROM scratch AS a\nCOPY file /a/\nENV A=b\nFROM scratch\nCOPY --from=a /a /b\n";
    let build = |store: &'static str, output: &str| {
        let options = BuildOptions { outputs: vec![bench.layout_output(output)], ..bench.options(text) };
        bench.run(store, options)
    };
    let (first, cached) = build("store", "one").await.unwrap();
    assert_eq!(cached, [false, false]);
    let (second, cached) = build("store", "two").await.unwrap();
    assert_eq!(cached, [true, true]);
    let (third, cached) = build("other", "three").await.unwrap();
    assert_eq!(cached, [false, false]);
    assert_eq!((first.digest(), second.digest()), (second.digest(), third.digest()));
    assert_eq!(layers(&bench.path("one")).len(), 1);

    fs::write(bench.path("context/unrelated"), "").unwrap();
    let (_, cached) = build("store", "four").await.unwrap();
    assert_eq!(cached, [true, true], "a file that no step reads changes nothing");
    fs::write(bench.path("context/file"), "changed").unwrap();
    let (changed, cached) = build("store", "five").await.unwrap();
    assert_eq!(cached, [false, false]);
    assert_ne!(changed.digest(), first.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_no_step_reads_is_not_fetched() {
    let bench = Bench::new();
    let base = BuildOptions {
        outputs: vec![bench.layout_output("base")],
        ..bench.options("FROM scratch\nCOPY file /\nENV A=b\n")
    };
    bench.run("store", base).await.unwrap();
    let context = (
        "base".to_owned(),
        NamedContext::parse(&format!("base=oci-layout://{}", bench.path("base").display())).unwrap().1,
    );
    let labelled = |output| BuildOptions {
        named_contexts: [context.clone()].into(),
        outputs: vec![output],
        ..bench.options("FROM base\nLABEL a=b\n")
    };
    let nowhere = Output { kind: OutputKind::CacheOnly, attributes: LayerAttributes::default() };
    bench.run("fresh", labelled(nowhere)).await.unwrap();
    let layer = layers(&bench.path("base")).remove(0);
    let stored = |store: &str| bench.path(store).join("blobs/sha256").join(&layer).exists();
    assert!(!stored("fresh"));

    bench.run("fresh", labelled(bench.layout_output("labelled"))).await.unwrap();
    assert!(!stored("fresh"), "it goes straight from the base to the layout");
    assert_eq!(layers(&bench.path("labelled")), [layer]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_name_stays_in_the_store_and_can_be_built_upon() {
    let bench = Bench::new();
    let named = BuildOptions { tags: vec!["app:1".into()], ..bench.options("FROM scratch\nCOPY file /\n") };
    let (built, _) = bench.run("store", named).await.unwrap();
    assert_eq!(built.names, ["docker.io/library/app:1"]);
    let above = BuildOptions {
        outputs: vec![bench.layout_output("above")],
        ..bench.options("FROM app:1\nCOPY file /second\n")
    };
    bench.run("store", above).await.unwrap();
    assert_eq!(layers(&bench.path("above")).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_what_kind_they_are() {
    let bench = Bench::new();
    let check = async |text: &str, expect: Failure| {
        let output = Output { kind: OutputKind::CacheOnly, attributes: LayerAttributes::default() };
        let options = BuildOptions { outputs: vec![output], ..bench.options(text) };
        let error = bench.run("store", options).await.expect_err(text);
        assert_eq!(error.failure(), expect, "{text}: {error}");
    };
    check("FROM scratch\nCOPPY a b\n", Failure::Usage).await;
    check("FROM scratch\nRUN --security=insecure x\n", Failure::Usage).await;
    check("FROM scratch\nCOPY missing /\n", Failure::Build).await;
    check("FROM nowhere.invalid/x\nCOPY file /\n", Failure::Registry).await;
}

/// A RUN needs a statically linked program in its rootfs and an isolation that works.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_step_changes_the_rootfs_and_tells_how_it_failed() {
    let bench = Bench::new();
    let Some(busybox) =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).is_file())
    else {
        eprintln!("skipped: there is no busybox");
        return;
    };
    if let Err(unavailable) = rbuild_sandbox::Sandbox::detect(bench.dir.path()) {
        eprintln!("skipped: {unavailable}");
        return;
    }
    fs::copy(busybox, bench.path("context/busybox")).unwrap();
    let shell = "FROM scratch\nCOPY busybox /bin/\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n";
    let text = format!(
        "{shell}RUN echo made > /made && busybox mkdir /dir && busybox chown 5:6 /dir\n\
         RUN busybox rm /made\nRUN --mount=type=cache,target=/c --mount=type=bind,target=/b cmp /b/file /b/file"
    );
    let options = || BuildOptions { outputs: vec![bench.layout_output("image")], ..bench.options(&text) };
    let (first, cached) = bench.run("store", options()).await.unwrap();
    assert_eq!(cached, [false; 4]);
    let (second, cached) = bench.run("store", options()).await.unwrap();
    assert_eq!(cached, [true; 4]);
    assert_eq!(first.digest(), second.digest());

    let failing = bench.options(&format!("{shell}RUN echo last words; exit 7"));
    let error = bench.run("store", failing).await.expect_err("it exits with 7");
    let BuildError::Step(failed) = error else { panic!("{error}") };
    let StepError::Exit { code, output, .. } = &failed.source else { panic!("{failed}") };
    let line = rbuild_dockerfile::line_col(&failed.place.text, failed.place.span.start).0;
    assert_eq!((*code, line), (7, 4));
    assert_eq!(output, &["last words"]);
}
