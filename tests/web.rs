//! Servers that want to know who asks, and files that have not changed since they were fetched.

use crate::support::{Answer, Web, World};

const TOKEN: &str = "hunter2-77aa01";

impl World {
    /// Builds the Dockerfile with `TOKEN` as the secret `id`.
    fn with_secret(&self, id: &str, dockerfile: &str) -> crate::support::Run {
        std::fs::write(self.path("token"), TOKEN).expect("a secret");
        self.dockerfile(dockerfile);
        let secret = format!("id={id},src={}", self.path("token").display());
        self.rbuild(&["--progress", "plain", "--secret", &secret, "-o", "type=cacheonly", "."])
    }
}

/// The `Authorization` headers of what a server was asked.
fn authorizations(web: &Web) -> Vec<Option<String>> {
    let value = |head: &String| {
        let (_, value) = head.lines().find_map(|line| {
            line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("authorization"))
        })?;
        Some(value.to_owned())
    };
    web.heads.lock().expect("no panic").iter().map(value).collect()
}

#[test]
fn a_token_goes_to_its_host_and_nowhere_else() {
    let other = Web::serve([("/f", Answer::ok("hello\n"))]);
    let web = Web::serve([("/moved", Answer::redirect(other.url("/f"))), ("/f", Answer::ok("hello\n"))]);
    let world = World::new();
    let dockerfile = format!("FROM scratch\nADD {} {} /\n", web.url("/moved"), web.url("/f"));
    let run = world.with_secret("HTTP_AUTH_TOKEN_127.0.0.1", &dockerfile);
    assert!(!run.exits(0).stderr.contains(TOKEN));
    let sent = Some(format!("Bearer {TOKEN}"));
    assert_eq!(authorizations(&web), [sent.clone(), sent]);
    assert_eq!(authorizations(&other), [None], "another port is another origin");

    let run =
        world.with_secret("HTTP_AUTH_HEADER_localhost", &format!("FROM scratch\nADD {} /x\n", web.url("/f")));
    run.exits(0);
    assert_eq!(authorizations(&web).pop(), Some(None), "another name is another host");
}

#[test]
fn a_token_of_two_lines_is_refused_and_not_shown() {
    let web = Web::serve([("/f", Answer::ok("hello\n"))]);
    let world = World::new();
    std::fs::write(world.path("lines"), format!("{TOKEN}\nX-Other: y")).expect("a secret");
    world.dockerfile(&format!("FROM scratch\nADD {} /\n", web.url("/f")));
    let secret = format!("id=HTTP_AUTH_HEADER_127.0.0.1,src={}", world.path("lines").display());
    let run = world.rbuild(&["--progress", "plain", "--secret", &secret, "-o", "type=cacheonly", "."]);
    let run = run.exits(1).says("has a line break");
    assert!(!run.stderr.contains(TOKEN));
    assert_eq!(web.requests(), 0);
}

#[test]
fn a_token_of_git_is_not_sent_on() {
    let other = Web::serve([]);
    let refs = "/r.git/info/refs?service=git-upload-pack";
    let web = Web::serve([(refs, Answer::redirect(other.url(refs)))]);
    let world = World::new();
    let name = format!("GIT_AUTH_TOKEN.{}", web.address);
    let run = world.with_secret(&name, &format!("FROM scratch\nADD {} /r\n", web.url("/r.git")));
    assert!(!run.exits(1).stderr.contains(TOKEN));
    let sent = authorizations(&web);
    assert!(
        !sent.is_empty()
            && sent.iter().all(|sent| sent.as_ref().is_some_and(|sent| sent.starts_with("basic ")))
    );
    assert_eq!(other.requests(), 0);
}

#[test]
fn a_file_that_has_not_changed_is_not_sent_again() {
    let tagged = Answer { headers: vec!["ETag: \"one\"".into()], ..Answer::ok("hello\n") };
    let dated = Answer {
        headers: vec!["Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT".into()],
        ..Answer::ok("old\n")
    };
    let web = Web::serve([("/tagged", tagged), ("/dated", dated)]);
    let world = World::new();
    world.dockerfile(&format!("FROM scratch\nADD {} {} /\n", web.url("/tagged"), web.url("/dated")));
    let build = |name: &str, options: &[&str]| {
        let image = world.build_layout(name, options);
        assert_eq!(image.entry(0, "tagged").content, "hello\n");
        assert_eq!(image.entry(0, "dated").content, "old\n");
        let heads = std::mem::take(&mut *web.heads.lock().expect("no panic"));
        heads.iter().filter(|head| head.to_lowercase().contains("if-none-match: \"one\"")).count()
    };
    assert_eq!((build("a", &[]), build("b", &[]), build("c", &["--no-cache"])), (0, 1, 1));
    // What is kept is damaged: it is fetched after all.
    let hello = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    std::fs::write(world.store().join("blobs/sha256").join(hello), "jello\n").expect("a blob");
    assert_eq!(build("d", &["--no-cache"]), 1);
}
