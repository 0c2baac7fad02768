//! Which outputs a build has, once tags and flags are read together.

use std::collections::BTreeSet;

use rbuild_image::{Reference, names_registry};
use rbuild_layers::LayerOptions;

use super::{BaseLayers, ExportError, LayerAttributes, Output, OutputKind, Timestamps};
use crate::error::BuildError;
use crate::options::{BuildOptions, Push};
use crate::platforms::Shape;

/// The outputs of a build, every name filled in.
#[derive(Debug, Clone)]
pub(crate) struct Outputs {
    kinds: Vec<OutputKind>,
    layers: LayerAttributes,
}

impl Outputs {
    /// Reads tags, push option and outputs together.
    ///
    /// # Errors
    /// A tag is no reference; outputs need different layers; an index goes where only an image can.
    pub(crate) fn new(options: &BuildOptions, shape: Shape) -> Result<Self, BuildError> {
        let tags = options.tags.iter().map(|tag| parse_tag(tag)).collect::<Result<Vec<_>, _>>()?;
        let mut kinds: Vec<OutputKind> =
            options.outputs.iter().map(|output| with_names(&output.kind, &tags)).collect();
        match options.push {
            Push::Always => kinds.push(OutputKind::Push(tags.clone())),
            Push::Never if kinds.is_empty() => kinds.push(OutputKind::Store(tags.clone())),
            Push::ByName if kinds.is_empty() => {
                let remote = |(_, text): &(&Reference, &String)| names_registry(text);
                let (pushed, kept): (Vec<_>, Vec<_>) = tags.iter().zip(&options.tags).partition(remote);
                let names =
                    |tags: Vec<(&Reference, &String)>| tags.into_iter().map(|(tag, _)| tag.clone()).collect();
                if !kept.is_empty() || pushed.is_empty() {
                    kinds.push(OutputKind::Store(names(kept)));
                }
                if !pushed.is_empty() {
                    kinds.push(OutputKind::Push(names(pushed)));
                }
            }
            Push::ByName | Push::Never => {}
        }
        let takes_one = |kind: &OutputKind| matches!(kind, OutputKind::Docker { .. });
        if shape == Shape::Index && kinds.iter().any(takes_one) {
            return Err(BuildError::Option {
                option: "output",
                value: "type=docker".to_owned(),
                reason: "docker load takes one platform; build one, or use type=oci".to_owned(),
            });
        }
        Ok(Self { kinds, layers: layer_attributes(&options.outputs)? })
    }

    /// Which, in order; those that leave the machine come last.
    pub(crate) fn kinds(&self) -> &[OutputKind] {
        &self.kinds
    }

    /// What becomes of the layers of the base.
    pub(crate) fn base_layers(&self) -> BaseLayers {
        self.layers.base_layers
    }

    /// How new layers are written.
    pub(crate) fn layers(&self, epoch: Option<i64>) -> LayerOptions {
        let clamp = epoch.filter(|_| self.layers.timestamps == Timestamps::Rewrite);
        LayerOptions {
            compression: self.layers.compression,
            level: self.layers.level,
            clamp,
            ..LayerOptions::default()
        }
    }

    /// The names in registries.
    pub(crate) fn pushed(&self) -> Vec<Reference> {
        let names = self.kinds.iter().filter_map(|kind| match kind {
            OutputKind::Push(names) => Some(names.clone()),
            _ => None,
        });
        names.flatten().collect()
    }

    /// Every name the result gets, in full form, each once.
    pub(crate) fn names(&self) -> Vec<String> {
        let names: BTreeSet<String> = self
            .kinds
            .iter()
            .flat_map(|kind| match kind {
                OutputKind::Push(names)
                | OutputKind::Store(names)
                | OutputKind::Oci { names, .. }
                | OutputKind::Docker { names, .. } => names.as_slice(),
                OutputKind::Local(_) | OutputKind::Tar(_) | OutputKind::CacheOnly => &[],
            })
            .map(ToString::to_string)
            .collect();
        names.into_iter().collect()
    }
}

fn parse_tag(tag: &str) -> Result<Reference, BuildError> {
    let invalid = |reason: String| BuildError::Option { option: "tag", value: tag.to_owned(), reason };
    let reference: Reference = tag.parse().map_err(|error| invalid(format!("{error}")))?;
    match reference.digest() {
        Some(_) => Err(invalid("a tag cannot have a digest".to_owned())),
        None => Ok(reference),
    }
}

fn with_names(kind: &OutputKind, tags: &[Reference]) -> OutputKind {
    let mut kind = kind.clone();
    if let OutputKind::Push(names)
    | OutputKind::Store(names)
    | OutputKind::Oci { names, .. }
    | OutputKind::Docker { names, .. } = &mut kind
        && names.is_empty()
    {
        *names = tags.to_vec();
    }
    kind
}

/// New layers are made once, so that all outputs of an image must want the same.
fn layer_attributes(outputs: &[Output]) -> Result<LayerAttributes, ExportError> {
    let of_image = |output: &&Output| {
        !matches!(output.kind, OutputKind::Local(_) | OutputKind::Tar(_) | OutputKind::CacheOnly)
    };
    let mut wanted = outputs.iter().filter(of_image).map(|output| output.attributes);
    let first = wanted.next().unwrap_or_default();
    if wanted.all(|other| other == first) { Ok(first) } else { Err(ExportError::DifferentLayers) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_tags_and_flags_together() {
        let check = |tags: &[&str], push: Push, outputs: Vec<OutputKind>, expect: &str| {
            let attributes = LayerAttributes::default();
            let options = BuildOptions {
                tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
                push,
                outputs: outputs.into_iter().map(|kind| Output { kind, attributes }).collect(),
                ..BuildOptions::default()
            };
            let outputs = Outputs::new(&options, Shape::Image).expect("sound options");
            let text: Vec<String> = outputs
                .kinds()
                .iter()
                .map(|kind| match kind {
                    OutputKind::Push(names) => format!("push{names:?}", names = familiar(names)),
                    OutputKind::Store(names) => format!("store{names:?}", names = familiar(names)),
                    _ => "other".to_owned(),
                })
                .collect();
            assert_eq!(text.join(" "), expect, "{tags:?} {push:?}");
        };
        let familiar_app = r#"["app:latest"]"#;
        check(&["app"], Push::ByName, vec![], &format!("store{familiar_app}"));
        check(&["r.io/app"], Push::ByName, vec![], r#"push["r.io/app:latest"]"#);
        check(
            &["app", "r.io/app"],
            Push::ByName,
            vec![],
            &format!(r#"store{familiar_app} push["r.io/app:latest"]"#),
        );
        check(&["r.io/app"], Push::Never, vec![], r#"store["r.io/app:latest"]"#);
        check(&["app"], Push::Always, vec![], &format!("push{familiar_app}"));
        check(&["r.io/app"], Push::ByName, vec![OutputKind::CacheOnly], "other");
        check(&["r.io/app"], Push::ByName, vec![OutputKind::Push(vec![])], r#"push["r.io/app:latest"]"#);
        check(&[], Push::ByName, vec![], "store[]");
    }

    #[test]
    fn docker_archives_hold_one_platform() {
        let check = |shape: Shape, expect: bool| {
            let dest = super::super::Destination::Stdout;
            let kind = OutputKind::Docker { dest, names: Vec::new() };
            let output = Output { kind, attributes: LayerAttributes::default() };
            let options = BuildOptions { outputs: vec![output], ..BuildOptions::default() };
            assert_eq!(Outputs::new(&options, shape).is_ok(), expect, "{shape:?}");
        };
        check(Shape::Image, true);
        check(Shape::Index, false);
    }

    fn familiar(names: &[Reference]) -> Vec<String> {
        names.iter().map(Reference::familiar).collect()
    }
}
