//! Reports of builders that took a stale or foreign layer from their cache, replayed: two builds with one difference, of which the second
//! image has to show it. In the comments: kaniko (K), its fork (O) and buildah (BA) with the number of the issue.

use crate::support::{World, can_run};

/// The content of a file in the last layer that a build with these arguments makes.
#[track_caller]
fn last(world: &World, file: &str, args: &[&str]) -> String {
    let image = world.build_layout(&format!("out-{}", world.entries()), args);
    image.entry(image.layers() - 1, file).content
}

#[test]
fn files_of_other_stages_and_of_the_context() {
    let world = World::new();
    let check = |before: &str, after: &str, file: &str, args: &[&str], change: &dyn Fn()| {
        assert_eq!(last(&world, file, args), before, "{file}");
        change();
        assert_eq!(last(&world, file, args), after, "{file}");
    };
    // K589, K845, K1262, K870, K2615: COPY --from a stage that was built anew, by name and by pattern
    for (source, copied) in [("/built", "site"), ("/bu*", "site"), ("/built/i*", "site/index")] {
        world.file("html/index", "1");
        world.dockerfile(&format!(
            "FROM scratch AS build\nCOPY html /built\nFROM scratch\nCOPY --from=build {source} /site/\n"
        ));
        let file = if copied.ends_with("index") { copied } else { "site/index" };
        check("1", "2", file, &[], &|| drop(world.file("html/index", "2")));
    }
    // K2241, K1678: a file of a directory has another name
    world.file("test/1.txt", "1");
    world.file("test/2.txt", "2");
    world.dockerfile("FROM scratch\nCOPY test /test\n");
    let paths = |name: &str| world.build_layout(name, &[]).paths(0);
    assert_eq!(paths("named"), ["test", "test/1.txt", "test/2.txt"]);
    let test = world.context().join("test");
    std::fs::rename(test.join("2.txt"), test.join("3.txt")).expect("renamed");
    assert_eq!(paths("renamed"), ["test", "test/1.txt", "test/3.txt"]);
    // two files change places
    for (from, to) in [("1.txt", "x"), ("3.txt", "1.txt"), ("x", "3.txt")] {
        std::fs::rename(test.join(from), test.join(to)).expect("renamed");
    }
    assert_eq!(last(&world, "test/1.txt", &[]), "2");
    // K2137: the base is chosen by an argument
    world.dockerfile(
        "ARG ID=0\nFROM scratch AS parent0\nCOPY test/1.txt /id\nFROM scratch AS parent1\nCOPY test/3.txt /id\n\
         FROM parent$ID AS parent\nFROM scratch\nCOPY --from=parent /id /id\n",
    );
    assert_eq!(last(&world, "id", &["--build-arg", "ID=0"]), "2");
    assert_eq!(last(&world, "id", &["--build-arg", "ID=1"]), "1");
    // O #778: what is copied is chosen by an argument
    world.dockerfile("FROM scratch\nARG F=1\nCOPY test/$F.txt /f\n");
    assert_eq!(last(&world, "f", &["--build-arg", "F=1"]), "2");
    assert_eq!(last(&world, "f", &["--build-arg", "F=3"]), "1");
    // O911: names that look like the end of one entry and the beginning of another
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    world.dockerfile("FROM scratch\nCOPY tree /\n");
    world.file("tree/a", "");
    world.file(&format!("tree/b{empty}c"), "");
    assert_eq!(paths("framed"), ["a".to_owned(), format!("b{empty}c")]);
    std::fs::remove_dir_all(world.context().join("tree")).expect("removed");
    world.file(&format!("tree/a{empty}b"), "");
    world.file("tree/c", "");
    assert_eq!(paths("framed-again"), [format!("a{empty}b"), "c".to_owned()]);
}

#[test]
fn arguments_and_mounts_of_commands() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let said = |args: &[&str]| {
        let mut all = vec!["--network", "none"];
        all.extend(args);
        last(&world, "out", &all)
    };
    // BA1391, BA1507, BA2992: an argument is another one, comes or goes
    world.dockerfile("FROM busybox\nARG USER_ID=none\nRUN echo $USER_ID > /out\n");
    assert_eq!(said(&["--build-arg", "USER_ID=0"]), "0\n");
    assert_eq!(said(&["--build-arg", "USER_ID=1"]), "1\n");
    assert_eq!(said(&[]), "none\n");
    assert_eq!(said(&["--build-arg", "USER_ID=0"]), "0\n");
    // O873: two arguments whose values run together alike
    world.dockerfile("FROM busybox\nARG A\nARG B\nRUN echo \"A=[$A] B=[$B]\" > /out\n");
    assert_eq!(said(&["--build-arg", "A=x-B=z", "--build-arg", "B=y"]), "A=[x-B=z] B=[y]\n");
    assert_eq!(said(&["--build-arg", "A=x", "--build-arg", "B=z-B=y"]), "A=[x] B=[z-B=y]\n");
    // BA5400: what is bound is another, from the context and from a stage
    for from in ["", ",from=files"] {
        world.file("files/i", "1\n");
        world.dockerfile(&format!(
            "FROM scratch AS files\nCOPY files /files\nFROM busybox\nRUN --mount=type=bind,source=files,target=/f{from} cat /f/i > /out\n"
        ));
        assert_eq!(said(&[]), "1\n");
        world.file("files/i", "2\n");
        assert_eq!(said(&[]), "2\n");
    }
}
