//! Runs everything the crate does with text over one input, and checks what must hold for any.
//!
//! The property test and the fuzz target share this file.

use rbuild_dockerfile::{
    Diagnostic, Dockerfile, Expander, IgnoreFile, Instruction, Span, lint, parse_instruction, parse_mount,
};

/// Feeds `input` to the parser and to all that comes behind it.
pub(crate) fn exercise(input: &[u8]) {
    let (dockerfile, errors) = Dockerfile::parse(input);
    let found = lint::lint(&dockerfile);
    errors.iter().chain(&found).for_each(|diagnostic| check_diagnostic(&dockerfile, diagnostic));
    assert!(errors.iter().all(Diagnostic::is_error));
    assert!(!found.iter().any(Diagnostic::is_error));
    assert_eq!(errors.is_empty(), !dockerfile.stages.is_empty());
    let mut end = 0;
    for node in &dockerfile.nodes {
        check_span(&dockerfile, node.span);
        check_span(&dockerfile, node.args_span);
        assert!(node.start > end && node.end >= node.start, "nodes are in order");
        end = node.end;
        assert_eq!(dockerfile.node_at(node.span), Some(node));
        assert_eq!(node.flags.len(), node.flag_spans.len());
        node.args.iter().for_each(|word| expand(word));
    }
    for stage in &dockerfile.stages {
        check_span(&dockerfile, stage.base.span);
        assert!(dockerfile.node_at(stage.from).is_some());
        for instruction in &stage.instructions {
            assert!(dockerfile.node_at(instruction.span).is_some());
            if let Instruction::Run(run) = &instruction.value {
                let _ = run.script();
                for mount in &run.mounts {
                    let _ = parse_mount(&mount.value, &mut |word| Ok(word.to_owned()));
                }
            }
        }
    }
    let text = String::from_utf8_lossy(input);
    let _ = parse_instruction(&text);
    let _ = parse_mount(&text, &mut |word| Ok(word.to_owned()));
    expand(&text);
    ignore(input, &text);
}

fn check_diagnostic(dockerfile: &Dockerfile, diagnostic: &Diagnostic) {
    assert!(!diagnostic.message.is_empty());
    if let Some(span) = diagnostic.span {
        check_span(dockerfile, span);
    }
    if let Some((start, end)) = diagnostic.lines {
        assert!(start >= 1 && start <= end);
    }
}

fn check_span(dockerfile: &Dockerfile, span: Span) {
    assert!(dockerfile.text.get(span.start..span.end).is_some(), "{span:?} is outside of the text");
}

fn expand(word: &str) {
    let value = |name: &str| name.len().is_multiple_of(2).then(|| format!("<{name}>"));
    for expander in [Expander::new('\\'), Expander::new('`'), Expander::heredoc()] {
        let one = expander.word(word, &value);
        let words = expander.words(word, &value);
        assert_eq!(one.is_ok(), words.is_ok());
    }
}

fn ignore(input: &[u8], path: &str) {
    let Ok(file) = IgnoreFile::parse(input) else { return };
    let path = path.get(..64).unwrap_or(path);
    let _ = file.is_ignored(path);
    let (ignored, state) = file.matches("a", &Default::default());
    let (below, _) = file.matches("a/b", &state);
    assert_eq!(below, file.is_ignored("a/b"));
    if ignored && file.can_skip_dir("a") {
        assert!(below, "what can be skipped holds nothing that is kept");
    }
}
