//! Runs one command in a directory: `step ISOLATION SCRATCH ROOTFS COMMAND [ARGUMENT]...`.
//!
//! `ISOLATION` is the name of one, or `auto`; `SCRATCH` is a directory on the filesystem of `ROOTFS`, which the command
//! changes in place.

#![expect(clippy::print_stderr, reason = "a program")]

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use rbuild_sandbox::{Cancel, Mount, Process, Rootfs, Sandbox, Spec, Stream};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let mut next = || arguments.next().ok_or("usage: step ISOLATION SCRATCH ROOTFS COMMAND [ARGUMENT]...");
    let (isolation, scratch, rootfs) = (next()?, PathBuf::from(next()?), PathBuf::from(next()?));
    let sandbox = match isolation.to_str() {
        Some("auto") => Sandbox::detect(&scratch)?,
        name => Sandbox::forced(name.unwrap_or_default().parse()?, &scratch)?,
    };
    eprintln!("isolation {}", sandbox.isolation());
    for wall in sandbox.missing_walls() {
        eprintln!("missing: {wall}");
    }
    let mut process = Process::new(arguments);
    process.env =
        vec![("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into())];
    let rootfs = Rootfs::Directory(rootfs);
    let spec = Spec { rootfs, mounts: Mount::defaults(), process, owners: None };
    let mut output = |stream, bytes: &[u8]| {
        let _ = match stream {
            Stream::Stdout => io::stdout().write_all(bytes),
            Stream::Stderr => io::stderr().write_all(bytes),
        };
    };
    let exit = sandbox.run(&spec, &mut output, &Cancel::new())?;
    Ok(ExitCode::from(u8::try_from(exit.shell_code()).unwrap_or(u8::MAX)))
}
