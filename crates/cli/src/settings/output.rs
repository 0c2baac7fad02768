//! `--output` and `--output-attrs`: docker's syntax, read into what the result becomes.

use std::path::PathBuf;

use rbuild_builder::export::{
    BaseLayers, Destination, LayerAttributes, OciForm, Output, OutputKind, Timestamps,
};
use rbuild_dockerfile::nearest;
use rbuild_image::Reference;
use rbuild_layers::compress::Compression;

use super::Usage;

const TYPES: [&str; 7] = ["image", "registry", "oci", "docker", "local", "tar", "cacheonly"];
const LAYER_KEYS: [&str; 5] =
    ["compression", "compression-level", "force-compression", "rewrite-timestamp", "oci-mediatypes"];

/// Reads one `--output`. `named` tells whether the build has tags for outputs that name nothing themselves.
pub(super) fn parse(text: &str, named: bool) -> Result<Output, Usage> {
    let fields = fields(text).ok_or_else(|| Usage::new(format!("--output {text:?} has an open quote")))?;
    let mut keys = match fields.as_slice() {
        [single] if !single.contains('=') => match single.as_str() {
            "" => return Err(Usage::new("--output is empty")),
            "-" => Keys { text, pairs: pairs(text, &["type=tar".into(), "dest=-".into()])? },
            path => Keys { text, pairs: vec![("type".into(), "local".into()), ("dest".into(), path.into())] },
        },
        fields => Keys { text, pairs: pairs(text, fields)? },
    };
    let kind = keys.take("type").ok_or_else(|| {
        Usage::new(format!("--output {text:?} has no type")).hint(format!("types: {}", TYPES.join(", ")))
    })?;
    let output = keys.kind(&kind, named)?;
    let attributes = match output {
        OutputKind::Local(_) | OutputKind::Tar(_) => LayerAttributes::default(),
        _ => keys.attributes(&kind)?,
    };
    keys.finish(&kind)?;
    Ok(Output { kind: output, attributes })
}

/// Reads `--output-attrs`.
pub(super) fn parse_attributes(text: &str) -> Result<LayerAttributes, Usage> {
    let fields =
        fields(text).ok_or_else(|| Usage::new(format!("--output-attrs {text:?} has an open quote")))?;
    let mut keys = Keys { text, pairs: pairs(text, &fields)? };
    let attributes = keys.attributes("image")?;
    keys.finish("attributes")?;
    Ok(attributes)
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

    fn kind(&mut self, kind: &str, named: bool) -> Result<OutputKind, Usage> {
        Ok(match kind {
            "image" | "registry" => {
                let push = self.flag("push")?.unwrap_or(kind == "registry");
                let names = self.names()?;
                if push && names.is_empty() && !named {
                    return Err(Usage::new(format!("--output {:?} has nothing to push to", self.text))
                        .hint("add name=… to it, or give --tag"));
                }
                if push { OutputKind::Push(names) } else { OutputKind::Store(names) }
            }
            "oci" => {
                let names = self.names()?;
                let (dest, form) = match self.flag("tar")? {
                    Some(false) => (Destination::File(self.path("dest")?), OciForm::Directory),
                    _ => (self.destination(), OciForm::Archive),
                };
                OutputKind::Oci { dest, form, names }
            }
            "docker" => OutputKind::Docker { names: self.names()?, dest: self.destination() },
            "local" => OutputKind::Local(self.path("dest")?),
            "tar" => OutputKind::Tar(self.destination()),
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

    fn names(&mut self) -> Result<Vec<Reference>, Usage> {
        let Some(names) = self.take("name") else { return Ok(Vec::new()) };
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

    fn attributes(&mut self, kind: &str) -> Result<LayerAttributes, Usage> {
        let compression = self.take("compression").map(|name| compression(&name)).transpose()?;
        let compression = compression.unwrap_or(Compression::Gzip);
        let level =
            self.take("compression-level").map(|level| parse_level(&level, compression)).transpose()?;
        match (self.flag("oci-mediatypes")?, kind) {
            (Some(true), "docker") => {
                return Err(Usage::new("oci-mediatypes=true: type=docker has Docker's media types")
                    .hint("type=oci has OCI's"));
            }
            (Some(false), kind) if kind != "docker" => {
                return Err(Usage::new("oci-mediatypes=false: images have OCI media types")
                    .hint("type=docker has Docker's"));
            }
            _ => {}
        }
        let base_layers = match self.flag("force-compression")? {
            Some(true) => BaseLayers::Recompress,
            _ => BaseLayers::Keep,
        };
        let timestamps = match self.flag("rewrite-timestamp")? {
            Some(true) => Timestamps::Rewrite,
            _ => Timestamps::Keep,
        };
        Ok(LayerAttributes { compression, level, timestamps, base_layers })
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
        let error = Usage::new(format!("{:?} has the key {key:?}, which is not known here", self.text));
        Err(match nearest(key, known.iter().chain(layers).copied()) {
            Some(near) => error.hint(format!("did you mean {near:?}?")),
            None => error,
        })
    }
}

fn compression(name: &str) -> Result<Compression, Usage> {
    match name {
        "uncompressed" => Ok(Compression::None),
        "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        other => Err(Usage::new(format!("compression={other} is not supported"))
            .hint("compressions: uncompressed, gzip, zstd")),
    }
}

fn parse_level(level: &str, compression: Compression) -> Result<u32, Usage> {
    let highest = if compression == Compression::Zstd { 22 } else { 9 };
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

/// Splits fields at their first `=`.
pub(super) fn pairs(text: &str, fields: &[String]) -> Result<Vec<(String, String)>, Usage> {
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
pub(super) fn fields(text: &str) -> Option<Vec<String>> {
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

    #[test]
    fn dockers_forms_are_read() {
        let check = |text: &str, kind: OutputKind| {
            assert_eq!(
                parse(text, true),
                Ok(Output { kind, attributes: LayerAttributes::default() }),
                "{text}"
            );
        };
        let file = |path: &str| Destination::File(path.into());
        let archive = |dest| OutputKind::Oci { names: vec![], form: OciForm::Archive, dest };
        check("out", OutputKind::Local("out".into()));
        check("-", OutputKind::Tar(Destination::Stdout));
        check("type=local,dest=out", OutputKind::Local("out".into()));
        check("type=tar,dest=a.tar", OutputKind::Tar(file("a.tar")));
        check("type=tar", OutputKind::Tar(Destination::Stdout));
        check("type=oci,dest=a.tar", archive(file("a.tar")));
        check("type=oci,dest=-", archive(Destination::Stdout));
        check("type=oci,\"dest=a,b \"\"c\"\".tar\"", archive(file("a,b \"c\".tar")));
        let directory = OutputKind::Oci { names: vec![], form: OciForm::Directory, dest: file("d") };
        check("type=oci,tar=false,dest=d", directory);
        check("type=docker,dest=d.tar", OutputKind::Docker { names: vec![], dest: file("d.tar") });
        check("type=image", OutputKind::Store(vec![]));
        check("type=registry", OutputKind::Push(vec![]));
        let two = vec!["reg.local/a:1".parse().unwrap(), "reg.local/b:latest".parse().unwrap()];
        check("type=image,\"name=reg.local/a:1,reg.local/b\",push=true", OutputKind::Push(two));
        check("type=cacheonly", OutputKind::CacheOnly);
    }

    #[test]
    fn layer_attributes_are_read() {
        let check = |text: &str, expect: LayerAttributes| {
            let output = parse(&format!("type=image,{text}"), false);
            assert_eq!(output.map(|output| output.attributes), Ok(expect), "{text}");
            assert_eq!(parse_attributes(text), Ok(expect), "{text}");
        };
        let none = LayerAttributes::default();
        let zstd = LayerAttributes { compression: Compression::Zstd, ..none };
        check("compression=zstd,compression-level=19", LayerAttributes { level: Some(19), ..zstd });
        check("compression=uncompressed", LayerAttributes { compression: Compression::None, ..none });
        check("rewrite-timestamp=1", LayerAttributes { timestamps: Timestamps::Rewrite, ..none });
        check("force-compression=false,oci-mediatypes=true", none);
        let base_layers = BaseLayers::Recompress;
        check("force-compression=true", LayerAttributes { base_layers, ..none });
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, expect: &str| {
            assert_eq!(parse(text, false).unwrap_err().to_string(), expect, "{text}");
        };
        check("", "--output is empty");
        check("dest=x", "--output \"dest=x\" has no type");
        check("type=ocy,dest=x", "--output type \"ocy\" is not known");
        check("type=local", "--output \"type=local\" needs dest=DIRECTORY");
        check("type=oci,tar=false", "--output \"type=oci,tar=false\" needs dest=DIRECTORY");
        check("type=oci,tar=maybe", "tar=maybe is neither true nor false");
        check("type=oci,dst=x", "\"type=oci,dst=x\" has the key \"dst\", which is not known here");
        let local = "type=local,dest=x,compression=gzip";
        check(local, &format!("{local:?} has the key \"compression\", which is not known here"));
        check("type=registry", "--output \"type=registry\" has nothing to push to");
        check("type=image,compression=estargz", "compression=estargz is not supported");
        check("type=image,compression-level=10", "compression-level=10 is not a number from 0 to 9");
        check("type=image,oci-mediatypes=false", "oci-mediatypes=false: images have OCI media types");
        check("type=docker,oci-mediatypes=true", "oci-mediatypes=true: type=docker has Docker's media types");
        check("type=oci,\"dest=x", "--output \"type=oci,\\\"dest=x\" has an open quote");
        check("a,b", "\"a,b\": \"a\" is not key=value");
        let hint = parse("type=oci,dst=x", false).unwrap_err().hint;
        assert_eq!(hint.as_deref(), Some("did you mean \"dest\"?"));
    }
}
