//! A look at a Dockerfile without a build: what lint rules find, what it offers.

use std::sync::Arc;

use rbuild_dockerfile::{Diagnostic, Dockerfile, lint};
use rbuild_image::Platform;

use crate::build::Build;
use crate::context::ContextDir;
use crate::error::BuildError;
use crate::images::Images;
use crate::plan::{self, JoinedPlan, Outline, PlanOptions, Scope};
use crate::platforms::Platforms;
use crate::source::Source;

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

/// A Dockerfile, its plan, and the context where that is a directory here.
type Looked = (Source, JoinedPlan, Option<Arc<ContextDir>>);

impl Build {
    /// Runs every lint rule over all stages, or those that a given target needs, and builds nothing.
    ///
    /// # Errors
    /// What would keep a build from starting; [`BuildError::Refused`] for a Dockerfile that is wrong.
    pub async fn check(self, bases: Bases) -> Result<Checked, BuildError> {
        let scope = if self.options.target.is_some() { Scope::Look } else { Scope::All };
        let (source, plan, context) = match bases {
            Bases::Resolve => self.look(scope).await?,
            Bases::Assume => self.look_offline(scope)?,
        };
        let ignore = context.as_ref().and_then(|context| context.ignore());
        let mut findings = plan::findings(&source.dockerfile, &plan, ignore);
        if bases == Bases::Assume {
            findings.iter_mut().for_each(|finding| doubt(&source.dockerfile, finding));
        }
        let violation = plan::violation(&source.dockerfile, &findings);
        Ok(Checked { name: source.name, dockerfile: source.dockerfile, findings, violation })
    }

    /// Plans over base images that are resolved as for a build.
    async fn look(&self, scope: Scope) -> Result<Looked, BuildError> {
        let remotes = self.remotes()?;
        let context = self.open(&remotes).await?;
        let source = self.parse(&context)?;
        let images = Images::new(&self.options, remotes, self.client.clone());
        let (plan, _) = self.plan(&source, &Platforms::new(&self.options)?, images, scope).await?;
        Ok((source, plan, context.tree))
    }

    /// Plans over base images that are not asked for.
    fn look_offline(&self, scope: Scope) -> Result<Looked, BuildError> {
        let context = self.open_local()?;
        let source = self.parse(&context)?;
        let platforms = Platforms::new(&self.options)?;
        let pass = |platform: &Platform| {
            let options = PlanOptions { scope, ..self.plan_options(&source, platform, &platforms) };
            let plan = plan::graph(&source.dockerfile, &options)
                .and_then(|graph| plan::assume(&source.dockerfile, graph, &options));
            plan.map(|plan| (options.platform, plan)).map_err(|error| source.refuse(error.0))
        };
        let plan = plan::join(platforms.list.iter().map(pass).collect::<Result<_, _>>()?);
        Ok((source, plan, context.tree))
    }

    /// Reads the Dockerfile, which must be one that could be built, and returns it with its name for messages. A context
    /// that is elsewhere is fetched, which needs a store.
    ///
    /// # Errors
    /// [`BuildError::Dockerfile`], [`BuildError::Refused`]
    pub async fn read(&self) -> Result<(String, Dockerfile), BuildError> {
        let source = self.parse(&self.open_for_reading().await?)?;
        Ok((source.name, source.dockerfile))
    }

    /// Lists what the target takes: arguments, secrets, agents; and gives the Dockerfile that says so.
    ///
    /// Base images are resolved as for a build: their triggers may take arguments too.
    ///
    /// # Errors
    /// What would keep a build from starting; [`BuildError::Refused`] for a Dockerfile that is wrong.
    pub async fn outline(self) -> Result<(Dockerfile, Outline), BuildError> {
        let (source, plan, context) = self.look(Scope::Look).await?;
        let ignore = context.as_ref().and_then(|context| context.ignore());
        let findings = plan::findings(&source.dockerfile, &plan, ignore);
        match plan::violation(&source.dockerfile, &findings) {
            Some(violation) => Err(source.refuse(vec![violation])),
            None => Ok((source.dockerfile, plan.outline)),
        }
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
