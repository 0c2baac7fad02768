//! What comes out of a step, and what goes in.

use std::fs::File;
use std::os::fd::AsFd;

use rbuild_sandbox::{Cancel, Exit, Stream};

use crate::support::each;

#[test]
fn streams_are_separate_and_input_is_empty() {
    each(|lab| {
        let outcome = lab.run(
            &lab.shell("echo out; echo err >&2; cat; echo more > /dev/stdout; echo worse > /dev/stderr"),
        );
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\nmore\n", "err\nworse\n"));
        let mut spec = lab.shell("echo user > /dev/stdout");
        spec.process.user.uid = 1000;
        lab.check_spec(&spec, "user\n");
    });
}

#[test]
fn big_output_is_whole_and_comes_in_bounded_pieces() {
    each(|lab| {
        let script = "head -c 30000000 /dev/zero & head -c 20000000 /dev/zero >&2; wait";
        let mut sizes = [0usize; 2];
        let mut output = |stream, bytes: &[u8]| {
            assert!(bytes.len() <= 65536 && bytes.iter().all(|&byte| byte == 0));
            sizes[usize::from(stream == Stream::Stderr)] += bytes.len();
        };
        let result = lab.sandbox.run(&lab.shell(script), &mut output, &Cancel::new());
        assert!(matches!(result, Ok(Exit::Code(0))), "{result:?}");
        assert_eq!(sizes, [30_000_000, 20_000_000]);
    });
}

#[test]
fn no_descriptor_leaks() {
    each(|lab| {
        let file = File::open("/proc/self/status").unwrap();
        // `dup` does not set close-on-exec.
        let leaky = rustix::io::dup(file.as_fd()).unwrap();
        // 3 is the directory being listed.
        lab.check("exec ls /proc/self/fd", "0\n1\n2\n3\n");
        drop(leaky);
    });
}

#[test]
fn signals_have_their_default_action() {
    each(|lab| {
        let masks = ["awk", "/^Sig(Blk|Ign|Cgt)/ {print $2}", "/proc/self/status"];
        lab.check_spec(&lab.spec(&masks), &"0000000000000000\n".repeat(3));
    });
}
