//! What the flags of `rbuild build` say of RUN: secrets, agents, hosts and limits.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::FileTypeExt as _;

use rbuild_builder::plan::{Entitlement, Surroundings};
use rbuild_builder::{KeyError, Secret, SshAgent};
use rbuild_sandbox::{Resource, Rlimit};

use super::{Environment, Usage};
use crate::args::RunArgs;

/// Bytes a secret may have, as with docker.
const LARGEST_SECRET: u64 = 500 << 10;

/// Reads `--secret`, and the values from where they are.
///
/// # Errors
/// A flag is malformed, a value missing or too large.
///
/// # References
/// buildx, util/buildflags/secrets.go; buildkit, session/secrets/secretsprovider
pub(super) fn secrets(
    list: &[String],
    environment: Environment<'_>,
) -> Result<BTreeMap<String, Secret>, Usage> {
    list.iter().map(|text| secret(text, environment)).collect()
}

fn secret(text: &str, environment: Environment<'_>) -> Result<(String, Secret), Usage> {
    let wrong = |what: String| Usage::new(format!("--secret: {what}"));
    let (mut id, mut file, mut variable, mut kind) = (None, None, None, None);
    let fields =
        super::output::fields(text).ok_or_else(|| wrong(format!("{text:?}: a quote is not closed")))?;
    for field in &fields {
        let pair = field.split_once('=');
        let (key, value) =
            pair.ok_or_else(|| wrong(format!("invalid field {field:?} must be a key=value pair")))?;
        match key.to_lowercase().as_str() {
            "id" => id = Some(value),
            "source" | "src" => file = Some(value),
            "env" => variable = Some(value),
            "type" if matches!(value, "file" | "env") => kind = Some(value),
            "type" => return Err(wrong(format!("unsupported secret type {value:?}"))),
            _ => return Err(wrong(format!("unexpected key {key:?} in {field:?}"))),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| wrong("secret missing ID".to_owned()))?;
    if kind == Some("env") && variable.is_none() {
        variable = file.take();
    }
    let value = match (variable, file) {
        (_, Some(file)) => secret_file(id, file)?,
        (Some(name), None) => {
            let value = environment(name);
            value.ok_or_else(|| wrong(format!("{id}: the environment has no variable {name}")))?.into_bytes()
        }
        (None, None) => match environment(id) {
            Some(value) => value.into_bytes(),
            None => secret_file(id, id)?,
        },
    };
    Ok((id.to_owned(), Secret::new(value)))
}

fn secret_file(id: &str, path: &str) -> Result<Vec<u8>, Usage> {
    let mut value = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST_SECRET + 1).read_to_end(&mut value));
    read.map_err(|error| Usage::new(format!("--secret: cannot read {path} for {id}: {error}")))?;
    if value.len() as u64 > LARGEST_SECRET {
        return Err(Usage::new(format!("--secret: {id} has more than {LARGEST_SECRET} bytes")));
    }
    Ok(value)
}

/// Reads `--ssh`.
///
/// # Errors
/// A flag is malformed, or names what is neither the socket of an agent nor a private key.
pub(super) fn agents(
    list: &[String],
    environment: Environment<'_>,
) -> Result<BTreeMap<String, SshAgent>, Usage> {
    list.iter().map(|text| agent(text, environment)).collect()
}

fn agent(text: &str, environment: Environment<'_>) -> Result<(String, SshAgent), Usage> {
    let (id, paths) = text.split_once('=').map_or((text, None), |(id, paths)| (id, Some(paths)));
    let id = if id.is_empty() { "default" } else { id };
    let paths: Vec<String> = match paths {
        Some(paths) => paths.split(',').map(str::to_owned).collect(),
        None => environment("SSH_AUTH_SOCK").into_iter().collect(),
    };
    let failed = |what: String| Usage::new(format!("--ssh {id}: {what}"));
    let is_socket = |path: &String| match std::fs::metadata(path) {
        Ok(meta) => Ok(meta.file_type().is_socket()),
        Err(error) => Err(failed(format!("{path}: {error}"))),
    };
    let sockets = paths.iter().map(is_socket).collect::<Result<Vec<_>, _>>()?;
    let agent = match (paths.as_slice(), sockets.contains(&true)) {
        ([], _) => return Err(failed("there is no agent".to_owned()).hint("is SSH_AUTH_SOCK set?")),
        ([path], true) => SshAgent::socket(path),
        (_, true) => {
            return Err(failed("a socket stands alone, without other sockets or keys".to_owned()));
        }
        (paths, false) => SshAgent::keys(paths).map_err(|error| {
            let usage = failed(error.to_string());
            match error {
                KeyError::Protected { path } => {
                    let add = path.display();
                    usage.hint(format!(
                        "let an agent hold it: eval $(ssh-agent) && ssh-add {add} && rbuild --ssh {id} …"
                    ))
                }
                _ => usage,
            }
        })?,
    };
    Ok((id.to_owned(), agent))
}

/// Reads `--allow`.
///
/// # Errors
/// A name is unknown.
pub(super) fn entitlements(list: &[String]) -> Result<BTreeSet<Entitlement>, Usage> {
    list.iter().map(|name| name.parse().map_err(|error| Usage::new(format!("--allow: {error}")))).collect()
}

/// Reads `--add-host`, `--ulimit` and `--shm-size`.
///
/// # Errors
/// A flag is malformed.
pub(super) fn surroundings(args: &RunArgs) -> Result<Surroundings, Usage> {
    Ok(Surroundings {
        extra_hosts: args.add_host.iter().map(|text| host(text)).collect::<Result<_, _>>()?,
        rlimits: args.ulimit.iter().map(|text| limit(text)).collect::<Result<_, _>>()?,
        shm_size: args.shm_size.as_deref().map(|text| bytes("--shm-size", text)).transpose()?,
    })
}

/// Reads `NAME:ADDRESS` or `NAME=ADDRESS`; brackets around the address go.
fn host(text: &str) -> Result<(String, IpAddr), Usage> {
    let invalid = || Usage::new(format!("--add-host: {text:?} is not NAME:ADDRESS"));
    let split = text.split_once('=').or_else(|| text.split_once(':'));
    let (name, address) = split.filter(|(name, _)| !name.is_empty()).ok_or_else(invalid)?;
    if address == "host-gateway" {
        return Err(Usage::new("--add-host: host-gateway is a daemon's, and there is none")
            .hint("steps are on the network of this host: its services are at 127.0.0.1"));
    }
    let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']')).unwrap_or(address);
    Ok((name.to_owned(), bare.parse().map_err(|_| invalid())?))
}

/// Reads `NAME=SOFT[:HARD]`; a lone number is both, -1 is no limit.
fn limit(text: &str) -> Result<Rlimit, Usage> {
    let invalid = |what: &str| Usage::new(format!("--ulimit: {text:?}: {what}"));
    let (name, values) = text.split_once('=').ok_or_else(|| invalid("is not NAME=SOFT[:HARD]"))?;
    let resource = Resource::ALL.into_iter().find(|resource| resource.name() == name);
    let resource = resource.ok_or_else(|| invalid("there is no such limit"))?;
    let number = |text: &str| match text {
        "-1" => Ok(None),
        text => text.parse().map(Some).map_err(|_| invalid("is no number")),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
        return Err(invalid("the soft limit is above the hard one"));
    }
    Ok(Rlimit { resource, soft, hard })
}

/// Reads a number of bytes with a unit, powers of 1024, as docker does: `64m`, `1.5g`, `64MiB`.
pub(crate) fn bytes(option: &str, text: &str) -> Result<u64, Usage> {
    let invalid = || Usage::new(format!("{option}: {text:?} is no size"));
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_lowercase();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let power = ["", "k", "m", "g", "t", "p"].iter().position(|known| *known == unit).ok_or_else(invalid)?;
    let scale = 1_u64 << (10 * power);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale).ok_or_else(invalid);
    }
    let (whole, fraction) = number.split_once('.').ok_or_else(invalid)?;
    // Nine digits are more than any size needs, and keep the product in range.
    let fraction: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let whole: u64 = whole.parse().map_err(|_| invalid())?;
    let part =
        u128::from(fraction.parse::<u64>().map_err(|_| invalid())?) * u128::from(scale) / 1_000_000_000;
    let part = u64::try_from(part).map_err(|_| invalid())?;
    whole.checked_mul(scale).and_then(|whole| whole.checked_add(part)).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_environment(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn secrets_come_from_files_and_variables() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "from a file\n").unwrap();
        let path = path.display();
        let environment = |name: &str| (name == "V").then(|| "from V".to_owned());
        let check = |text: &str, id: &str, value: &str| {
            let found = secrets(&[text.to_owned()], &environment).unwrap();
            assert_eq!(found, BTreeMap::from([(id.to_owned(), Secret::new(value.into()))]), "{text}");
        };
        check(&format!("id=a,src={path}"), "a", "from a file\n");
        check(&format!("ID=a,type=file,source={path}"), "a", "from a file\n");
        check("id=a,env=V", "a", "from V");
        check("id=a,type=env,src=V", "a", "from V");
        check("id=V", "V", "from V");
        check(&format!("id=a,\"src={path}\""), "a", "from a file\n");
        check("\"id=a,b\",env=V", "a,b", "from V");
        check(&format!("id={path}"), &path.to_string(), "from a file\n");
    }

    #[test]
    fn mistakes_of_secrets_show_no_value() {
        let check = |text: &str, expect: &str| {
            let error = secrets(&[text.to_owned()], &no_environment).unwrap_err();
            assert_eq!(error.to_string(), format!("--secret: {expect}"), "{text}");
        };
        check("src=/x", "secret missing ID");
        check("id=a,foo=b", "unexpected key \"foo\" in \"foo=b\"");
        check("id=a,type=foo", "unsupported secret type \"foo\"");
        check("\"id=a", "\"\\\"id=a\": a quote is not closed");
        check("id", "invalid field \"id\" must be a key=value pair");
        check("id=a,src=/none", "cannot read /none for a: No such file or directory (os error 2)");
        check("id=a,env=NONE", "a: the environment has no variable NONE");
        check("id=a,src=/dev/zero", "a has more than 512000 bytes");
    }

    #[test]
    fn agents_are_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, key) = (dir.path().join("socket"), dir.path().join("key"));
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::fs::write(&key, "PRIVATE").unwrap();
        let environment = |name: &str| (name == "SSH_AUTH_SOCK").then(|| socket.display().to_string());
        let given = |text: String| agents(&[text], &environment);
        let expect = |id: &str| BTreeMap::from([(id.to_owned(), SshAgent::socket(&socket))]);
        assert_eq!(given("default".to_owned()).unwrap(), expect("default"));
        assert_eq!(given(format!("a={}", socket.display())).unwrap(), expect("a"));
        assert_eq!(given(format!("={}", socket.display())).unwrap(), expect("default"));
        let error = given(format!("a={},{}", socket.display(), key.display())).unwrap_err();
        assert!(error.to_string().contains("stands alone"), "{error}");
        let error = given(format!("a={}", key.display())).unwrap_err();
        assert!(error.to_string().contains("holds no private key"), "{error}");
        let error = given("a=/none".to_owned()).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
        let error = agents(&["default".to_owned()], &no_environment).unwrap_err();
        assert_eq!(error.to_string(), "--ssh default: there is no agent");
    }

    #[test]
    fn hosts() {
        let check = |text: &str, expect: Option<(&str, &str)>| {
            let expect = expect.map(|(name, address)| (name.to_owned(), address.parse().unwrap()));
            assert_eq!(host(text).ok(), expect, "{text}");
        };
        check("foo:1.2.3.4", Some(("foo", "1.2.3.4")));
        check("foo=1.2.3.4", Some(("foo", "1.2.3.4")));
        check("foo:::1", Some(("foo", "::1")));
        check("foo=[::5]", Some(("foo", "::5")));
        check("foo:[::5]", Some(("foo", "::5")));
        for wrong in ["foo", "foo:bar", "a:b:c", ":1.2.3.4", "foo:host-gateway"] {
            check(wrong, None);
        }
    }

    #[test]
    fn limits() {
        let check = |text: &str, expect: Option<(Resource, Option<u64>, Option<u64>)>| {
            let expect = expect.map(|(resource, soft, hard)| Rlimit { resource, soft, hard });
            assert_eq!(limit(text).ok(), expect, "{text}");
        };
        check("nofile=100:200", Some((Resource::Nofile, Some(100), Some(200))));
        check("core=0", Some((Resource::Core, Some(0), Some(0))));
        check("stack=-1", Some((Resource::Stack, None, None)));
        check("stack=5:-1", Some((Resource::Stack, Some(5), None)));
        for wrong in ["nofile", "nofile=5:1", "nofile=-1:1", "foo=1", "nofile=a", "nofile=1:2:3"] {
            check(wrong, None);
        }
    }

    #[test]
    fn sizes() {
        let check = |text: &str, expect: Option<u64>| assert_eq!(bytes("o", text).ok(), expect, "{text}");
        check("1024", Some(1024));
        check("64m", Some(64 << 20));
        check("64MiB", Some(64 << 20));
        check("64 mb", Some(64 << 20));
        check("1.5g", Some(3 << 29));
        check("7b", Some(7));
        for wrong in ["", "x", "1x", ".", "-1", "1.2.3", "99999999999g", "m"] {
            check(wrong, None);
        }
    }
}
