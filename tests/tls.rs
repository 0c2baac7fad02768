//! TLS with an authority of one's own, redirects out of it, and proxies: for files, contexts and repositories.

use std::path::PathBuf;

use crate::support::{Answer, Certificate, Run, Web, World, have};

const DOCKERFILE: &str = "FROM scratch\nLABEL from=elsewhere\n";

/// An address that belongs to nobody; nothing must be sent there.
///
/// # References
/// RFC 5737
const NOWHERE: &str = "192.0.2.1";

impl World {
    /// Builds with these variables in the environment and throws the image away.
    fn build_with(&self, variables: &[(&str, String)], context: &str) -> Run {
        let mut command = self.command();
        command.args(["--progress", "plain", "-o", "type=cacheonly", context]);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        Run::of(command.output().expect("rbuild starts"))
    }

    /// Writes the authority's file and gives what makes it trusted.
    fn trust(&self, certificate: &Certificate) -> (PathBuf, [(&'static str, String); 1]) {
        let path = self.path("authority.pem");
        certificate.write_authority(&path);
        let variables = [("SSL_CERT_FILE", path.display().to_string())];
        (path, variables)
    }
}

/// The first lines of what a server was asked.
fn asked(web: &Web) -> Vec<String> {
    let heads = std::mem::take(&mut *web.heads.lock().expect("no panic"));
    heads.iter().filter_map(|head| head.lines().next().map(str::to_owned)).collect()
}

#[test]
fn a_private_authority_is_trusted_for_files_and_contexts() {
    let certificate = Certificate::new();
    let web = Web::serve_tls(
        &certificate,
        [("/f", Answer::ok("hello\n")), ("/Dockerfile", Answer::ok(DOCKERFILE))],
    );
    let world = World::new();
    let (_, trusted) = world.trust(&certificate);
    world.dockerfile(&format!("FROM scratch\nADD {} /\n", web.url("/f")));
    for context in [".", &web.url("/Dockerfile")] {
        let run = world.build_with(&[], context);
        assert_ne!(run.code, 0, "{context}: {}", run.stderr);
        assert!(run.says("certificate").stderr.contains(&web.address), "{context}");
        assert!(asked(&web).is_empty(), "{context}: nothing is said to who cannot be trusted");
        world.build_with(&trusted, context).success();
        assert_eq!(asked(&web).len(), 1, "{context}");
    }
}

#[test]
fn a_private_authority_is_trusted_for_repositories() {
    if !have("git") {
        return;
    }
    let certificate = Certificate::new();
    let web = Web::serve_tls(&certificate, []);
    let world = World::new();
    let (_, trusted) = world.trust(&certificate);
    world.dockerfile(&format!("FROM scratch\nADD {} /r\n", web.url("/r.git")));
    let run = world.build_with(&[], ".").exits(1);
    assert!(asked(&web).is_empty(), "{}", run.stderr);
    // There is no repository, but now git gets as far as to be told so.
    world.build_with(&trusted, ".").exits(1);
    let asked = asked(&web);
    assert!(asked.first().is_some_and(|line| line.starts_with("GET /r.git/info/refs")), "{asked:?}");
}

#[test]
fn downloads_follow_out_of_tls_and_registries_do_not() {
    let certificate = Certificate::new();
    let plain = Web::serve([("/f", Answer::ok("hello\n"))]);
    let manifest = "/v2/team/app/manifests/1";
    let web = Web::serve_tls(
        &certificate,
        [
            ("/f", Answer::redirect(plain.url("/f"))),
            (manifest, Answer::redirect(format!("http://{NOWHERE}{manifest}"))),
        ],
    );
    let world = World::new();
    let (authority, trusted) = world.trust(&certificate);
    world.dockerfile(&format!("FROM scratch\nADD {} /\n", web.url("/f")));
    world.build_with(&trusted, ".").success();
    assert_eq!((asked(&web).len(), asked(&plain).len()), (1, 1));

    let ca = format!("{}={}", web.address, authority.display());
    let name = format!("{}/team/app:1", web.address);
    let run = world.rbuild(&["pull", "--registry-ca", &ca, &name]).exits(3);
    run.says("from HTTPS to plain HTTP").says(NOWHERE);
}

#[test]
fn proxies_stand_between_unless_told_otherwise() {
    let file = "http://files.invalid/f";
    let proxy = Web::serve([
        (file, Answer::ok("hello\n")),
        ("http://files.invalid/Dockerfile", Answer::ok(DOCKERFILE)),
    ]);
    let web = Web::serve([("/f", Answer::ok("hello\n"))]);
    let world = World::new();
    let address = format!("http://{}", proxy.address);
    let add = |url: &str| world.dockerfile(&format!("FROM scratch\nADD {url} /\n"));
    for name in ["HTTP_PROXY", "http_proxy"] {
        add(file);
        world.build_with(&[(name, address.clone())], ".").success();
        world.build_with(&[(name, address.clone())], "http://files.invalid/Dockerfile").success();
        assert_eq!(asked(&proxy).len(), 2, "{name}");
    }

    add("https://files.invalid/f");
    let run = world.build_with(&[("HTTPS_PROXY", address.clone())], ".");
    assert_ne!(run.code, 0, "{}", run.stderr);
    let tunnels = asked(&proxy);
    assert!(
        tunnels.first().is_some_and(|line| line.starts_with("CONNECT files.invalid:443 ")),
        "{tunnels:?}"
    );

    add(&web.url("/f"));
    let direct = [("HTTP_PROXY", address.clone()), ("NO_PROXY", "localhost,127.0.0.0/8".to_owned())];
    world.build_with(&direct, ".").success();
    assert_eq!((asked(&proxy).len(), asked(&web).len()), (0, 1));
}
