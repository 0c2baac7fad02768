//! The Dockerfile of a build, and what is said about it.

use std::sync::Arc;

use rbuild_dockerfile::{Diagnostic, Dockerfile};

use crate::error::{BuildError, Place};
use crate::event::{DockerfileText, Event};
use crate::plan::{self, ContextTime};

/// A parsed Dockerfile and its name.
#[derive(Debug)]
pub(crate) struct Source {
    pub name: String,
    pub dockerfile: Dockerfile,
    /// The time of the context.
    pub context_time: ContextTime,
}

impl Source {
    pub(crate) fn refuse(&self, diagnostics: Vec<Diagnostic>) -> BuildError {
        BuildError::Refused { name: self.name.clone(), text: self.dockerfile.text.clone(), diagnostics }
    }

    /// Finds where an image is named.
    pub(crate) fn place(&self, graph: &plan::Graph, image: &str) -> Option<Place> {
        let (span, near) = graph.place(image)?;
        let hint = near.map(|stage| format!("did you mean the stage {stage}?"));
        Some(Place { dockerfile: self.name.clone(), text: self.dockerfile.text.clone(), span, hint })
    }

    /// Findings as events, which share one copy of the text.
    pub(crate) fn warnings(&self, findings: Vec<Diagnostic>) -> impl Iterator<Item = Event> {
        let text = if findings.is_empty() { String::new() } else { self.dockerfile.text.clone() };
        let file = Arc::new(DockerfileText { name: self.name.clone(), text });
        findings.into_iter().map(move |finding| Event::Warning { finding, file: Arc::clone(&file) })
    }
}
