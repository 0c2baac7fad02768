//! `--output` and `--output-attrs`: docker's syntax, read into what the result becomes.

use std::path::PathBuf;

use rbuild_dockerfile::nearest;
use rbuild_image::Reference;

use super::Usage;

/// One place the result goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) kind: OutputKind,
    pub(crate) attributes: Attributes,
}

/// What a result becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OutputKind {
    /// A named image in the store, pushed to its registry or not.
    Image { names: Vec<Reference>, push: Push },
    /// An OCI image layout: a directory, or a tar of one.
    Oci { names: Vec<Reference>, form: LayoutForm },
    /// A tar that `docker load` reads.
    Docker { names: Vec<Reference>, destination: Destination },
    /// The files of the rootfs in a directory.
    Local { directory: PathBuf },
    /// The files of the rootfs as a tar.
    Tar { destination: Destination },
    /// Nothing but cache entries.
    CacheOnly,
}

/// Whether an image is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Push {
    Yes,
    No,
}

/// The two forms of an OCI layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LayoutForm {
    Directory(PathBuf),
    Archive(Destination),
}

/// Where a tar goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Stdout,
    File(PathBuf),
}

/// How layers are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) compression: Option<Compression>,
    pub(crate) level: Option<u32>,
    /// Layers of the base are compressed anew too.
    pub(crate) force_compression: bool,
    /// Times later than SOURCE_DATE_EPOCH become it.
    pub(crate) rewrite_timestamp: bool,
}

/// Values of `compression=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Uncompressed,
    Gzip,
    Zstd,
}

const TYPES: [&str; 7] = ["image", "registry", "oci", "docker", "local", "tar", "cacheonly"];
const LAYER_KEYS: [&str; 5] =
    ["compression", "compression-level", "force-compression", "rewrite-timestamp", "oci-mediatypes"];

impl Output {
    /// Reads one `--output`. Images without names of their own take `tags`.
    pub(super) fn parse(text: &str, tags: &[Reference]) -> Result<Self, Usage> {
        let fields =
            fields(text).ok_or_else(|| Usage::new(format!("--output {text:?} has an open quote")))?;
        let mut keys = match fields.as_slice() {
            [single] if !single.contains('=') => match single.as_str() {
                "" => return Err(Usage::new("--output is empty")),
                "-" => Keys { text, pairs: pairs(text, &["type=tar".into(), "dest=-".into()])? },
                path => {
                    Keys { text, pairs: vec![("type".into(), "local".into()), ("dest".into(), path.into())] }
                }
            },
            fields => Keys { text, pairs: pairs(text, fields)? },
        };
        let kind = keys.take("type").ok_or_else(|| {
            Usage::new(format!("--output {text:?} has no type")).hint(format!("types: {}", TYPES.join(", ")))
        })?;
        let output = keys.kind(&kind, tags)?;
        let has_layers = matches!(
            output,
            OutputKind::Image { .. }
                | OutputKind::Oci { .. }
                | OutputKind::Docker { .. }
                | OutputKind::CacheOnly
        );
        let attributes = if has_layers { keys.attributes(&kind)? } else { Attributes::default() };
        keys.finish(&kind)?;
        Ok(Self { kind: output, attributes })
    }
}

impl Attributes {
    /// Reads `--output-attrs`.
    pub(super) fn parse(text: &str) -> Result<Self, Usage> {
        let fields =
            fields(text).ok_or_else(|| Usage::new(format!("--output-attrs {text:?} has an open quote")))?;
        let mut keys = Keys { text, pairs: pairs(text, &fields)? };
        let attributes = keys.attributes("image")?;
        keys.finish("image")?;
        Ok(attributes)
    }
}

/// The keys of one output that nobody took yet.
struct Keys<'a> {
    text: &'a str,
    pairs: Vec<(String, String)>,
}

impl Keys<'_> {
    fn take(&mut self, key: &str) -> Option<String> {
        let index = self.pairs.iter().rposition(|(found, _)| found == key)?;
        let value = self.pairs.swap_remove(index).1;
        self.pairs.retain(|(found, _)| found != key);
        Some(value)
    }

    fn flag(&mut self, key: &str) -> Result<Option<bool>, Usage> {
        self.take(key).map(|value| parse_bool(key, &value)).transpose()
    }

    fn kind(&mut self, kind: &str, tags: &[Reference]) -> Result<OutputKind, Usage> {
        Ok(match kind {
            "image" | "registry" => {
                let push = self.flag("push")?.unwrap_or(kind == "registry");
                let names = self.names(tags)?;
                if push && names.is_empty() {
                    return Err(Usage::new(format!("--output {:?} has nothing to push to", self.text))
                        .hint("add name=… to it, or give --tag"));
                }
                OutputKind::Image { names, push: if push { Push::Yes } else { Push::No } }
            }
            "oci" => {
                let names = self.names(tags)?;
                let form = match self.flag("tar")? {
                    Some(false) => LayoutForm::Directory(self.path("dest")?),
                    _ => LayoutForm::Archive(self.destination()),
                };
                OutputKind::Oci { names, form }
            }
            "docker" => OutputKind::Docker { names: self.names(tags)?, destination: self.destination() },
            "local" => OutputKind::Local { directory: self.path("dest")? },
            "tar" => OutputKind::Tar { destination: self.destination() },
            "cacheonly" => OutputKind::CacheOnly,
            other => {
                let error = Usage::new(format!("--output type {other:?} is not known"));
                return Err(match nearest(other, TYPES) {
                    Some(near) => error.hint(format!("did you mean {near:?}?")),
                    None => error.hint(format!("types: {}", TYPES.join(", "))),
                });
            }
        })
    }

    fn names(&mut self, tags: &[Reference]) -> Result<Vec<Reference>, Usage> {
        let Some(names) = self.take("name") else { return Ok(tags.to_vec()) };
        names.split(',').map(|name| super::reference(name.trim())).collect()
    }

    fn path(&mut self, key: &str) -> Result<PathBuf, Usage> {
        match self.take(key) {
            Some(path) if path != "-" && !path.is_empty() => Ok(path.into()),
            _ => Err(Usage::new(format!("--output {:?} needs {key}=DIRECTORY", self.text))),
        }
    }

    fn destination(&mut self) -> Destination {
        match self.take("dest") {
            Some(path) if path != "-" && !path.is_empty() => Destination::File(path.into()),
            _ => Destination::Stdout,
        }
    }

    fn attributes(&mut self, kind: &str) -> Result<Attributes, Usage> {
        let compression = self.take("compression").map(|name| compression(&name)).transpose()?;
        let level =
            self.take("compression-level").map(|level| parse_level(&level, compression)).transpose()?;
        let oci = self.flag("oci-mediatypes")?;
        if oci == Some(false) && kind != "docker" {
            return Err(Usage::new("oci-mediatypes=false: images are always written with OCI media types")
                .hint("type=docker writes Docker's"));
        }
        if oci == Some(true) && kind == "docker" {
            return Err(Usage::new(
                "oci-mediatypes=true: type=docker is always written with Docker's media types",
            )
            .hint("type=oci writes OCI's"));
        }
        Ok(Attributes {
            compression,
            level,
            force_compression: self.flag("force-compression")?.unwrap_or(false),
            rewrite_timestamp: self.flag("rewrite-timestamp")?.unwrap_or(false),
        })
    }

    fn finish(self, kind: &str) -> Result<(), Usage> {
        let Some((key, _)) = self.pairs.first() else { return Ok(()) };
        let known: &[&str] = match kind {
            "image" | "registry" => &["name", "push"],
            "oci" => &["name", "dest", "tar"],
            "docker" => &["name", "dest"],
            "local" | "tar" => &["dest"],
            _ => &[],
        };
        let layers: &[&str] = if matches!(kind, "local" | "tar") { &[] } else { &LAYER_KEYS };
        let error =
            Usage::new(format!("{:?} has the key {key:?}, which type={kind} does not know", self.text));
        Err(match nearest(key, known.iter().chain(layers).copied()) {
            Some(near) => error.hint(format!("did you mean {near:?}?")),
            None => error,
        })
    }
}

fn compression(name: &str) -> Result<Compression, Usage> {
    match name {
        "uncompressed" => Ok(Compression::Uncompressed),
        "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        other => Err(Usage::new(format!("compression={other} is not supported"))
            .hint("compressions: uncompressed, gzip, zstd")),
    }
}

fn parse_level(level: &str, compression: Option<Compression>) -> Result<u32, Usage> {
    let highest = if compression == Some(Compression::Zstd) { 22 } else { 9 };
    let parsed = level.parse().ok().filter(|level| *level <= highest);
    parsed.ok_or_else(|| Usage::new(format!("compression-level={level} is not a number from 0 to {highest}")))
}

/// Reads a boolean as Go's strconv does, which docker's command line uses.
pub(super) fn parse_bool(key: &str, value: &str) -> Result<bool, Usage> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(Usage::new(format!("{key}={other} is neither true nor false"))),
    }
}

fn pairs(text: &str, fields: &[String]) -> Result<Vec<(String, String)>, Usage> {
    let pair = |field: &String| match field.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_lowercase(), value.to_owned())),
        None => Err(Usage::new(format!("{text:?}: {field:?} is not key=value"))),
    };
    fields.iter().map(pair).collect()
}

/// Splits a line of CSV; `None` when a quote stays open.
///
/// # References
/// - RFC 4180
fn fields(text: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let mut field = String::new();
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let (head, tail) = quoted.split_once('"')?;
                field.push_str(head);
                let Some(tail) = tail.strip_prefix('"') else {
                    rest = tail;
                    break;
                };
                field.push('"');
                quoted = tail;
            }
        }
        let (head, tail) = rest.split_once(',').map_or((rest, None), |(head, tail)| (head, Some(tail)));
        field.push_str(head);
        fields.push(field);
        match tail {
            Some(tail) => rest = tail,
            None => return Some(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags() -> Vec<Reference> {
        vec!["app:1".parse().unwrap()]
    }

    #[test]
    fn dockers_forms_are_read() {
        let check = |text: &str, kind: OutputKind| {
            let got = Output::parse(text, &tags()).unwrap();
            assert_eq!(got, Output { kind, attributes: Attributes::default() }, "{text}");
        };
        let file = |path: &str| Destination::File(path.into());
        let archive = |to: Destination| OutputKind::Oci { names: tags(), form: LayoutForm::Archive(to) };
        check("out", OutputKind::Local { directory: "out".into() });
        check("-", OutputKind::Tar { destination: Destination::Stdout });
        check("type=local,dest=out", OutputKind::Local { directory: "out".into() });
        check("type=tar,dest=a.tar", OutputKind::Tar { destination: file("a.tar") });
        check("type=tar", OutputKind::Tar { destination: Destination::Stdout });
        check("type=oci,dest=a.tar", archive(file("a.tar")));
        check("type=oci,dest=-", archive(Destination::Stdout));
        check("type=oci,\"dest=a,b \"\"c\"\".tar\"", archive(file("a,b \"c\".tar")));
        let directory = OutputKind::Oci { names: tags(), form: LayoutForm::Directory("d".into()) };
        check("type=oci,tar=false,dest=d", directory);
        check("type=docker,dest=d.tar", OutputKind::Docker { names: tags(), destination: file("d.tar") });
        check("type=image", OutputKind::Image { names: tags(), push: Push::No });
        check("type=registry", OutputKind::Image { names: tags(), push: Push::Yes });
        let two = vec!["reg.local/a:1".parse().unwrap(), "reg.local/b:latest".parse().unwrap()];
        check(
            "type=image,\"name=reg.local/a:1,reg.local/b\",push=true",
            OutputKind::Image { names: two, push: Push::Yes },
        );
        check("type=cacheonly", OutputKind::CacheOnly);
    }

    #[test]
    fn layer_attributes_are_read() {
        let check = |text: &str, expect: Attributes| {
            assert_eq!(
                Output::parse(&format!("type=image,{text}"), &[]).unwrap().attributes,
                expect,
                "{text}"
            );
            assert_eq!(Attributes::parse(text).unwrap(), expect, "{text}");
        };
        let none = Attributes::default();
        let zstd = Some(Compression::Zstd);
        check(
            "compression=zstd,compression-level=19",
            Attributes { compression: zstd, level: Some(19), ..none.clone() },
        );
        check("rewrite-timestamp=1", Attributes { rewrite_timestamp: true, ..none.clone() });
        check("force-compression=true,oci-mediatypes=true", Attributes { force_compression: true, ..none });
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, expect: &str| {
            assert_eq!(Output::parse(text, &[]).unwrap_err().to_string(), expect, "{text}");
        };
        check("", "--output is empty");
        check("dest=x", "--output \"dest=x\" has no type");
        check("type=ocy,dest=x", "--output type \"ocy\" is not known");
        check("type=local", "--output \"type=local\" needs dest=DIRECTORY");
        check("type=oci,tar=false", "--output \"type=oci,tar=false\" needs dest=DIRECTORY");
        check("type=oci,tar=maybe", "tar=maybe is neither true nor false");
        check("type=oci,dst=x", "\"type=oci,dst=x\" has the key \"dst\", which type=oci does not know");
        check(
            "type=local,dest=x,compression=gzip",
            "\"type=local,dest=x,compression=gzip\" has the key \"compression\", which type=local does not know",
        );
        check("type=registry", "--output \"type=registry\" has nothing to push to");
        check("type=image,compression=estargz", "compression=estargz is not supported");
        check("type=image,compression-level=10", "compression-level=10 is not a number from 0 to 9");
        check(
            "type=image,oci-mediatypes=false",
            "oci-mediatypes=false: images are always written with OCI media types",
        );
        check("type=oci,\"dest=x", "--output \"type=oci,\\\"dest=x\" has an open quote");
        check("a,b", "\"a,b\": \"a\" is not key=value");
    }
}
