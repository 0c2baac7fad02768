//! What comes out of a step, and what goes in.

use std::fs::File;
use std::os::fd::AsFd;

use rbuild_sandbox::{Cancel, Exit, Stream};

use crate::support::every;

#[test]
fn streams_are_separate_and_input_is_empty() {
    every(|lab| {
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
    every(|lab| {
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
    every(|lab| {
        let file = File::open("/proc/self/status").unwrap();
        // `dup` does not set close-on-exec.
        let leaky = rustix::io::dup(file.as_fd()).unwrap();
        // 3 is the directory being listed; where the list is made before it is opened, it is not there.
        lab.check("exec ls /proc/self/fd | grep -v 3", "0\n1\n2\n");
        lab.check("for fd in 3 4 5 6 7 8 9; do true <&$fd; done 2>&1 | grep -vc 'Bad file'; true", "0\n");
        drop(leaky);
    });
}

#[test]
fn signals_have_their_default_action() {
    every(|lab| {
        let masks = ["awk", "/^Sig(Blk|Ign|Cgt)/ {print $2}", "/proc/self/status"];
        lab.check_spec(&lab.spec(&masks), &"0000000000000000\n".repeat(3));
    });
}
