//! Scratch.
fn main() {
    use rbuild_sandbox::*;
    let a: Vec<String> = std::env::args().collect();
    let scratch = std::path::Path::new(&a[1]);
    let sandbox = match Sandbox::forced(Isolation::Supervised, scratch) { Ok(s) => s, Err(e) => { eprintln!("{e}"); std::process::exit(4) } };
    #[derive(Debug)] struct N(std::sync::Mutex<std::collections::HashMap<(u64,u64),Recorded>>);
    impl Owners for N {
        fn get(&self, _: std::os::fd::BorrowedFd<'_>, s: &rustix::fs::Stat) -> std::io::Result<Recorded> { Ok(self.0.lock().unwrap().get(&(s.st_dev,s.st_ino)).copied().unwrap_or_default()) }
        fn set(&self, _: std::os::fd::BorrowedFd<'_>, s: &rustix::fs::Stat, r: &Recorded) -> std::io::Result<()> { self.0.lock().unwrap().insert((s.st_dev,s.st_ino), *r); Ok(()) }
    }
    let mut process = Process::new(a[3..].iter().cloned());
    process.env = vec![("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),("HOME".into(),"/root".into())];
    let spec = Spec { rootfs: Rootfs::Directory(a[2].clone().into()), mounts: Mount::defaults(), process, owners: Some(std::sync::Arc::new(N(Default::default()))) };
    let exit = sandbox.run(&spec, &mut |s, b| { use std::io::Write; if s == Stream::Stdout { std::io::stdout().write_all(b).unwrap(); } else { std::io::stderr().write_all(b).unwrap(); } }, &Cancel::new());
    match exit { Ok(e) => std::process::exit(e.shell_code()), Err(e) => { eprintln!("FAILED {e:?} {e}"); std::process::exit(99) } }
}
