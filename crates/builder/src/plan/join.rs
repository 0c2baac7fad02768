//! Plans of one Dockerfile for several platforms as one, with the stages they share taken once.

use rbuild_dockerfile::Diagnostic;
use rbuild_image::Platform;

use super::outline::Outline;
use super::step::{Base, Plan, PlannedStage, Source, StepKind, StepMount};

/// Plans for one or more platforms, joined.
#[derive(Debug, Clone)]
pub struct JoinedPlan {
    /// The stages of all plans, each after the stages it reads from.
    pub stages: Vec<PlannedStage>,
    /// The indexes in `stages` of what becomes the images, in the order of the plans.
    pub targets: Vec<usize>,
    /// The findings of all plans, each once.
    pub warnings: Vec<Diagnostic>,
    /// `SOURCE_DATE_EPOCH` of the first plan that has one.
    pub source_date_epoch: Option<i64>,
    /// What the first plan's target takes.
    pub outline: Outline,
}

impl From<Plan> for JoinedPlan {
    fn from(plan: Plan) -> Self {
        let Plan { stages, target, warnings, source_date_epoch, outline } = plan;
        Self { stages, targets: vec![target], warnings, source_date_epoch, outline }
    }
}

/// Joins plans, each for its platform.
///
/// A stage that says the same in two plans, such as one pinned with `--platform=$BUILDPLATFORM`, is there once; the
/// targets never are, each is an image of its own. Where there are several plans, the names that are shown say for
/// which platform a stage is, and what for when that is another: `linux/amd64->arm64 build`.
pub fn join(plans: Vec<(Platform, Plan)>) -> JoinedPlan {
    let several = plans.len() > 1;
    let mut joined = JoinedPlan {
        stages: Vec::new(),
        targets: Vec::new(),
        warnings: Vec::new(),
        source_date_epoch: plans.iter().find_map(|(_, plan)| plan.source_date_epoch),
        outline: plans.first().map(|(_, plan)| plan.outline.clone()).unwrap_or_default(),
    };
    // Which platforms each joined stage serves.
    let mut serves: Vec<Vec<Platform>> = Vec::new();
    for (platform, plan) in plans {
        let mut places = Vec::with_capacity(plan.stages.len());
        for (index, mut stage) in plan.stages.into_iter().enumerate() {
            renumber(&mut stage, &places);
            let is_target = index == plan.target;
            let same = joined.stages.iter().position(|other| *other == stage);
            let place = match same.filter(|place| !is_target && !joined.targets.contains(place)) {
                Some(place) => place,
                None => {
                    joined.stages.push(stage);
                    serves.push(Vec::new());
                    joined.stages.len() - 1
                }
            };
            serves.get_mut(place).into_iter().for_each(|list| list.push(platform.clone()));
            if is_target {
                joined.targets.push(place);
            }
            places.push(place);
        }
        for warning in plan.warnings {
            if !joined.warnings.contains(&warning) {
                joined.warnings.push(warning);
            }
        }
    }
    if several {
        for (stage, serves) in joined.stages.iter_mut().zip(&serves) {
            stage.name = format!("{} {}", shown(&stage.platform, serves), stage.name);
        }
    }
    joined
}

/// The platform of a stage, and the one it serves when that is another and the only one.
fn shown(platform: &Platform, serves: &[Platform]) -> String {
    match serves {
        [only] if only.architecture != platform.architecture || only.os != platform.os => {
            let os = if only.os == platform.os { String::new() } else { format!("{}/", only.os) };
            format!("{platform}->{os}{}", only.architecture)
        }
        _ => platform.to_string(),
    }
}

/// Gives the stages a stage reads from their places in the joined plan.
fn renumber(stage: &mut PlannedStage, places: &[usize]) {
    let place = |index: &mut usize| *index = places.get(*index).copied().unwrap_or(*index);
    let source = |source: &mut Source| {
        if let Source::Stage(index) = source {
            place(index);
        }
    };
    if let Base::Stage(index) = &mut stage.base {
        place(index);
    }
    for step in &mut stage.steps {
        match &mut step.kind {
            StepKind::Copy(copy) => source(&mut copy.from),
            StepKind::Run(run) => {
                for mount in &mut run.mounts {
                    match mount {
                        StepMount::Bind(mount) => source(&mut mount.from),
                        StepMount::Cache(mount) => mount.from.iter_mut().for_each(source),
                        StepMount::Tmpfs { .. } | StepMount::Secret(_) | StepMount::Ssh(_) => {}
                    }
                }
            }
            StepKind::Workdir(_) | StepKind::Configure => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rbuild_dockerfile::Dockerfile;

    use super::*;
    use crate::plan::{PlanOptions, PlatformOrigin, graph, lower};

    /// Joins the plans for amd64, where the build runs, and arm64.
    fn joined(text: &str) -> JoinedPlan {
        let (dockerfile, _) = Dockerfile::parse(text);
        let plan = |platform: &str| {
            let platform: Platform = platform.parse().expect(platform);
            let options = PlanOptions {
                platform: platform.clone(),
                platform_origin: PlatformOrigin::Requested,
                build_platform: Platform::new("linux", "amd64"),
                ..PlanOptions::default()
            };
            let mut graph = graph(&dockerfile, &options).expect("a graph");
            let mut bases = BTreeMap::new();
            for request in graph.missing(&bases).expect("no triggers") {
                let config = rbuild_image::ImageConfig::scratch(&request.platform);
                bases.insert(request, config);
            }
            (platform, lower(&dockerfile, graph, &options, &bases).expect("a plan"))
        };
        join(vec![plan("linux/amd64"), plan("linux/arm64")])
    }

    #[test]
    fn stages_that_say_the_same_are_there_once() {
        let check = |text: &str, stages: &[&str], targets: &[usize]| {
            let joined = joined(text);
            let names: Vec<_> = joined.stages.iter().map(|stage| stage.name.as_str()).collect();
            assert_eq!((names.as_slice(), joined.targets.as_slice()), (stages, targets), "{text}");
        };
        check("FROM scratch\nCOPY a /\n", &["linux/amd64 stage-0", "linux/arm64 stage-0"], &[0, 1]);
        // `FROM --platform` of scratch has no effect on the stage: it is the target's.
        check(
            "FROM scratch AS a\nCOPY a /\nFROM scratch\nCOPY --from=a /a /\n",
            &["linux/amd64 a", "linux/amd64 stage-1", "linux/arm64 a", "linux/arm64 stage-1"],
            &[1, 3],
        );
    }

    #[test]
    fn warnings_are_said_once() {
        assert_eq!(joined("FROM scratch\nCOPY $nothing /\n").warnings.len(), 1);
    }

    #[test]
    fn stages_of_the_build_platform_are_shared_and_read_by_both() {
        let joined = joined(
            "FROM --platform=$BUILDPLATFORM base AS build\nRUN make\nFROM --platform=$BUILDPLATFORM base AS cross\n\
             ARG TARGETARCH\nRUN make\nFROM scratch\nCOPY --from=build /out /\nCOPY --from=cross /out /\n",
        );
        let names: Vec<_> = joined.stages.iter().map(|stage| stage.name.as_str()).collect();
        let expect = [
            "linux/amd64 build",
            "linux/amd64 cross",
            "linux/amd64 stage-2",
            "linux/amd64->arm64 cross",
            "linux/arm64 stage-2",
        ];
        assert_eq!(names, expect);
        assert_eq!(joined.targets, [2, 4]);
        let reads = |stage: usize| -> Vec<usize> {
            let from = |kind: &StepKind| match kind {
                StepKind::Copy(copy) => match copy.from {
                    Source::Stage(index) => Some(index),
                    _ => None,
                },
                _ => None,
            };
            joined.stages[stage].steps.iter().filter_map(|step| from(&step.kind)).collect()
        };
        assert_eq!((reads(2), reads(4)), (vec![0, 1], vec![0, 3]));
    }
}
