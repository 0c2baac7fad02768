//! Plans against the answers BuildKit gave: images and histories of the default target, and which files are accepted.
//!
//! The corpora are not part of the repository; without them the tests say so and pass.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test, which says what it skips")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rbuild_builder::plan::{
    self, Base, CopySource, ImageRequest, Plan, PlanError, PlanOptions, PlatformOrigin, RunStep, Scope,
    StepKind,
};
use rbuild_dockerfile::{Diagnostic, Dockerfile};
use rbuild_image::{History, ImageConfig, Platform};
use serde_json::{Value, json};

struct Case {
    name: String,
    text: Vec<u8>,
    expect: Value,
    build_args: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

#[expect(clippy::disallowed_methods, reason = "where the corpora are is told by the environment")]
fn corpora() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpora");
    let root = std::env::var_os("RBUILD_CORPORA").map_or_else(beside, PathBuf::from);
    if root.is_dir() {
        return Some(root);
    }
    eprintln!("skipped: no corpora at {}", root.display());
    None
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("corpus file")).expect("corpus JSON")
}

fn strings(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_object().into_iter().flatten();
    entries.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

#[test]
fn git_references_are_read_as_buildkit_reads_them() {
    use rbuild_builder::context::{CheckoutTime, GitRef, WrittenIn};
    let Some(root) = corpora() else { return };
    let table = json_file(&root.join("tables/gitref.json"));
    for case in table.as_array().unwrap() {
        let (text, expect) = (case["ref"].as_str().unwrap(), &case["expect"]);
        let got = GitRef::parse(text, WrittenIn::Dockerfile);
        assert_eq!(!matches!(got, Ok(None)), expect["is_git"] == true, "{text}");
        let Ok(Some(got)) = got else {
            assert!(expect.get("error").is_some(), "{text}: {got:?}");
            continue;
        };
        let time = got.mtime.map(|time| if time == CheckoutTime::Commit { "commit" } else { "checkout" });
        let shown = json!({
            "Remote": got.remote, "ShortName": got.short_name, "Ref": got.reference.unwrap_or_default(),
            "Checksum": got.checksum.unwrap_or_default(), "SubDir": got.subdir.unwrap_or_default(),
            "IndistinguishableFromLocal": got.is_ambiguous, "UnencryptedTCP": got.is_unencrypted,
            "KeepGitDir": got.keep_git_dir, "Submodules": got.submodules,
            "MTime": time.unwrap_or_default(), "FetchByCommit": got.fetch_by_commit,
        });
        assert_eq!(shown, expect["ref"], "{text}");
    }
}

fn cases(root: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    for table in ["corners", "features", "snippets"] {
        for (index, case) in
            json_file(&root.join(format!("tables/{table}.json"))).as_array().unwrap().iter().enumerate()
        {
            let label = case.get("name").or(case.get("feature")).and_then(Value::as_str).unwrap_or("");
            let text = case.get("dockerfile").or(case.get("text")).and_then(Value::as_str).unwrap();
            cases.push(Case {
                name: format!("{table}/{index} {label}"),
                text: text.as_bytes().to_vec(),
                expect: case["expect"].clone(),
                build_args: strings(&case["build_args"]),
                labels: strings(&case["labels"]),
            });
        }
    }
    for suite in ["parse", "build"] {
        collect(&root.join(suite), &mut cases);
    }
    cases
}

fn collect(folder: &Path, cases: &mut Vec<Case>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            collect(&path, cases);
        } else if name.ends_with("expect.json") {
            let dockerfile = match name.strip_suffix(".expect.json") {
                Some(bare) => path.with_file_name(bare),
                None => path.with_file_name("Dockerfile"),
            };
            cases.push(Case {
                name: path.display().to_string(),
                text: fs::read(dockerfile).unwrap(),
                expect: json_file(&path),
                build_args: BTreeMap::new(),
                labels: BTreeMap::new(),
            });
        }
    }
}

/// The base image of the corpora, whatever its name.
fn base() -> ImageConfig {
    serde_json::from_value(json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{:064x}", 1)]},
        "history": [{"created_by": "base"}],
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"]},
    }))
    .unwrap()
}

fn make_plan(case: &Case, scope: Scope) -> Result<Plan, PlanError> {
    let (dockerfile, diagnostics) = Dockerfile::parse(&case.text);
    let errors: Vec<Diagnostic> = diagnostics.into_iter().filter(Diagnostic::is_error).collect();
    if !errors.is_empty() {
        return Err(PlanError(errors));
    }
    let amd64 = Platform::new("linux", "amd64");
    let options = PlanOptions {
        build_args: case.build_args.clone(),
        labels: case.labels.clone(),
        platform: amd64.clone(),
        platform_origin: PlatformOrigin::Requested,
        build_platform: amd64,
        scope,
        ..PlanOptions::default()
    };
    let mut graph = plan::graph(&dockerfile, &options)?;
    let mut bases: BTreeMap<ImageRequest, ImageConfig> = BTreeMap::new();
    loop {
        let missing = graph.missing(&bases)?;
        if missing.is_empty() {
            break;
        }
        bases.extend(missing.into_iter().map(|request| (request, base())));
    }
    plan::lower(&dockerfile, graph, &options, &bases)
}

/// The target's history: the base image's, then what the steps of the chain of stages add.
fn history(plan: &Plan, stage: usize) -> Vec<History> {
    let planned = &plan.stages[stage];
    let mut history = match &planned.base {
        Base::Scratch => Vec::new(),
        Base::Image(_) => planned.config.history.clone(),
        Base::Stage(base) => history(plan, *base),
    };
    history.extend(planned.steps.iter().filter_map(|step| step.history.clone()));
    history
}

/// The steps that run or write, from the first stage of the target's chain on.
fn chain_runs(plan: &Plan, stage: usize) -> Vec<RunStep> {
    let planned = &plan.stages[stage];
    let mut runs = match &planned.base {
        Base::Stage(base) => chain_runs(plan, *base),
        Base::Scratch | Base::Image(_) => Vec::new(),
    };
    runs.extend(planned.steps.iter().filter_map(|step| match &step.kind {
        StepKind::Run(run) => Some(run.clone()),
        _ => None,
    }));
    runs
}

fn report(what: &str, passed: usize, failures: &[String]) {
    assert!(
        failures.is_empty(),
        "{what}: {passed} passed, {} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(passed > 100, "{what}: only {passed} cases");
    eprintln!("{what}: {passed} passed");
}

/// Refusals of what is not executed, allowed or given are no difference of language.
fn is_refusal(error: &PlanError) -> bool {
    let refused = |error: &Diagnostic| {
        let message = &error.message;
        message.ends_with("is not supported yet")
            || message.starts_with("the frontend ")
            || message.contains(" cannot run on ")
            || message.ends_with(" is not allowed")
            || (message.starts_with("secret ") && message.ends_with(": not found"))
    };
    error.0.iter().all(refused)
}

#[test]
fn default_targets_have_buildkits_config_and_history() {
    let Some(root) = corpora() else { return };
    let (mut passed, mut failures) = (0, Vec::new());
    for case in cases(&root) {
        let convert = &case.expect["convert"];
        let result = make_plan(&case, Scope::Target);
        let result = match result {
            Err(error) if is_refusal(&error) => make_plan(&case, Scope::All),
            result => result,
        };
        let difference = match (convert.get("image"), convert.get("error"), result) {
            (None, None, _) => continue,
            (Some(image), _, Ok(plan)) => config_difference(image, &plan),
            (Some(_), _, Err(error)) => Some(format!("want an image, got {error}")),
            (None, Some(_), Err(_)) => None,
            // The lint rules of the whole file are another crate's.
            (None, Some(error), Ok(_)) if error.as_str().unwrap().starts_with("lint violation") => continue,
            (None, Some(error), Ok(_)) => Some(format!("want the error {error}")),
        };
        match difference {
            None => passed += 1,
            Some(text) => failures.push(format!("{}: {text}", case.name)),
        }
    }
    report("config and history", passed, &failures);
}

fn config_difference(image: &Value, plan: &Plan) -> Option<String> {
    let stage = &plan.stages[plan.target];
    let config = ImageConfig { history: history(plan, plan.target), ..stage.config.clone() };
    let mut got = serde_json::to_value(&config).unwrap();
    let mut want = image.clone();
    for value in [&mut got, &mut want] {
        value.as_object_mut().unwrap().remove("rootfs");
        value.as_object_mut().unwrap().retain(|_, value| !value.is_null() && *value != json!([]));
    }
    if got["config"] == json!({}) {
        got.as_object_mut().unwrap().remove("config");
    }
    (got != want).then(|| format!("\n  want {want}\n  got  {got}"))
}

#[test]
fn steps_run_and_copy_as_buildkit_says() {
    let Some(root) = corpora() else { return };
    let (mut passed, mut failures) = (0, Vec::new());
    for case in cases(&root) {
        let Some(ops) = case.expect["convert"]["ops"].as_array() else { continue };
        let Ok(plan) = make_plan(&case, Scope::Target).or_else(|_| make_plan(&case, Scope::All)) else {
            continue;
        };
        let runs: Vec<RunStep> = chain_runs(&plan, plan.target);
        let mut metas: Vec<&Value> =
            ops.iter().filter_map(|op| op.get("exec")).map(|exec| &exec["meta"]).collect();
        let mut difference = None;
        for run in &runs {
            let want = run_meta(run);
            match metas.iter().position(|meta| same_meta(meta, &want)) {
                Some(index) => {
                    metas.remove(index);
                }
                None => difference = Some(format!("no RUN\n  got {want}\n  of {metas:?}")),
            }
        }
        let copied: Vec<String> = ops
            .iter()
            .filter_map(|op| op["file"]["actions"].as_array())
            .flatten()
            .filter_map(|action| action["copy"]["dest"].as_str().map(str::to_owned))
            .collect();
        for destination in destinations(&plan) {
            if !copied.iter().any(|dest| {
                dest.strip_suffix('.').filter(|d| d.ends_with('/')).unwrap_or(dest) == destination
            }) {
                difference = Some(format!("no COPY to {destination} in {copied:?}"));
            }
        }
        match difference {
            None => passed += 1,
            Some(text) => failures.push(format!("{}: {text}", case.name)),
        }
    }
    report("steps", passed, &failures);
}

fn destinations(plan: &Plan) -> Vec<String> {
    let local = |source: &CopySource| !matches!(source, CopySource::Git(_) | CopySource::Url(_));
    let steps = plan.stages[plan.target].steps.iter();
    steps
        .filter_map(|step| match &step.kind {
            StepKind::Copy(copy) if copy.sources.iter().all(local) => Some(copy.destination.clone()),
            _ => None,
        })
        .collect()
}

fn run_meta(run: &RunStep) -> Value {
    let cached = run.env.iter().filter(|(name, _)| !run.uncached_env.contains(name));
    let env: Vec<String> = cached.map(|(name, value)| format!("{name}={value}")).collect();
    let mut meta = json!({"args": run.argv, "cwd": run.cwd, "env": env});
    if !run.user.is_empty() {
        meta["user"] = json!(run.user);
    }
    meta
}

fn same_meta(meta: &Value, want: &Value) -> bool {
    ["args", "cwd", "env", "user"].iter().all(|key| meta.get(key) == want.get(key))
}

#[test]
fn whole_files_are_accepted_as_buildkit_accepts_them() {
    let Some(root) = corpora() else { return };
    let (mut passed, mut failures) = (0, Vec::new());
    for case in cases(&root) {
        if !case.build_args.is_empty() || !case.labels.is_empty() || case.name.starts_with("snippets") {
            continue;
        }
        let parts = ["ast", "instr", "lint", "convert"];
        let rejection =
            parts.iter().find_map(|part| case.expect[part].get("error").map(|error| (part, error)));
        if rejection.is_none() && case.expect.get("lint").is_none() {
            continue;
        }
        let linted = rejection.is_some_and(|(part, error)| {
            **part == *"lint" && error.as_str().is_some_and(|error| error.starts_with("lint violation"))
        });
        if linted {
            continue;
        }
        match (rejection, make_plan(&case, Scope::All)) {
            (None, Ok(_)) | (Some(_), Err(_)) => passed += 1,
            (None, Err(error)) => failures.push(format!("{}: want ok, got {error}", case.name)),
            (Some((_, error)), Ok(_)) => failures.push(format!("{}: want {error}", case.name)),
        }
    }
    report("accept and reject", passed, &failures);
}

#[test]
fn findings_are_buildkits_word_for_word() {
    let Some(root) = corpora() else { return };
    let (mut passed, mut failures) = (0, Vec::new());
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for case in cases(&root) {
        let Some(warnings) = case.expect["lint"]["warnings"].as_array() else { continue };
        let Ok(plan) = make_plan(&case, Scope::All) else { continue };
        let text = |warning: &Value, key: &str| warning[key].as_str().unwrap().to_owned();
        let line = |warning: &Value, key: &str| u32::try_from(warning[key].as_u64().unwrap()).unwrap();
        let want: BTreeSet<_> = warnings
            .iter()
            .map(|one| (text(one, "rule"), (line(one, "start"), line(one, "end")), text(one, "message")))
            .collect();
        let (dockerfile, _) = Dockerfile::parse(&case.text);
        let got: BTreeSet<_> = plan::findings(&dockerfile, &plan.into(), None)
            .into_iter()
            .map(|one| (one.rule.unwrap().to_owned(), one.lines.unwrap_or_default(), one.message))
            // The base that is assumed here is for amd64.
            .filter(|(rule, ..)| rule != "InvalidBaseImagePlatform")
            .collect();
        for (rule, ..) in &got {
            *counts.entry(rule.clone()).or_default() += 1;
        }
        if want == got {
            passed += 1;
        } else {
            failures.push(format!("{}: want {want:?}, got {got:?}", case.name));
        }
    }
    eprintln!("findings: {counts:?}");
    report("findings", passed, &failures);
}
