//! From the flags of `rbuild build` to a build's options.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::path::Path;

use rbuild_builder::cache::remote::{CacheImport, CachePlace};
use rbuild_builder::context::{Git, GitRef, NamedContext, WrittenIn};
use rbuild_builder::export::{Output, OutputKind};
use rbuild_builder::options::{BuildOptions, CacheUse, Context, DockerfileSource, Pull, Push};
use rbuild_builder::plan::Network;
use rbuild_image::{Platform, Reference, names_registry};

use super::{Environment, Usage, cache, key_value, output, reference, run};
use crate::args::{BuildArgs, LintArgs, NetworkMode, ProgressMode, RefusedArgs};

/// A build as it was meant.
#[derive(Debug)]
pub(crate) struct BuildSettings {
    pub(crate) options: BuildOptions,
    pub(crate) progress: ProgressMode,
}

impl BuildSettings {
    /// Reads the flags, and the environment for build arguments without a value.
    ///
    /// # Errors
    /// Whatever is malformed, contradicts itself or is not supported, by name.
    pub(crate) fn new(args: &BuildArgs, environment: Environment<'_>) -> Result<Self, Usage> {
        refuse(&args.refused)?;
        let none = || Usage::new("--jobs 0 would build nothing");
        let jobs = args.jobs.map(|jobs| NonZeroUsize::new(jobs).ok_or_else(none)).transpose()?;
        let tags = args.tags.iter().map(|tag| reference(tag)).collect::<Result<Vec<_>, _>>()?;
        if args.push && tags.is_empty() {
            return Err(Usage::new("--push has nothing to push").hint("name the image with --tag"));
        }
        let (outputs, push) = outputs(args, &tags)?;
        if args.context == "-" && args.file.as_deref() == Some(Path::new("-")) {
            return Err(Usage::new("standard input cannot be both the context and the Dockerfile"));
        }
        let context = context(&args.context)?;
        let options = BuildOptions {
            dockerfile: dockerfile(args.file.as_deref(), &context)?,
            jobs,
            cgroup_parent: args.run.cgroup_parent.as_ref().map(Into::into),
            context,
            tags: args.tags.clone(),
            push,
            outputs,
            target: args.target.clone().filter(|target| !target.is_empty()),
            platforms: platforms(&args.platform)?,
            build_args: build_args(&args.build_args, environment)?,
            labels: map("--label", &args.labels)?,
            annotations: map("--annotation", &args.annotations)?,
            named_contexts: named_contexts(&args.build_contexts)?,
            network: match args.run.network {
                NetworkMode::Default => Network::Default,
                NetworkMode::None => Network::None,
                NetworkMode::Host => Network::Host,
            },
            cache_from: caches(&args.cache.cache_from)?,
            cache_to: args.cache.cache_to.iter().map(|text| cache::export(text)).collect::<Result<_, _>>()?,
            cache_mounts_from: mounts("--cache-mounts-from", "src", &args.cache.cache_mounts_from)?,
            cache_mounts_to: mounts("--cache-mounts-to", "dest", &args.cache.cache_mounts_to)?,
            cache: if args.no_cache { CacheUse::Ignore } else { CacheUse::Use },
            no_cache_stages: args.no_cache_filter.iter().map(|name| name.trim().to_owned()).collect(),
            explain: args.explain,
            pull: if args.pull { Pull::Always } else { Pull::Missing },
            isolation: isolation(args.run.isolation.as_deref())?,
            secrets: run::secrets(&args.run.secret, environment)?,
            agents: run::agents(&args.run.ssh, environment)?,
            allow: run::entitlements(&args.run.allow)?,
            surroundings: run::surroundings(&args.run)?,
            git: Git::from_env(),
            ..BuildOptions::default()
        };
        let progress = if args.quiet { ProgressMode::Quiet } else { args.progress };
        Ok(Self { options, progress })
    }
}

/// Reads what `rbuild lint` says of a build.
///
/// # Errors
/// As [`BuildSettings::new`].
pub(crate) fn lint_options(args: &LintArgs, environment: Environment<'_>) -> Result<BuildOptions, Usage> {
    let context = context(&args.context)?;
    Ok(BuildOptions {
        dockerfile: dockerfile(args.file.as_deref(), &context)?,
        context,
        git: Git::from_env(),
        build_args: build_args(&args.build_args, environment)?,
        ..BuildOptions::default()
    })
}

fn refuse(args: &RefusedArgs) -> Result<(), Usage> {
    for (option, value) in [("--provenance", &args.provenance), ("--sbom", &args.sbom)] {
        if let Some(value) =
            value.as_ref().filter(|value| !matches!(value.as_str(), "false" | "0" | "disabled=true"))
        {
            return Err(Usage::new(format!("{option}={value}: attestations are not supported"))
                .hint(format!("leave the option out, or say {option}=false")));
        }
    }
    if args.load {
        return Err(Usage::new("--load: there is no daemon to load into")
            .hint("--output type=docker,dest=image.tar writes what `docker load -i image.tar` reads"));
    }
    match args.attest.is_empty() {
        false => Err(Usage::new("--attest is not supported yet")),
        true => Ok(()),
    }
}

fn mounts(option: &str, directory: &str, list: &[String]) -> Result<Vec<CachePlace>, Usage> {
    list.iter().map(|text| cache::mounts(option, directory, text)).collect()
}

fn caches(list: &[String]) -> Result<Vec<CacheImport>, Usage> {
    let caches = list.iter().map(|text| cache::import(text)).collect::<Result<Vec<_>, _>>()?;
    Ok(caches.concat())
}

/// Reads `--output`, `--output-attrs`, `--push` and `--no-push` together.
///
/// Attributes of the implied output make it explicit, under the same rule that the builder has for tags.
fn outputs(args: &BuildArgs, tags: &[Reference]) -> Result<(Vec<Output>, Push), Usage> {
    let push = match (args.push, args.no_push) {
        (true, _) => Push::Always,
        (_, true) => Push::Never,
        _ => Push::ByName,
    };
    let outputs = args.outputs.iter().map(|text| output::parse(text, !tags.is_empty()));
    let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
    if push == Push::Never && outputs.iter().any(|output| matches!(output.kind, OutputKind::Push(_))) {
        return Err(Usage::new("--no-push contradicts an --output that pushes"));
    }
    let Some(attributes) = &args.output_attrs else { return Ok((outputs, push)) };
    if !outputs.is_empty() {
        return Err(Usage::new("--output-attrs belongs to the output that is implied without --output")
            .hint("add its keys to each --output"));
    }
    let attributes = output::parse_attributes(attributes)?;
    let is_pushed = |(_, text): &(&Reference, &String)| match push {
        Push::Always => true,
        Push::Never => false,
        Push::ByName => names_registry(text),
    };
    let (pushed, kept): (Vec<_>, Vec<_>) = tags.iter().zip(&args.tags).partition(is_pushed);
    let names =
        |list: Vec<(&Reference, &String)>| list.into_iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let kinds = [
        (!kept.is_empty() || pushed.is_empty()).then(|| OutputKind::Store(names(kept))),
        (!pushed.is_empty()).then(|| OutputKind::Push(names(pushed))),
    ];
    Ok((kinds.into_iter().flatten().map(|kind| Output { kind, attributes }).collect(), Push::Never))
}

/// Finds the context: what exists here goes before what is elsewhere, as with docker.
fn context(text: &str) -> Result<Context, Usage> {
    if text == "-" {
        let stdin = io::stdin().as_fd().try_clone_to_owned();
        let failed = |error| Usage::new(format!("cannot read standard input: {error}"));
        return Ok(Context::stream(File::from(stdin.map_err(failed)?)));
    }
    let path = Path::new(text);
    if path.is_dir() {
        return Ok(Context::dir(text));
    }
    if path.is_file() {
        return Ok(Context::archive(text));
    }
    let repository = GitRef::parse(text, WrittenIn::CommandLine);
    if let Some(wanted) = repository.map_err(|error| Usage::new(format!("context {text}: {error}")))? {
        return Ok(Context::git(wanted));
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(Context::web(text));
    }
    Ok(Context::dir(text))
}

/// Finds the Dockerfile; a path starts at the working directory, as docker's does, or within a context that is no
/// directory.
fn dockerfile(file: Option<&Path>, context: &Context) -> Result<DockerfileSource, Usage> {
    let Some(file) = file else { return Ok(DockerfileSource::Default) };
    let failed =
        |error: io::Error| Usage::new(format!("cannot read the Dockerfile {}: {error}", file.display()));
    if file == Path::new("-") {
        let mut text = Vec::new();
        io::stdin().lock().take(LARGEST).read_to_end(&mut text).map_err(failed)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        return Ok(DockerfileSource::Text { name: "-".to_owned(), text });
    }
    if context.holds_dockerfile() {
        return Ok(DockerfileSource::Path(file.to_owned()));
    }
    std::path::absolute(file).map(DockerfileSource::Path).map_err(failed)
}

/// A Dockerfile on standard input is read up to here, in bytes.
const LARGEST: u64 = 16 << 20;

fn platforms(list: &[String]) -> Result<Vec<Platform>, Usage> {
    list.iter().flat_map(|text| text.split(',')).map(|text| super::platform(Some(text.trim()))).collect()
}

/// Reads `--build-arg`. As with docker, a name alone that the environment lacks is not set at all, and SOURCE_DATE_EPOCH
/// is taken from the environment without being asked for.
fn build_args(list: &[String], environment: Environment<'_>) -> Result<BTreeMap<String, String>, Usage> {
    const EPOCH: &str = "SOURCE_DATE_EPOCH";
    let mut args = BTreeMap::new();
    args.extend(environment(EPOCH).map(|epoch| (EPOCH.to_owned(), epoch)));
    for text in list {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), environment(text)),
        };
        if name.is_empty() {
            return Err(Usage::new(format!("--build-arg {text:?} has no name")));
        }
        args.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(args)
}

fn map(option: &str, list: &[String]) -> Result<BTreeMap<String, String>, Usage> {
    let pair = |text: &String| key_value(option, text).map(|(key, value)| (key.to_owned(), value.to_owned()));
    list.iter().map(pair).collect()
}

fn named_contexts(list: &[String]) -> Result<BTreeMap<String, NamedContext>, Usage> {
    let parse = |text: &String| {
        NamedContext::parse(text).map_err(|error| Usage::new(format!("--build-context: {error}")))
    };
    list.iter().map(parse).collect()
}

/// Reads `--isolation`.
pub(crate) fn isolation(name: Option<&str>) -> Result<Option<rbuild_sandbox::Isolation>, Usage> {
    let parse = |name: &str| name.parse().map_err(|error| Usage::new(format!("--isolation: {error}")));
    name.map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Verb};

    fn settings(line: &str) -> Result<BuildSettings, Usage> {
        let args = std::iter::once("rbuild").chain(line.split_whitespace());
        let Verb::Build(args) = Cli::from_args(args.map(Into::into)).unwrap().verb else { panic!("{line}") };
        let environment = |name: &str| match name {
            "SET" => Some("from the environment".to_owned()),
            "SOURCE_DATE_EPOCH" => Some("1".to_owned()),
            _ => None,
        };
        BuildSettings::new(&args, &environment)
    }

    #[test]
    fn build_arguments_come_from_flag_or_environment() {
        let check = |line: &str, expect: &[(&str, &str)]| {
            let expect: BTreeMap<_, _> =
                expect.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            assert_eq!(settings(line).unwrap().options.build_args, expect, "{line}");
        };
        check("", &[("SOURCE_DATE_EPOCH", "1")]);
        check("--build-arg SOURCE_DATE_EPOCH=2", &[("SOURCE_DATE_EPOCH", "2")]);
        check(
            "--build-arg SET --build-arg UNSET --build-arg A=b=c --build-arg E=",
            &[("A", "b=c"), ("E", ""), ("SET", "from the environment"), ("SOURCE_DATE_EPOCH", "1")],
        );
    }

    #[test]
    fn tags_decide_about_pushing() {
        let check = |line: &str, push: Push, expect: &str| {
            let options = settings(line).unwrap().options;
            let kinds: Vec<String> =
                options.outputs.iter().map(|output| format!("{:?}", output.kind)).collect();
            assert_eq!((options.push, kinds.join(" ").as_str()), (push, expect), "{line}");
        };
        check("-t app", Push::ByName, "");
        check("-t reg.io/app --push", Push::Always, "");
        check("-t reg.io/app --no-push", Push::Never, "");
        check("-t reg.io/app -o type=cacheonly", Push::ByName, "CacheOnly");
        let attributes = "--output-attrs compression=zstd";
        check(attributes, Push::Never, "Store([])");
        check(&format!("{attributes} -t app"), Push::Never, "Store([docker.io/library/app:latest])");
        check(
            &format!("{attributes} -t app -t reg.io/app"),
            Push::Never,
            "Store([docker.io/library/app:latest]) Push([reg.io/app:latest])",
        );
        check(&format!("{attributes} --push -t app"), Push::Never, "Push([docker.io/library/app:latest])");
        check(&format!("{attributes} --no-push -t reg.io/app"), Push::Never, "Store([reg.io/app:latest])");
    }

    #[test]
    fn options_are_taken_over() {
        let line = "--label a=b=c --annotation x= --target T --no-cache --pull --network none --isolation userns --allow network.host --shm-size 1k \
                    --platform linux/arm64 --build-context base=docker-image://debian -q -f x dir";
        let BuildSettings { options, progress } = settings(line).unwrap();
        assert_eq!(options.labels["a"], "b=c");
        assert_eq!(options.annotations["x"], "");
        assert_eq!(options.target.as_deref(), Some("T"));
        assert_eq!(
            (options.cache, options.pull, options.network),
            (CacheUse::Ignore, Pull::Always, Network::None)
        );
        assert_eq!(options.isolation, Some(rbuild_sandbox::Isolation::Userns));
        assert!(options.allow.contains(&rbuild_builder::plan::Entitlement::NetworkHost));
        assert_eq!(options.surroundings.shm_size, Some(1024));
        assert_eq!(options.platforms, [Platform::new("linux", "arm64")]);
        assert!(options.named_contexts.contains_key("base"));
        assert_eq!(options.context, Context::dir("dir"));
        assert!(matches!(options.dockerfile, DockerfileSource::Path(path) if path.is_absolute()));
        assert_eq!(progress, ProgressMode::Quiet);
        assert_eq!(settings("--jobs 4").unwrap().options.jobs.map(NonZeroUsize::get), Some(4));
        let filtered = settings("--no-cache-filter a,B --no-cache-filter c").unwrap().options;
        assert_eq!(filtered.no_cache_stages, ["a", "B", "c"].map(str::to_owned).into());
        assert!(settings("--provenance=false --sbom=false").is_ok());
    }

    #[test]
    fn mistakes_are_named() {
        let check = |line: &str, expect: &str| {
            assert_eq!(settings(line).map(|_| ()).unwrap_err().to_string(), expect, "{line}");
        };
        check("--provenance=true", "--provenance=true: attestations are not supported");
        check("--sbom", "--sbom=true: attestations are not supported");
        check("--load", "--load: there is no daemon to load into");
        check("--attest type=sbom", "--attest is not supported yet");
        check("--secret id", "--secret: invalid field \"id\" must be a key=value pair");
        check("--ssh", "--ssh default: there is no agent");
        check("--add-host a:b", "--add-host: \"a:b\" is not NAME:ADDRESS");
        check(
            "--allow x",
            "--allow: unknown entitlement \"x\": expected one of network.host, security.insecure, device",
        );
        check("--push", "--push has nothing to push");
        check("--no-push -o type=registry -t a", "--no-push contradicts an --output that pushes");
        check(
            "-o out --output-attrs compression=gzip",
            "--output-attrs belongs to the output that is implied without --output",
        );
        check("--platform x", "--platform: \"x\" is neither an operating system nor an architecture");
        check("--build-arg =x", "--build-arg \"=x\" has no name");
        check("--label x", "--label \"x\" is not KEY=VALUE");
        check("-t App", "image name \"App\" must be lower case");
        check(
            "--isolation docker",
            "--isolation: unknown isolation `docker`: expected one of namespaces, userns, userns-single, chroot, supervised",
        );
        check("--jobs 0", "--jobs 0 would build nothing");
        check("-f - -", "standard input cannot be both the context and the Dockerfile");
        check(
            "https://example.com/x.git?depth=1",
            "context https://example.com/x.git?depth=1: unexpected query \"depth\"",
        );
    }
}
