//! Steps without namespaces, mounts, a changed root or privileges.

use std::fs;

use rbuild_sandbox::{Exit, Isolation, Network};

use crate::support::Lab;

/// It is for users without privileges: `single` runs this as one.
fn lab() -> Option<Lab> {
    if rustix::process::geteuid().is_root() {
        return None;
    }
    Lab::new(Isolation::Supervised)
}

#[track_caller]
fn check(cases: &[(&str, &str)]) {
    let Some(lab) = lab() else { return };
    for (script, expect) in cases {
        lab.check(script, expect);
    }
}

#[test]
fn a_step_runs() {
    check(&[
        ("echo hello; id -u; hostname", "hello\n0\nbuildkitsandbox\n"),
        ("cd /tmp && pwd && cd .. && /bin/sh -c 'cat /proc/self/comm'", "/tmp\ncat\n"),
        ("echo a b | cat | wc -w; (exit 3) || echo $?", "2\n3\n"),
    ]);
}

#[test]
fn paths_are_those_of_the_root() {
    check(&[
        ("test -e /proc/self/root/bin/sh && readlink /proc/self/cwd", "/\n"),
        ("cd /../../..; pwd; ls / | grep -c bin", "/\n1\n"),
        ("mkdir -p /a/b && ln -s /a /l && cd /l/b && echo x > ../f && cat /a/f", "x\n"),
        (
            "ln -s ../../../../../../../../etc/passwd /tmp/up; test /tmp/up -ef /etc/passwd || echo outside",
            "",
        ),
        (
            "mkdir /gone && cd /gone && rm -r ../gone 2>/dev/null; mkdir /g && cd /g && mv /g /h && pwd -P",
            "/h\n",
        ),
    ]);
}

#[test]
fn scripts_find_their_interpreters_and_names() {
    check(&[
        ("printf '#!/bin/sh -e\\necho $0 $# $1\\n' > /s; chmod 755 /s; /s 'a b' c", "/s 2 a b\n"),
        (
            "printf '#!/s1\\n' > /s2; printf '#!/bin/sh\\necho $0 $1\\n' > /s1; chmod 755 /s1 /s2; /s2 x",
            "/s1 /s2\n",
        ),
        ("printf '#!/missing\\n' > /s; chmod 755 /s; /s 2>/dev/null || echo $?", "127\n"),
        ("printf 'echo by the shell\\n' > /s; chmod 755 /s; /s", "by the shell\n"),
        (
            "printf '\\177ELF\\001\\001' > /narrow; chmod 755 /narrow; (exec /narrow) 2>/dev/null || echo refused",
            "refused\n",
        ),
    ]);
}

#[test]
fn modes_keep_root_from_nothing() {
    check(&[
        (
            "umask 0; mkdir -m 555 /d && echo x > /d/f && chmod 0 /d/f && cat /d/f; stat -c %a /d /d/f; chmod 755 /d /d/f",
            "x\n555\n0\n",
        ),
        (
            "mkdir -m 0 /c && mkdir /c/d && mv /c/d /c/e && mv /c/e /e && ls -d /e; stat -c %a /c; chmod 755 /c",
            "/e\n0\n",
        ),
        (
            "umask 027; touch /u; mkdir /v; stat -c %a /u /v; umask 0; touch /w; stat -c %a /w",
            "640\n750\n666\n",
        ),
        (
            "mkdir -m 555 /ro /to && mkdir -m 555 /ro/sub && mv /ro/sub /to/sub && stat -c %a /ro /to /to/sub; chmod 755 /ro /to /to/sub",
            "555\n555\n555\n",
        ),
    ]);
}

#[test]
fn named_pipes_wait_for_both_ends() {
    check(&[
        ("mkfifo /p; (echo through > /p) & cat /p; wait", "through\n"),
        ("mkfifo /q; cat /q & echo other > /q; wait", "other\n"),
    ]);
    // Nobody comes: the step ends all the same.
    let Some(lab) = lab() else { return };
    let outcome = lab.run(&lab.shell("mkfifo /p; cat /p & exit 5"));
    assert_eq!(outcome.result.unwrap(), Exit::Code(5));
}

#[test]
fn what_stands_outside_is_not_reached() {
    let Some(lab) = lab() else { return };
    fs::write(lab.path("secret"), "secret").unwrap();
    let outside = lab.path("secret");
    let outside = outside.display();
    let script = format!(
        "cat {outside} /proc/1/root{outside} /proc/self/root{outside} /../../..{outside} 2>/dev/null; \
         ln -s {outside} /l; cat /l 2>/dev/null; test -e {outside} || echo held; exec {outside} 2>/dev/null"
    );
    let outcome = lab.run(&lab.shell(&script));
    assert_eq!(outcome.stdout, "held\n", "{outcome:?}");
}

#[test]
fn a_network_of_nothing() {
    let Some(lab) = lab() else { return };
    let mut spec = lab.shell("nc -w 1 127.0.0.1 1 2>&1 | grep -c -i denied");
    spec.process.network = Network::None;
    lab.check_spec(&spec, "1\n");
}
