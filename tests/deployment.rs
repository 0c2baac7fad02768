//! The examples of jobs: valid, and confined as the page about isolation says.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::World;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

fn yaml(path: &str) -> Value {
    let text = std::fs::read_to_string(examples().join(path)).expect(path);
    serde_norway::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What each kind of pod says of the container and of itself, beyond the rest of the job. Fields that are not here are
/// left to the defaults of the cluster.
fn kinds() -> Vec<(&'static str, Value, Value)> {
    let profile = |name: &str| json!({"type": name});
    let user = |seccomp: &str| {
        json!({
            "runAsNonRoot": true, "runAsUser": 1000, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": profile(seccomp),
        })
    };
    let root = |seccomp: &str| json!({"runAsUser": 0, "seccompProfile": profile(seccomp)});
    let admin = json!({
        "runAsUser": 0, "capabilities": {"add": ["SYS_ADMIN"]}, "seccompProfile": profile("RuntimeDefault"),
    });
    vec![
        ("restricted", user("RuntimeDefault"), Value::Null),
        ("nonroot-unconfined", user("Unconfined"), Value::Null),
        ("root-default", root("RuntimeDefault"), Value::Null),
        ("root-unconfined", root("Unconfined"), Value::Null),
        ("hostusers-false", root("Unconfined"), json!(false)),
        ("hostusers-false-admin", admin, json!(false)),
        ("privileged", json!({"runAsUser": 0, "privileged": true}), Value::Null),
    ]
}

#[test]
fn each_kind_of_pod_has_a_job_with_its_security_context_and_no_more() {
    for (kind, container_context, host_users) in kinds() {
        let job = yaml(&format!("kubernetes/{kind}.yaml"));
        let pod = &job["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        assert_eq!(container["securityContext"], container_context, "{kind}");
        assert_eq!(pod["hostUsers"], host_users, "{kind}");
        assert_eq!(pod["securityContext"], Value::Null, "{kind}");
        assert_eq!(pod["automountServiceAccountToken"], false, "{kind}");
        assert_eq!(pod["hostNetwork"], Value::Null, "{kind}");
        // The checkout needs nothing, whatever the build needs.
        assert_eq!(pod["initContainers"][0]["securityContext"], kinds()[0].1, "{kind}");
    }
    let files = std::fs::read_dir(examples().join("kubernetes")).expect("examples/kubernetes");
    assert_eq!(files.count(), kinds().len());
}

#[test]
fn jobs_are_the_same_but_for_their_kind() {
    let stripped = |kind: &str| {
        let mut job = yaml(&format!("kubernetes/{kind}.yaml"));
        assert_eq!(job["metadata"]["name"], format!("rbuild-{kind}"));
        job["metadata"]["name"] = Value::Null;
        let pod = &mut job["spec"]["template"]["spec"];
        pod.as_object_mut().expect("a pod").remove("hostUsers");
        pod["containers"][0]["securityContext"] = Value::Null;
        job
    };
    let first = stripped("restricted");
    assert_eq!((&first["apiVersion"], &first["kind"]), (&json!("batch/v1"), &json!("Job")));
    assert_eq!(first["spec"]["backoffLimit"], 0);
    assert_eq!(first["spec"]["template"]["spec"]["restartPolicy"], "Never");
    for (kind, ..) in kinds() {
        assert_eq!(stripped(kind), first, "{kind}");
    }
}

#[test]
fn what_a_job_mounts_is_there_and_where_rbuild_looks() {
    let job = yaml("kubernetes/root-unconfined.yaml");
    let pod = &job["spec"]["template"]["spec"];
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().expect("a list");
        list.iter().map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
    };
    let volumes = names(&pod["volumes"]);
    let container = &pod["containers"][0];
    for mount in names(&container["volumeMounts"]) {
        assert!(volumes.contains(&mount), "{mount}");
    }
    let mounted = |name: &str| {
        let mounts = container["volumeMounts"].as_array().expect("a list");
        mounts.iter().find(|mount| mount["name"] == name).unwrap_or_else(|| panic!("{name}"))["mountPath"]
            .clone()
    };
    let image = std::fs::read_to_string(examples().join("self-image/Dockerfile")).expect("a Dockerfile");
    let store = mounted("store");
    assert!(image.contains(&format!("ENV RBUILD_ROOT={}\n", store.as_str().expect("a path"))), "{store}");
    assert_eq!(container["env"], json!([{"name": "DOCKER_CONFIG", "value": mounted("credentials")}]));
    let secret = &pod["volumes"][2]["secret"];
    assert_eq!(secret["items"], json!([{"key": ".dockerconfigjson", "path": "config.json"}]));
}

/// Runs a command line of an example on a Dockerfile that is only looked at.
fn accepts(args: &[String]) {
    let world = World::new();
    world.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let context = world.context().display().to_string();
    let (_, options) = args.split_last().expect("a context");
    let mut args = options.to_vec();
    args.extend(["--call=targets".to_owned(), context]);
    world.rbuild(&args).success();
}

#[test]
fn command_lines_of_jobs_are_accepted() {
    let job = yaml("kubernetes/restricted.yaml");
    let args = job["spec"]["template"]["spec"]["containers"][0]["args"].as_array().expect("a list").clone();
    accepts(&args.iter().map(|arg| arg.as_str().expect("text").to_owned()).collect::<Vec<_>>());

    let script = yaml("gitlab/.gitlab-ci.yml")["build"]["script"].clone();
    let build =
        script.as_array().expect("a script").last().expect("a command").as_str().expect("text").to_owned();
    let build = build.replace('"', "").replace("$CI_REGISTRY_IMAGE:$CI_COMMIT_SHA", "registry.example/app:1");
    let mut words = build.split(' ').map(str::to_owned);
    assert_eq!(words.next().as_deref(), Some("rbuild"));
    accepts(&words.collect::<Vec<_>>());
}

/// What GitLab's image adds is copied: any pod can build it.
#[test]
fn the_image_for_gitlab_runs_nothing() {
    let world = World::new();
    let dockerfile = std::fs::read_to_string(examples().join("gitlab/Dockerfile")).expect("a Dockerfile");
    world.dockerfile(&dockerfile);
    world.rbuild(&["--call=targets", "."]).success();
    assert!(!dockerfile.contains("\nRUN "));
}
