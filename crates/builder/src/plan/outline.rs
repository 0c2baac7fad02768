//! What a Dockerfile offers: arguments, secrets and agents that a target takes.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_dockerfile::{Dockerfile, Span};
use serde::Serialize;

use super::graph::{Graph, Origin};
use super::step::{RunStep, StepMount};

/// What can be given to the build of a target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline {
    /// The target's name; `None` when it has none.
    pub name: Option<String>,
    /// The comment above its `FROM`.
    pub description: Option<String>,
    /// Arguments that the target and the stages it reads from use, in the order of their lines.
    pub args: Vec<OutlineArg>,
    /// Secrets that `RUN` mounts, each once.
    pub secrets: Vec<OutlineMount>,
    /// SSH agents that `RUN` mounts, each once.
    pub ssh: Vec<OutlineMount>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// Its value: what was given, else the default, expanded.
    pub value: Option<String>,
    /// What the comment above says of it.
    pub description: Option<String>,
    /// The lines of its `ARG`.
    pub lines: (u32, u32),
}

/// A secret or an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlineMount {
    /// Its id.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
    /// The lines of its `RUN`.
    #[serde(skip)]
    pub lines: (u32, u32),
}

/// A global argument and those that its value is made of.
#[derive(Debug, Clone)]
pub(super) struct GlobalArg {
    pub(super) arg: OutlineArg,
    pub(super) uses: BTreeSet<String>,
}

/// What one stage takes.
#[derive(Debug, Clone, Default)]
pub(super) struct Offer {
    /// Names of arguments, global ones too.
    used: BTreeSet<String>,
    /// The stage's own arguments: of several declarations the last counts.
    args: BTreeMap<String, OutlineArg>,
    secrets: Vec<OutlineMount>,
    ssh: Vec<OutlineMount>,
}

impl Offer {
    /// The offer of a stage whose `FROM` uses these arguments.
    pub(super) fn new(used: BTreeSet<String>) -> Self {
        Self { used, ..Self::default() }
    }

    /// Adds an argument that has no value but the global one.
    pub(super) fn inherit(&mut self, name: &str) {
        self.used.insert(name.to_owned());
    }

    /// Adds an argument of the stage itself.
    pub(super) fn declare(&mut self, arg: OutlineArg) {
        self.inherit(&arg.name);
        self.args.insert(arg.name.clone(), arg);
    }

    /// Adds what a step mounts.
    pub(super) fn mount(&mut self, step: &RunStep, lines: (u32, u32)) {
        for mount in &step.mounts {
            let (list, name, required) = match mount {
                StepMount::Secret(secret) => (&mut self.secrets, &secret.id, secret.required),
                StepMount::Ssh(ssh) => (&mut self.ssh, &ssh.id, ssh.required),
                _ => continue,
            };
            list.push(OutlineMount { name: name.clone(), required, lines });
        }
    }
}

/// Lists what the target takes, from what its stages offer.
pub(super) fn outline(dockerfile: &Dockerfile, graph: &Graph, offers: &BTreeMap<usize, Offer>) -> Outline {
    let (mut args, mut secrets, mut ssh) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for offer in graph.nearest_first().iter().filter_map(|index| offers.get(index)) {
        for name in with_what_they_use(graph, offer) {
            let found = offer.args.get(&name).or_else(|| graph.globals.get(&name).map(|global| &global.arg));
            if let Some(arg) = found {
                args.entry(name).or_insert_with(|| arg.clone());
            }
        }
        for (mounts, known) in [(&offer.secrets, &mut secrets), (&offer.ssh, &mut ssh)] {
            for mount in mounts {
                known.entry(mount.name.clone()).or_insert_with(|| mount.clone());
            }
        }
    }
    let target = dockerfile.stages.get(graph.target);
    Outline {
        name: target.and_then(|stage| stage.name.clone()),
        description: target.and_then(|stage| stage.doc.clone()),
        args: sorted(args.into_values().collect(), |arg| arg.lines),
        secrets: sorted(secrets.into_values().collect(), |mount| mount.lines),
        ssh: sorted(ssh.into_values().collect(), |mount| mount.lines),
    }
}

/// The names a stage uses, with those that the defaults of global ones use.
fn with_what_they_use(graph: &Graph, offer: &Offer) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut pending: Vec<&String> = offer.used.iter().collect();
    while let Some(name) = pending.pop() {
        if found.insert(name.clone()) && !offer.args.contains_key(name) {
            pending.extend(graph.globals.get(name).into_iter().flat_map(|global| &global.uses));
        }
    }
    found
}

/// The first and the last line of a place.
pub(super) fn lines(dockerfile: &Dockerfile, span: Span) -> (u32, u32) {
    dockerfile.lines(span).unwrap_or_default()
}

impl Graph {
    /// The target, then its base, then what they copy from: where a name is declared twice the first counts.
    fn nearest_first(&self) -> Vec<usize> {
        let (mut order, mut pending) = (Vec::new(), vec![self.target]);
        let mut seen = BTreeSet::new();
        while let Some(index) = pending.pop() {
            let Some(stage) = self.stages.get(index).filter(|_| seen.insert(index)) else { continue };
            order.push(index);
            if stage.replaced {
                continue;
            }
            let sources = stage.instructions.iter().flat_map(|linked| linked.sources.iter().flatten());
            let mut next: Vec<usize> =
                [&stage.origin].into_iter().chain(sources).filter_map(Origin::stage).collect();
            next.reverse();
            pending.extend(next);
        }
        order
    }
}

fn sorted<T>(mut list: Vec<T>, lines: impl Fn(&T) -> (u32, u32)) -> Vec<T> {
    list.sort_by_key(lines);
    list
}

#[cfg(test)]
mod tests {
    use super::super::{PlanOptions, Scope, assume, graph};
    use super::*;

    fn outline(text: &str, target: Option<&str>) -> Outline {
        let (dockerfile, errors) = Dockerfile::parse(text);
        assert!(errors.is_empty(), "{errors:?}");
        let target = target.map(str::to_owned);
        let options = PlanOptions { target, scope: Scope::Look, ..PlanOptions::default() };
        let graph = graph(&dockerfile, &options).expect("a graph");
        assume(&dockerfile, graph, &options).expect("a plan").outline
    }

    const TEXT: &str = "ARG inherited=box
ARG unused=abc${inherited}
# sfx is a suffix
ARG sfx=\"usy${inherited}\"
FROM b${sfx} AS first
# FOO is a number
ARG FOO=123
RUN --mount=type=secret,id=token,required=true --mount=type=ssh true
FROM scratch AS second
ARG ignored
# last is what is shipped
FROM scratch AS last
ARG sfx
ENV E=1
ARG later=${E}2
COPY --from=first /a /b
";

    #[test]
    fn lists_what_the_target_takes() {
        let found = outline(TEXT, None);
        assert_eq!(
            (found.name.as_deref(), found.description.as_deref()),
            (Some("last"), Some("is what is shipped"))
        );
        let args: Vec<_> = found
            .args
            .iter()
            .map(|arg| (arg.name.as_str(), arg.value.as_deref(), arg.description.as_deref(), arg.lines.0))
            .collect();
        assert_eq!(
            args,
            [
                ("inherited", Some("box"), None, 1),
                ("sfx", Some("usybox"), Some("is a suffix"), 4),
                ("FOO", Some("123"), Some("is a number"), 7),
                ("later", Some("12"), None, 15),
            ]
        );
        assert_eq!(found.secrets, [OutlineMount { name: "token".to_owned(), required: true, lines: (8, 8) }]);
        assert_eq!(found.ssh, [OutlineMount { name: "default".to_owned(), required: false, lines: (8, 8) }]);
    }

    #[test]
    fn global_arguments_bring_those_they_are_made_of() {
        let check = |text: &str, expect: &[(&str, u32)]| {
            let found = outline(text, None);
            let args: Vec<_> = found.args.iter().map(|arg| (arg.name.as_str(), arg.lines.0)).collect();
            assert_eq!(args, expect, "{text}");
        };
        check("ARG A=1\nARG B=$A\nARG C\nFROM scratch\nARG B", &[("A", 1), ("B", 2)]);
        check("ARG B=$A\nARG A=1\nFROM scratch\nARG B", &[("B", 1)]);
        check("ARG X=1\nARG A=$X\nARG A=${A}2\nFROM scratch\nARG A", &[("X", 1), ("A", 3)]);
        check("ARG A=1\nARG B=$A\nFROM scratch\nARG B=2", &[("B", 4)]);
        check("ARG V=1\nFROM a:$V AS a\nARG V=2\nFROM a", &[("V", 1)]);
        check("FROM scratch\nARG TARGETARCH A\nARG A=1", &[("A", 3)]);
    }

    #[test]
    fn another_target_takes_other_things() {
        let found = outline(TEXT, Some("second"));
        let args: Vec<_> = found.args.iter().map(|arg| (arg.name.as_str(), arg.value.as_deref())).collect();
        assert_eq!(args, [("ignored", None)]);
        assert_eq!((found.secrets, found.ssh), (vec![], vec![]));
    }
}
