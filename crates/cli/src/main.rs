//! The `rbuild` binary: arguments in, exit code out.

fn main() {}
