//! A look at a Dockerfile without a build: what lint rules find, what it offers.

use rbuild_dockerfile::{Diagnostic, Dockerfile, lint};
use rbuild_image::Platform;

use crate::build::Build;
use crate::error::BuildError;
use crate::images::Images;
use crate::plan::{self, Outline, PlanOptions, Scope};
use crate::platforms::Platforms;

/// How the configs of base images are known to a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bases {
    /// They are resolved as for a build, which needs a store, and a client for what is not in it.
    Resolve,
    /// They are not asked for: each is taken to set `PATH` and a command.
    Assume,
}

/// A Dockerfile and what lint rules find in it.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The Dockerfile's name, for messages.
    pub name: String,
    /// The Dockerfile.
    pub dockerfile: Dockerfile,
    /// The findings, in the order of the lines.
    pub findings: Vec<Diagnostic>,
    /// The error that `# check=error=true` makes of them.
    pub violation: Option<Diagnostic>,
}

impl Build {
    /// Runs every lint rule over all stages, and builds nothing.
    ///
    /// # Errors
    /// What would keep a build from starting; [`BuildError::Refused`] for a Dockerfile that is wrong.
    pub async fn check(self, bases: Bases) -> Result<Checked, BuildError> {
        let (context, remotes) = match bases {
            Bases::Resolve => {
                let remotes = self.remotes()?;
                (self.open(&remotes).await?, Some(remotes))
            }
            Bases::Assume => (self.open_local()?, None),
        };
        let source = self.parse(&context)?;
        let context = context.tree;
        let platforms = Platforms::new(&self.options)?;
        let plan = match remotes {
            Some(remotes) => {
                let images = Images::new(&self.options, remotes, self.client.clone());
                self.plan(&source, &platforms, images, Scope::All).await?.0
            }
            None => {
                let pass = |platform: &Platform| {
                    let options =
                        PlanOptions { scope: Scope::All, ..self.plan_options(platform, &platforms) };
                    let plan = plan::graph(&source.dockerfile, &options)
                        .and_then(|graph| plan::assume(&source.dockerfile, graph, &options));
                    plan.map(|plan| (options.platform, plan)).map_err(|error| source.refuse(error.0))
                };
                plan::join(platforms.list.iter().map(pass).collect::<Result<_, _>>()?)
            }
        };
        let ignore = context.as_ref().and_then(|context| context.ignore());
        let mut findings = plan::findings(&source.dockerfile, &plan, ignore);
        if bases == Bases::Assume {
            findings.iter_mut().for_each(|finding| doubt(&source.dockerfile, finding));
        }
        let violation = plan::violation(&source.dockerfile, &findings);
        Ok(Checked { name: source.name, dockerfile: source.dockerfile, findings, violation })
    }

    /// Reads the Dockerfile, which must be one that could be built, and returns it with its name for messages.
    ///
    /// # Errors
    /// [`BuildError::Dockerfile`], [`BuildError::Refused`]
    pub fn read(&self) -> Result<(String, Dockerfile), BuildError> {
        let source = self.parse(&self.open_local()?)?;
        Ok((source.name, source.dockerfile))
    }

    /// Lists what the target takes: arguments, secrets, agents. No image is asked for.
    ///
    /// # Errors
    /// [`BuildError::Dockerfile`], [`BuildError::Refused`]
    pub fn outline(&self) -> Result<Outline, BuildError> {
        let source = self.parse(&self.open_local()?)?;
        let platforms = Platforms::new(&self.options)?;
        let first = platforms.list.first().cloned().unwrap_or_else(Platform::host);
        let graph = plan::graph(&source.dockerfile, &self.plan_options(&first, &platforms));
        let graph = graph.map_err(|error| source.refuse(error.0))?;
        Ok(graph.outline(&source.dockerfile, &self.options.build_args))
    }
}

/// Says of an undefined variable that a base image which was not asked for may define it.
fn doubt(dockerfile: &Dockerfile, finding: &mut Diagnostic) {
    if finding.rule != Some(lint::UNDEFINED_VAR.name) || finding.message.contains("did you mean") {
        return;
    }
    let Some(span) = finding.span else { return };
    let behind = dockerfile.stages.partition_point(|stage| stage.from.start <= span.start);
    let mut stages = dockerfile.stages.get(..behind).unwrap_or_default();
    // A stage's base stands above it, so that this ends.
    while let Some((stage, above)) = stages.split_last() {
        let base = stage.base.value.as_str();
        match above.iter().rposition(|other| other.name.as_deref() == Some(base)) {
            Some(index) => stages = above.get(..=index).unwrap_or_default(),
            None if base == "scratch" => return,
            None => {
                finding.hint = Some(format!("the image {base} may set it; it was not asked"));
                return;
            }
        }
    }
}
