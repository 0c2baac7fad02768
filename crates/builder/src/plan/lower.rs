//! Folds the instructions of the needed stages over the configs of their bases.

use std::collections::BTreeMap;

use rbuild_dockerfile::Dockerfile;
use rbuild_image::ImageConfig;

use super::graph::Graph;
use super::options::{PlanError, PlanOptions};
use super::step::{ImageRequest, Plan};

/// Lowers a graph over the configs of its base images.
///
/// # Errors
/// Everything that forbids the build.
pub fn lower(
    dockerfile: &Dockerfile,
    graph: Graph,
    options: &PlanOptions,
    bases: &BTreeMap<ImageRequest, ImageConfig>,
) -> Result<Plan, PlanError> {
    let _ = (dockerfile, graph, options, bases);
    unimplemented!()
}
