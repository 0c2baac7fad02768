//! What `rbuild doctor` prints for people.

use std::fmt::Write as _;

use crate::commands::doctor::{Checkup, Run, Shelf, Source};

/// The width of the first column.
const LABEL: usize = 14;

/// Writes a checkup as sections of labelled lines.
pub(crate) fn text(checkup: &Checkup) -> String {
    let Checkup { version, kernel, user, landlock_abi, run, store, emulators, credentials, proxies } =
        checkup;
    let mut page = Page(String::new());
    page.section("Host");
    page.line("rbuild", version);
    page.line("kernel", kernel);
    page.line("user", &format!("{}, {} user ids here", user.uid, user.ids));
    let landlock = match landlock_abi {
        0 => "none".to_owned(),
        abi => format!("ABI {abi}"),
    };
    page.line("Landlock", &landlock);
    run_section(&mut page, run);
    store_section(&mut page, store);
    page.section("Registries");
    credentials.iter().for_each(|source| page.line("credentials", &credential(source)));
    if credentials.is_empty() {
        page.line("credentials", "none found");
    }
    page.line("proxies", &if proxies.is_empty() { "none set".to_owned() } else { proxies.join(", ") });
    page.section("RUN for other architectures");
    emulators.iter().for_each(|(architecture, how)| page.line(architecture, how));
    if emulators.is_empty() {
        page.line("emulators", "none registered in /proc/sys/fs/binfmt_misc");
    }
    page.0
}

struct Page(String);

impl Page {
    fn section(&mut self, title: &str) {
        let separator = if self.0.is_empty() { "" } else { "\n" };
        self.0.extend([separator, title, "\n"]);
    }

    fn line(&mut self, label: &str, text: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "  {label:LABEL$}  {}", super::printable(text));
    }
}

fn run_section(page: &mut Page, run: &Run) {
    page.section("RUN");
    let name = run.chosen.as_ref().map(|chosen| chosen.isolation);
    for tried in &run.attempts {
        let outcome = match &tried.failure {
            Some(failure) => format!("no: {failure}"),
            None if name == Some(tried.isolation) => "yes, used".to_owned(),
            None => "yes".to_owned(),
        };
        page.line(tried.isolation, &outcome);
    }
    match &run.chosen {
        Some(chosen) => {
            page.line("snapshots", chosen.snapshots);
            page.line("mounts", chosen.mounts);
            page.line("owners", chosen.owners);
            let walls = match chosen.missing_walls.as_slice() {
                [] => "all stand".to_owned(),
                missing => format!("missing: {}", missing.join("; ")),
            };
            page.line("walls", &walls);
        }
        None if run.attempts.is_empty() => page.line("not tried", "there is no store to try in"),
        None => page.line("impossible", "builds without RUN work"),
    }
    if let Some(remedy) = &run.remedy {
        page.line("remedy", remedy);
    }
    for improvement in &run.improvements {
        page.line("better", &format!("{} → {}", improvement.change, improvement.brings));
    }
}

fn store_section(page: &mut Page, store: &Shelf) {
    page.section("Store");
    if let Some(error) = &store.error {
        page.line("error", error);
    }
    if let Some(path) = &store.path {
        page.line("path", path);
        page.line("filesystem", store.filesystem.as_deref().unwrap_or("unknown"));
    }
    if let (Some(free), Some(size)) = (store.free, store.size) {
        page.line("free", &format!("{} of {}", super::bytes(free), super::bytes(size)));
    }
}

fn credential(source: &Source) -> String {
    let found = match (&source.error, source.names.as_slice()) {
        (Some(error), _) => error.clone(),
        (None, []) => "names no registry".to_owned(),
        (None, names) => names.join(", "),
    };
    format!("{}: {found}", source.path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::{Chosen, Improvement, Tried, User};

    fn checkup() -> Checkup {
        let tried =
            |isolation, failure: Option<&str>| Tried { isolation, failure: failure.map(str::to_owned) };
        Checkup {
            version: "1.2.3",
            kernel: "6.18.0".to_owned(),
            user: User { uid: 0, ids: 65536 },
            landlock_abi: 7,
            run: Run {
                chosen: Some(Chosen {
                    isolation: "userns",
                    snapshots: "overlay",
                    mounts: "mounted",
                    owners: "native",
                    missing_walls: Vec::new(),
                }),
                remedy: None,
                attempts: vec![
                    tried(
                        "namespaces",
                        Some("cannot create namespaces: Operation not permitted (os error 1)"),
                    ),
                    tried("userns", None),
                    tried("chroot", None),
                ],
                improvements: vec![Improvement { change: "hostUsers: false", brings: "safer" }],
            },
            store: Shelf {
                path: Some("/var/lib/rbuild".to_owned()),
                error: None,
                filesystem: Some("ext4".to_owned()),
                free: Some(12_345_678_901),
                size: Some(98_765_432_100),
            },
            emulators: [("arm64".to_owned(), "works in every rootfs")].into(),
            credentials: vec![Source {
                path: "/root/.docker/config.json".to_owned(),
                names: vec![
                    "reg.local".to_owned(),
                    "every registry (asks docker-credential-pass)".to_owned(),
                ],
                error: None,
            }],
            proxies: vec!["HTTPS_PROXY", "NO_PROXY"],
        }
    }

    #[test]
    fn a_page() {
        let expect = "\
Host
  rbuild          1.2.3
  kernel          6.18.0
  user            0, 65536 user ids here
  Landlock        ABI 7

RUN
  namespaces      no: cannot create namespaces: Operation not permitted (os error 1)
  userns          yes, used
  chroot          yes
  snapshots       overlay
  mounts          mounted
  owners          native
  walls           all stand
  better          hostUsers: false → safer

Store
  path            /var/lib/rbuild
  filesystem      ext4
  free            12.3GB of 98.8GB

Registries
  credentials     /root/.docker/config.json: reg.local, every registry (asks docker-credential-pass)
  proxies         HTTPS_PROXY, NO_PROXY

RUN for other architectures
  arm64           works in every rootfs
";
        assert_eq!(text(&checkup()), expect);
    }

    #[test]
    fn a_host_that_allows_nothing() {
        let mut poor = checkup();
        poor.landlock_abi = 0;
        poor.run.chosen = None;
        poor.run.attempts.retain(|tried| tried.failure.is_some());
        poor.run.improvements.clear();
        poor.run.remedy = Some("set securityContext.seccompProfile.type: Unconfined".to_owned());
        poor.emulators.clear();
        poor.credentials.clear();
        poor.proxies.clear();
        let text = text(&poor);
        for line in [
            "  Landlock        none\n",
            "  impossible      builds without RUN work\n  remedy          set securityContext.seccompProfile.type: Unconfined\n",
            "  credentials     none found\n",
            "  proxies         none set\n",
            "  emulators       none registered",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
