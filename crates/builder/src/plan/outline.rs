//! What a Dockerfile offers: arguments, secrets and agents that a target takes.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use rbuild_dockerfile::{Arg, Dockerfile, Expander, Instruction, Mount, Span, Spanned, parse_mount};
use serde::Serialize;

use super::graph::{Graph, Origin};

/// Bytes that all expanded values may take together, those taken over from base stages counted again; what goes beyond
/// is shown as written.
const MAX_VALUES: usize = 16 << 20;

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

impl Graph {
    /// Lists what the target takes. Triggers of base images are not known here.
    pub fn outline(&self, dockerfile: &Dockerfile, build_args: &BTreeMap<String, String>) -> Outline {
        let mut reader = Reader {
            graph: self,
            dockerfile,
            build_args,
            expander: Expander::new(dockerfile.directives.escape),
            scopes: Vec::new(),
            spent: Cell::new(0),
            args: BTreeMap::new(),
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
        };
        let offers: Vec<Offer> = (0..self.stages.len()).map(|index| reader.stage(index)).collect();
        for index in self.nearest_first() {
            if let Some(offer) = offers.get(index) {
                reader.take(offer);
            }
        }
        let target = dockerfile.stages.get(self.target);
        Outline {
            name: target.and_then(|stage| stage.name.clone()),
            description: target.and_then(|stage| stage.doc.clone()),
            args: sorted(reader.args.into_values().collect(), |arg| arg.lines),
            secrets: sorted(reader.secrets.into_values().collect(), |mount| mount.lines),
            ssh: sorted(reader.ssh.into_values().collect(), |mount| mount.lines),
        }
    }

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

/// What one stage takes.
struct Offer {
    args: Vec<OutlineArg>,
    /// Names of global arguments that the stage uses.
    globals: BTreeSet<String>,
    secrets: Vec<OutlineMount>,
    ssh: Vec<OutlineMount>,
}

struct Reader<'a> {
    graph: &'a Graph,
    dockerfile: &'a Dockerfile,
    build_args: &'a BTreeMap<String, String>,
    expander: Expander,
    /// Variables at the end of each stage.
    scopes: Vec<BTreeMap<String, String>>,
    /// Bytes of expanded values so far.
    spent: Cell<usize>,
    args: BTreeMap<String, OutlineArg>,
    secrets: BTreeMap<String, OutlineMount>,
    ssh: BTreeMap<String, OutlineMount>,
}

impl Reader<'_> {
    fn lines(&self, span: Span) -> (u32, u32) {
        self.dockerfile.lines(span).unwrap_or_default()
    }

    fn stage(&mut self, index: usize) -> Offer {
        let mut offer =
            Offer { args: Vec::new(), globals: BTreeSet::new(), secrets: Vec::new(), ssh: Vec::new() };
        let base = self.graph.stages.get(index).and_then(|stage| stage.origin.stage());
        let inherited = base.and_then(|base| self.scopes.get(base));
        let size = |scope: &&BTreeMap<String, String>| {
            scope.iter().map(|(name, value)| name.len() + value.len()).sum()
        };
        let mut scope = inherited.filter(|scope| self.affords(size(scope))).cloned().unwrap_or_default();
        if let Some(stage) = self.dockerfile.stages.get(index) {
            for word in [Some(&stage.base), stage.platform.as_ref()].into_iter().flatten() {
                offer.globals.extend(self.names(&word.value));
            }
            for instruction in &stage.instructions {
                self.instruction(instruction, &mut scope, &mut offer);
            }
        }
        self.scopes.push(scope);
        offer
    }

    fn instruction(
        &self,
        instruction: &Spanned<Instruction>,
        scope: &mut BTreeMap<String, String>,
        offer: &mut Offer,
    ) {
        match &instruction.value {
            Instruction::Arg(args) => {
                args.iter().for_each(|arg| self.argument(arg, instruction.span, scope, offer));
            }
            Instruction::Env(pairs) => {
                let expanded: Vec<_> = pairs
                    .iter()
                    .map(|pair| (self.expand(&pair.key, scope), self.expand(&pair.value, scope)))
                    .collect();
                scope.extend(expanded);
            }
            Instruction::Run(run) => {
                for mount in &run.mounts {
                    let lines = self.lines(instruction.span);
                    match parse_mount(&mount.value, &mut |text| Ok(self.expand(text, scope))) {
                        Ok(Mount::Secret(secret)) => offer.secrets.push(OutlineMount {
                            name: secret.id,
                            required: secret.required,
                            lines,
                        }),
                        Ok(Mount::Ssh(ssh)) => {
                            offer.ssh.push(OutlineMount { name: ssh.id, required: ssh.required, lines });
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn argument(&self, arg: &Arg, span: Span, scope: &mut BTreeMap<String, String>, offer: &mut Offer) {
        let given = self.build_args.get(&arg.name);
        let value = match (given, &arg.value) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => Some(self.expand(default, scope)),
            (None, None) => {
                if let Some(global) = self.graph.arguments.get(&arg.name) {
                    scope.insert(arg.name.clone(), global.to_owned());
                    offer.globals.insert(arg.name.clone());
                    return;
                }
                None
            }
        };
        scope.extend(value.iter().map(|value| (arg.name.clone(), value.clone())));
        let (name, description) = (arg.name.clone(), arg.doc.clone());
        offer.args.push(OutlineArg { name, value, description, lines: self.lines(span) });
    }

    /// Adds what a stage takes, and the global arguments it uses with those that their defaults use.
    fn take(&mut self, offer: &Offer) {
        // Of several declarations in one stage the last counts.
        let own: BTreeMap<_, _> = offer.args.iter().map(|arg| (&arg.name, arg)).collect();
        for (name, arg) in own {
            self.args.entry(name.clone()).or_insert_with(|| arg.clone());
        }
        let mut pending: Vec<String> = offer.globals.iter().cloned().collect();
        while let Some(name) = pending.pop() {
            let declared = self.dockerfile.args.iter().rev().find(|arg| arg.value.name == name);
            let Some(arg) = declared.filter(|_| !self.args.contains_key(&name)) else { continue };
            pending.extend(arg.value.value.iter().flat_map(|default| self.names(default)));
            let found = OutlineArg {
                name: name.clone(),
                value: self.graph.arguments.get(&name).map(str::to_owned),
                description: arg.value.doc.clone(),
                lines: self.lines(arg.span),
            };
            self.args.insert(name, found);
        }
        for (mounts, known) in [(&offer.secrets, &mut self.secrets), (&offer.ssh, &mut self.ssh)] {
            for mount in mounts {
                known.entry(mount.name.clone()).or_insert_with(|| mount.clone());
            }
        }
    }

    fn expand(&self, word: &str, scope: &BTreeMap<String, String>) -> String {
        let lookup = |name: &str| scope.get(name).filter(|value| self.affords(value.len())).cloned();
        let expanded = self.expander.word(word, &lookup);
        expanded.map_or_else(|_| word.to_owned(), |expanded| expanded.text)
    }

    /// Counts bytes; tells whether they are within what values may take.
    fn affords(&self, bytes: usize) -> bool {
        self.spent.set(self.spent.get().saturating_add(bytes));
        self.spent.get() <= MAX_VALUES
    }

    /// The global variables that a word uses.
    fn names(&self, word: &str) -> BTreeSet<String> {
        let lookup = |name: &str| self.graph.arguments.get(name).map(str::to_owned);
        let expanded = self.expander.word(word, &lookup);
        expanded
            .map(|expanded| expanded.matched.into_iter().chain(expanded.unmatched).collect())
            .unwrap_or_default()
    }
}

fn sorted<T>(mut list: Vec<T>, lines: impl Fn(&T) -> (u32, u32)) -> Vec<T> {
    list.sort_by_key(lines);
    list
}

#[cfg(test)]
mod tests {
    use super::super::{PlanOptions, graph};
    use super::*;

    fn outline(text: &str, target: Option<&str>) -> Outline {
        let (dockerfile, errors) = Dockerfile::parse(text);
        assert!(errors.is_empty(), "{errors:?}");
        let options = PlanOptions { target: target.map(str::to_owned), ..PlanOptions::default() };
        graph(&dockerfile, &options).expect("a graph").outline(&dockerfile, &options.build_args)
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
    fn doubling_ends() {
        let mut text = "FROM scratch AS s0\nARG A=aaaaaaaa\n".to_owned();
        for stage in 1..200 {
            text += &format!("FROM s{} AS s{stage}\nENV A=$A$A\nARG B{stage}=$A\n", stage - 1);
        }
        let found = outline(&text, None);
        assert_eq!(found.args.len(), 200);
        let bytes: usize = found.args.iter().filter_map(|arg| arg.value.as_ref()).map(String::len).sum();
        assert!(bytes <= 2 * MAX_VALUES, "{bytes}");
    }

    #[test]
    fn another_target_takes_other_things() {
        let found = outline(TEXT, Some("second"));
        let args: Vec<_> = found.args.iter().map(|arg| (arg.name.as_str(), arg.value.as_deref())).collect();
        assert_eq!(args, [("ignored", None)]);
        assert_eq!((found.secrets, found.ssh), (vec![], vec![]));
    }
}
