//! Any input is parsed without a panic, in bounded time and memory; and another parser agrees on ordinary files.

#![expect(clippy::unwrap_used, reason = "this is a test")]

mod exercise;

use exercise::exercise;
use proptest::prelude::*;
use rbuild_dockerfile::{Dockerfile, ExpandError, Expander};

/// Pieces that hostile Dockerfiles are made of.
const PIECES: &[&str] = &[
    "FROM ",
    "from",
    "RUN ",
    "COPY ",
    "ADD ",
    "ENV ",
    "LABEL ",
    "ARG ",
    "ONBUILD ",
    "HEALTHCHECK ",
    "SHELL ",
    "EXPOSE ",
    "VOLUME ",
    "WORKDIR ",
    "CMD ",
    "--mount=type=secret,",
    "--from=",
    "--platform=",
    "--",
    "<<EOF",
    "<<-E",
    "EOF",
    "\n",
    "\r\n",
    "\\\n",
    "\\",
    "`",
    "# ",
    "# escape=`\n",
    "# syntax=x\n",
    "# check=skip=all\n",
    "[\"a\"",
    "]",
    "\"",
    "'",
    "$",
    "${",
    "}",
    ":-",
    "/",
    "//",
    "#",
    "%",
    "*",
    "?",
    "=",
    ",",
    " ",
    "\t",
    "\u{a0}",
    "\u{feff}",
    "é",
    "a",
    "b=c",
    "0",
    "!",
    "**/",
    "[",
];

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let pieces = proptest::sample::select(PIECES).prop_map(str::as_bytes);
    let piece =
        prop_oneof![9 => pieces.prop_map(<[u8]>::to_vec), 1 => prop::collection::vec(any::<u8>(), 1..4)];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(input in prop::collection::vec(any::<u8>(), 0..400)) {
        exercise(&input);
    }

    #[test]
    fn hostile_dockerfiles(input in hostile()) {
        exercise(&input);
    }
}

#[test]
fn deep_and_long_inputs() {
    let long = |piece: &str| piece.repeat(65_000 / piece.len());
    for piece in
        ["${a:-", "\"${a:-", "${a/${b/", "$", "[", "\\", "<<a ", "--x=", "ONBUILD ", "'", "a\u{a0}", "**/"]
    {
        exercise(long(piece).as_bytes());
        exercise(format!("FROM a\nRUN {}", long(piece)).as_bytes());
        exercise(format!("FROM a\n{}b", format!("RUN {}\\\n", &long(piece)[..600]).repeat(50)).as_bytes());
    }
    exercise("FROM a\n".repeat(20_000).as_bytes());
    let many = |line: &dyn Fn(usize) -> String| (0..5000).map(line).collect::<String>();
    exercise(many(&|n| format!("FROM s{n} AS s{}\nENV A{n}=$A$A B=$B$B SECRET=x\n", n + 1)).as_bytes());
    exercise(format!("FROM a\nCOPY {} /x\n{}", "<<a ".repeat(5000), "a\n".repeat(5000)).as_bytes());
    exercise(format!("{}ARG {}\nFROM a", "# a b\n".repeat(20_000), "KEY ".repeat(10_000)).as_bytes());
    exercise(format!("FROM a\nRUN <<E\n{}E\n", "x\n".repeat(100_000)).as_bytes());
}

#[test]
fn lines_end_at_the_limit() {
    let errors = |length: usize| {
        let mut text = b"FROM a\nRUN ".to_vec();
        text.resize("FROM a\n".len() + length, b'x');
        text.push(b'\n');
        Dockerfile::parse(text).1
    };
    assert_eq!(errors(65_535), []);
    let error = errors(65_536).remove(0);
    assert_eq!(error.message, "dockerfile line greater than max allowed size of 65535");
    assert_eq!(error.lines, Some((2, 2)));
}

#[test]
fn deep_braces_are_an_error_and_not_a_crash() {
    let word = format!("{}{}", "${a:-".repeat(10_000), "}".repeat(10_000));
    assert_eq!(Expander::new('\\').word(&word, &|_| None), Err(ExpandError::TooDeep));
}

/// Makes Dockerfiles that both parsers understand alike; where they do not is in [`known_divergences`].
fn ordinary() -> impl Strategy<Value = String> {
    let word = "[a-z0-9./:_$][a-z0-9./:_$-]{0,5}";
    let words = prop::collection::vec(word, 1..4).prop_map(|words| words.join(" "));
    let instruction = prop_oneof![
        (word, prop::option::of("[a-z][a-z0-9]{0,5}")).prop_map(|(image, name)| match name {
            Some(name) => format!("FROM {image} AS {name}"),
            None => format!("FROM {image}"),
        }),
        words.clone().prop_map(|words| format!("RUN {words}")),
        words.clone().prop_map(|words| format!("run a \\\n  {words}")),
        words.clone().prop_map(|words| format!("CMD {words}")),
        (word, word).prop_map(|(a, b)| format!("ENTRYPOINT [\"{a}\", \"{b}\"]")),
        (word, words.clone()).prop_map(|(to, from)| format!("COPY --chown=1:2 {from} /{to}")),
        (word, words.clone()).prop_map(|(to, from)| format!("ADD {from} \\\n # comment\n /{to}")),
        (word, word).prop_map(|(value, other)| format!("ENV A={value} B=\"{other} {value}\"")),
        word.prop_map(|value| format!("LABEL a.b={value}")),
        word.prop_map(|value| format!("ARG X={value}")),
        Just("EXPOSE 80 81/udp".to_owned()),
        word.prop_map(|path| format!("VOLUME /{path} /b")),
        word.prop_map(|path| format!("WORKDIR /{path}")),
        word.prop_map(|user| format!("USER {user}")),
        Just("STOPSIGNAL TERM".to_owned()),
        words.clone().prop_map(|words| format!("HEALTHCHECK --interval=5s CMD {words}")),
        words.prop_map(|words| format!("ONBUILD RUN {words}")),
        Just("# a comment".to_owned()),
        Just(String::new()),
    ];
    prop::collection::vec(instruction, 0..12)
        .prop_map(|lines| format!("FROM scratch\n{}\n", lines.join("\n")))
}

/// What both parsers tell of a file: stages with base and name, and the number of instructions in each.
type Outline = Vec<(String, Option<String>, usize)>;

fn ours(text: &str) -> Option<Outline> {
    let (dockerfile, errors) = Dockerfile::parse(text);
    let stages = dockerfile.stages.into_iter();
    errors.is_empty().then(|| {
        stages
            .map(|stage| {
                (stage.base.value, stage.name_written.map(|name| name.value), stage.instructions.len())
            })
            .collect()
    })
}

fn theirs(text: &str) -> Option<Outline> {
    let dockerfile = parse_dockerfile::parse(text).ok()?;
    let outline = dockerfile.stages().map(|stage| {
        let name = stage.from.as_.as_ref().map(|(_, name)| name.value.clone().into_owned());
        (stage.from.image.value.clone().into_owned(), name, stage.instructions.len())
    });
    Some(outline.collect())
}

/// The JSON and shell forms of CMD and ENTRYPOINT, and the words of COPY and ADD.
fn their_words(text: &str) -> Vec<Vec<String>> {
    use parse_dockerfile::{Command, Instruction as I, Source};
    let dockerfile = parse_dockerfile::parse(text).unwrap();
    let paths = |sources: &[Source<'_>], dest: &str| {
        let sources = sources.iter().map(|source| match source {
            Source::Path(path) => path.value.clone().into_owned(),
            other => format!("{other:?}"),
        });
        sources.chain([dest.to_owned()]).collect::<Vec<_>>()
    };
    let command = |command: &Command<'_>| match command {
        Command::Exec(args) => args.value.iter().map(|arg| arg.value.clone().into_owned()).collect(),
        Command::Shell(shell) => vec![shell.value.to_owned()],
        other => vec![format!("{other:?}")],
    };
    let words = dockerfile.instructions.iter().filter_map(|instruction| match instruction {
        I::Copy(copy) => Some(paths(&copy.src, &copy.dest.value)),
        I::Add(add) => Some(paths(&add.src, &add.dest.value)),
        I::Entrypoint(entrypoint) => Some(command(&entrypoint.arguments)),
        I::Cmd(cmd) => Some(command(&cmd.arguments)),
        _ => None,
    });
    words.collect()
}

fn our_words(text: &str) -> Vec<Vec<String>> {
    let (dockerfile, _) = Dockerfile::parse(text);
    let known = ["copy", "add", "entrypoint", "cmd"];
    let nodes = dockerfile.nodes.into_iter().filter(|node| known.contains(&node.instruction.as_str()));
    nodes.map(|node| node.args).collect()
}

/// Whether no two stages have the same name, which BuildKit only warns of.
fn has_distinct_names(text: &str) -> bool {
    let names = text.lines().filter_map(|line| line.strip_prefix("FROM ")?.split_once(" AS "));
    let names: Vec<_> = names.map(|(_, name)| name.to_lowercase()).collect();
    names.iter().collect::<std::collections::BTreeSet<_>>().len() == names.len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn another_parser_agrees(text in ordinary()) {
        prop_assume!(has_distinct_names(&text));
        prop_assert_eq!(ours(&text), theirs(&text));
        prop_assert_eq!(our_words(&text), their_words(&text));
    }
}

/// Where parse-dockerfile 0.1.9 and BuildKit differ; this crate follows BuildKit.
#[test]
fn known_divergences() {
    let check = |text: &str, ours: bool| {
        assert_eq!(Dockerfile::parse(text).1.is_empty(), ours, "{text:?}");
        assert_eq!(parse_dockerfile::parse(text).is_ok(), !ours, "{text:?}: no longer a divergence");
    };
    // Heredocs that do not stand at the start of a RUN, or behind a space.
    check("FROM a\nRUN cat <<A <<B\nx\nA\ny\nB\n", true);
    check("FROM a\nRUN << EOF\nx\nEOF\n", true);
    check("FROM a AS n\nFROM b AS n\n", true);
    check("FROM a\nRUN echo $((1 <<2))\n", false);
    check("FROM a\nCOPY -- --x /y\n", true);
    check("FROM a\nENTRYPOINT []\n", true);
    check("FROM a\nCMD [\"a\", 1]\n", false);
    check("FROM a\nONBUILD FROM x\n", false);
    check("FROM a AS 1b\n", false);
    check("FROM a\nENV a\n", false);
    check("FROM a\nLABEL a=1 b\n", false);
    // Flags have no types there, and few instructions have any.
    check("FROM a\nCMD --a\n", false);
    check("FROM a\nCOPY --what=1 a b\n", false);
    check("FROM a\nCOPY --from=a --from=b a b\n", false);
    check("FROM a\nHEALTHCHECK --retries=x CMD y\n", false);
}
