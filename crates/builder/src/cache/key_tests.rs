use proptest::collection::vec;
use proptest::prelude::*;
use rbuild_dockerfile::Span;
use rbuild_image::History;

use super::*;
use crate::plan::ImageRequest;

fn text() -> impl Strategy<Value = String> {
    // A small alphabet, with empty texts, makes lists that differ only in where an item ends.
    "[ab=]{0,2}".boxed()
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..3)
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![Just(Source::Context), Just(Source::Scratch), (0usize..2).prop_map(Source::Stage)]
}

fn mount() -> impl Strategy<Value = StepMount> {
    let access = || prop_oneof![Just(Access::ReadOnly), Just(Access::ReadWrite)];
    let sharing = prop_oneof![Just(Sharing::Shared), Just(Sharing::Private), Just(Sharing::Locked)];
    prop_oneof![
        (text(), source(), text(), access()).prop_map(|(target, from, source, access)| {
            StepMount::Bind(BindMount { target, from, source, access })
        }),
        (
            text(),
            text(),
            sharing,
            proptest::option::of(source()),
            text(),
            access(),
            0u32..2,
            0u32..2,
            0u32..2
        )
            .prop_map(|(target, id, sharing, from, source, access, mode, uid, gid)| {
                StepMount::Cache(CacheMount { target, id, sharing, from, source, access, mode, uid, gid })
            }),
        (text(), proptest::option::of(0u64..2)).prop_map(|(target, size)| StepMount::Tmpfs { target, size }),
        (text(), proptest::option::of(text()), proptest::option::of(text()), any::<bool>(), 0u32..2)
            .prop_map(|(id, target, env, required, mode)| {
                StepMount::Secret(SecretMount { id, target, env, required, mode, uid: 0, gid: 0 })
            }),
        (text(), text(), any::<bool>()).prop_map(|(id, target, required)| {
            StepMount::Ssh(SshMount { id, target, required, mode: 0o600, uid: 0, gid: 0 })
        }),
    ]
}

fn run() -> impl Strategy<Value = StepKind> {
    let network = prop_oneof![Just(Network::Default), Just(Network::None), Just(Network::Host)];
    let security = prop_oneof![Just(Security::Sandbox), Just(Security::Insecure)];
    let file = (text(), text()).prop_map(|(name, content)| ScriptFile { name, content, mode: 0o755 });
    let first = (texts(), vec((text(), text()), 0..3), texts(), text(), text());
    (first, network, security, vec(mount(), 0..3), texts(), vec(file, 0..2)).prop_map(
        |((argv, env, uncached_env, cwd, user), network, security, mounts, devices, files)| {
            StepKind::Run(RunStep {
                argv,
                env,
                uncached_env,
                cwd,
                user,
                network,
                security,
                mounts,
                devices,
                files,
                hostname: String::new(),
                surroundings: Surroundings::default(),
            })
        },
    )
}

fn copy() -> impl Strategy<Value = StepKind> {
    let from_text = || {
        prop_oneof![
            text().prop_map(CopySource::Pattern),
            (text(), text()).prop_map(|(name, content)| CopySource::Heredoc { name, content }),
            text().prop_map(CopySource::Url),
            text().prop_map(CopySource::Git),
        ]
    };
    let flag = || proptest::option::of(any::<bool>());
    let kind = prop_oneof![
        Just(CopyKind::Copy),
        (proptest::option::of(text()), flag(), flag())
            .prop_map(|(checksum, unpack, keep_git_dir)| CopyKind::Add { checksum, unpack, keep_git_dir }),
    ];
    let optional = || proptest::option::of(text());
    let flags = (any::<bool>(), any::<bool>());
    (source(), vec(from_text(), 0..3), text(), optional(), optional(), flags, texts(), kind).prop_map(
        |(from, sources, destination, chown, chmod, (link, parents), exclude, kind)| {
            StepKind::Copy(CopyStep {
                from,
                sources,
                destination,
                chown,
                chmod,
                link,
                parents,
                exclude,
                kind,
            })
        },
    )
}

fn kind() -> impl Strategy<Value = StepKind> {
    prop_oneof![
        4 => run(),
        4 => copy(),
        1 => (text(), text()).prop_map(|(path, user)| StepKind::Workdir(WorkdirStep { path, user })),
        1 => Just(StepKind::Configure),
    ]
}

fn step(kind: StepKind) -> Step {
    Step { span: Span::new(0, 1), display: "RUN x".to_owned(), history: None, kind }
}

fn key(kind: &StepKind) -> Digest {
    let inputs = [Digest::of(b"input")];
    step_key(Some(&Digest::of(b"parent")), &step(kind.clone()), &Platform::new("linux", "amd64"), &inputs)
}

/// What of a step a key stands for, in a form that can be compared.
fn keyed(kind: &StepKind) -> String {
    let blind = |source: &mut Source| {
        if *source != Source::Scratch {
            *source = Source::Context;
        }
    };
    let mut kind = kind.clone();
    match &mut kind {
        StepKind::Run(run) => {
            let uncached = std::mem::take(&mut run.uncached_env);
            run.env.retain(|(name, _)| !uncached.contains(name));
            for mount in &mut run.mounts {
                match mount {
                    StepMount::Bind(bind) => blind(&mut bind.from),
                    StepMount::Cache(CacheMount { from: Some(from), .. }) => blind(from),
                    _ => {}
                }
            }
        }
        StepKind::Copy(copy) => blind(&mut copy.from),
        StepKind::Workdir(_) | StepKind::Configure => {}
    }
    format!("{kind:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn keys_are_equal_exactly_for_equal_steps(left in kind(), right in kind()) {
        prop_assert_eq!(key(&left) == key(&right), keyed(&left) == keyed(&right));
        prop_assert_eq!(key(&left), key(&left.clone()));
    }

    #[test]
    fn lists_do_not_run_together(left in vec(texts(), 0..3), right in vec(texts(), 0..3)) {
        let hash = |lists: &[Vec<String>]| {
            let mut hasher = KeyHasher::new("test");
            hasher.list(lists, |hasher, list| { hasher.texts(list); });
            hasher.finish()
        };
        prop_assert_eq!(hash(&left) == hash(&right), left == right);
    }
}

fn a_run() -> RunStep {
    RunStep {
        argv: vec!["/bin/sh".into(), "-c".into(), "make".into()],
        env: vec![("PATH".into(), "/bin".into()), ("HTTP_PROXY".into(), "p".into())],
        uncached_env: vec!["HTTP_PROXY".into()],
        cwd: "/".into(),
        user: String::new(),
        network: Network::Default,
        security: Security::Sandbox,
        mounts: Vec::new(),
        devices: Vec::new(),
        files: Vec::new(),
        hostname: "h".into(),
        surroundings: Surroundings::default(),
    }
}

fn a_copy() -> CopyStep {
    CopyStep {
        from: Source::Context,
        sources: vec![CopySource::Pattern("a".into())],
        destination: "/".into(),
        chown: None,
        chmod: None,
        link: false,
        parents: false,
        exclude: Vec::new(),
        kind: CopyKind::Copy,
    }
}

#[test]
fn every_field_of_a_run_counts() {
    let mutations: [fn(&mut RunStep); 12] = [
        |run| run.argv.push(String::new()),
        |run| run.argv.swap(0, 1),
        |run| run.env.push(("A".into(), String::new())),
        |run| run.env.iter_mut().take(1).for_each(|(_, value)| value.push('x')),
        |run| run.uncached_env.clear(),
        |run| run.cwd.push('x'),
        |run| run.user.push('x'),
        |run| run.network = Network::None,
        |run| run.security = Security::Insecure,
        |run| run.mounts.push(StepMount::Tmpfs { target: "/t".into(), size: None }),
        |run| run.devices.push("d".into()),
        |run| run.files.push(ScriptFile { name: "EOF".into(), content: String::new(), mode: 0o755 }),
    ];
    let before = key(&StepKind::Run(a_run()));
    for (index, mutate) in mutations.iter().enumerate() {
        let mut run = a_run();
        mutate(&mut run);
        assert_ne!(before, key(&StepKind::Run(run)), "mutation {index}");
    }
    let hostname = RunStep { hostname: "i".into(), ..a_run() };
    assert_ne!(before, key(&StepKind::Run(hostname)));
    let limit = Rlimit { resource: rbuild_sandbox::Resource::Core, soft: None, hard: None };
    for surroundings in [
        Surroundings { extra_hosts: vec![("h".into(), [127, 0, 0, 1].into())], ..Surroundings::default() },
        Surroundings { rlimits: vec![limit], ..Surroundings::default() },
        Surroundings { shm_size: Some(0), ..Surroundings::default() },
    ] {
        let surrounded = RunStep { surroundings, ..a_run() };
        assert_ne!(before, key(&StepKind::Run(surrounded)));
    }
}

#[test]
fn every_field_of_a_copy_counts() {
    let mutations: [fn(&mut CopyStep); 10] = [
        |copy| copy.from = Source::Scratch,
        |copy| copy.sources.push(CopySource::Pattern(String::new())),
        |copy| copy.sources = vec![CopySource::Url("a".into())],
        |copy| copy.destination.push('/'),
        |copy| copy.chown = Some(String::new()),
        |copy| copy.chmod = Some(String::new()),
        |copy| copy.link = true,
        |copy| copy.parents = true,
        |copy| copy.exclude.push(String::new()),
        |copy| copy.kind = CopyKind::Add { checksum: None, unpack: None, keep_git_dir: None },
    ];
    let before = key(&StepKind::Copy(a_copy()));
    for (index, mutate) in mutations.iter().enumerate() {
        let mut copy = a_copy();
        mutate(&mut copy);
        assert_ne!(before, key(&StepKind::Copy(copy)), "mutation {index}");
    }
}

/// Asks of random pairs of whole inputs, which differ in one place or in many, that they share a key only if they are equal:
/// 20,000 pairs, or as many as `RBUILD_KEY_PAIRS` says.
#[test]
fn no_two_inputs_share_a_key() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

    #[expect(clippy::disallowed_methods, reason = "how long the test may take is said by hand")]
    let pairs = std::env::var("RBUILD_KEY_PAIRS").map_or(20_000, |pairs| pairs.parse().expect("a number"));
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let digest = || (0u8..3).prop_map(|seed| Digest::of(&[seed]));
    let platform = prop_oneof![Just("amd64"), Just("arm64")].prop_map(|arch| Platform::new("linux", arch));
    let inputs = (proptest::option::of(digest()), kind(), platform, vec(digest(), 0..3));
    let mut seen = std::collections::HashMap::<Digest, String>::new();
    let mut one = || inputs.new_tree(&mut runner).expect("a value").current();
    for _ in 0..pairs {
        for (parent, kind, platform, inputs) in [one(), one()] {
            let key = step_key(parent.as_ref(), &step(kind.clone()), &platform, &inputs);
            let architecture = matches!(kind, StepKind::Run(_)).then_some(&platform.architecture);
            let text = format!("{parent:?} {} {architecture:?} {inputs:?}", keyed(&kind));
            let earlier = seen.entry(key).or_insert_with(|| text.clone());
            assert_eq!(*earlier, text, "one key");
        }
    }
    assert!(seen.len() > pairs / 4, "{} of {pairs} pairs are worth comparing", seen.len());
}

#[test]
fn what_surrounds_a_step_counts() {
    let (parent, other) = (Digest::of(b"parent"), Digest::of(b"other"));
    let amd64 = Platform::new("linux", "amd64");
    let kind = StepKind::Run(a_run());
    let base = step_key(Some(&parent), &step(kind.clone()), &amd64, &[]);
    let variant = Platform { variant: Some("v2".into()), ..amd64.clone() };
    for (name, key) in [
        ("no parent", step_key(None, &step(kind.clone()), &amd64, &[])),
        ("other parent", step_key(Some(&other), &step(kind.clone()), &amd64, &[])),
        ("platform", step_key(Some(&parent), &step(kind.clone()), &Platform::new("linux", "arm64"), &[])),
        ("variant", step_key(Some(&parent), &step(kind.clone()), &variant, &[])),
        ("input", step_key(Some(&parent), &step(kind.clone()), &amd64, &[other])),
    ] {
        assert_ne!(base, key, "{name}");
    }
    let copy = |platform: &Platform| step_key(None, &step(StepKind::Copy(a_copy())), platform, &[]);
    assert_eq!(copy(&amd64), copy(&variant), "files are the same on every platform");
}

#[test]
fn what_is_shown_does_not_count() {
    let proxied = RunStep {
        env: vec![("PATH".into(), "/bin".into()), ("HTTP_PROXY".into(), "other".into())],
        ..a_run()
    };
    assert_eq!(key(&StepKind::Run(a_run())), key(&StepKind::Run(proxied)));

    let request =
        ImageRequest { name: "debian".into(), platform: Platform::new("linux", "amd64"), context: None };
    let elsewhere = CopyStep { from: Source::Image(request), ..a_copy() };
    assert_eq!(key(&StepKind::Copy(a_copy())), key(&StepKind::Copy(elsewhere)));

    let platform = Platform::new("linux", "amd64");
    let shown = Step {
        span: Span::new(7, 9),
        display: "other".to_owned(),
        history: Some(History { created_by: Some("other".to_owned()), ..History::default() }),
        kind: StepKind::Configure,
    };
    let plain = step(StepKind::Configure);
    assert_eq!(step_key(None, &plain, &platform, &[]), step_key(None, &shown, &platform, &[]));
}

/// Pins the layout: a change that moves this digest must change [`VERSION`].
#[test]
fn the_layout_is_pinned() {
    let key = step_key(None, &step(StepKind::Run(a_run())), &Platform::new("linux", "amd64"), &[]);
    assert_eq!(key.to_string(), "sha256:473aa66244ad0f4e215f519c5286c9c295797bf5852090ee022b82cbe8b64ef2");
}
