//! `RUN --mount`: the options of one mount.

use crate::csv;
use crate::diagnostic::Diagnostic;
use crate::expand::ExpandError;
use crate::flags::parse_bool;
use crate::suggest::nearest;

/// All types of mounts.
const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];

/// All ways to share a cache.
const SHARINGS: [&str; 3] = ["shared", "private", "locked"];

/// All options.
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

/// One mount of a RUN, BuildKit's defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// Files of the build context, a stage, a named context or an image.
    Bind(Bind),
    /// A directory kept between builds.
    Cache(Cache),
    /// A file system in memory.
    Tmpfs(Tmpfs),
    /// A secret as a file or a variable.
    Secret(Secret),
    /// An agent's socket.
    Ssh(Ssh),
}

/// Whether a step may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Writing fails.
    ReadOnly,
    /// Writing works.
    ReadWrite,
}

/// `type=bind`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Where it appears; relative to the working directory.
    pub target: String,
    /// What appears, below the root of `from`; empty for all of it.
    pub source: String,
    /// Where it comes from; `None` for the build context.
    pub from: Option<String>,
    /// Read-only unless `rw`; what is written is thrown away.
    pub access: Access,
}

/// `type=cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Where it appears; relative to the working directory.
    pub target: String,
    /// What names it; `None` for the cleaned target.
    pub id: Option<String>,
    /// Who else may use it meanwhile.
    pub sharing: Sharing,
    /// Where its first content comes from.
    pub from: Option<String>,
    /// The part of `from`.
    pub source: String,
    /// Read-write unless `ro`.
    pub access: Access,
    /// Permission bits of the directory; `None` for 0755.
    pub mode: Option<u32>,
    /// Owner of the directory; `None` for 0.
    pub uid: Option<u32>,
    /// Group of the directory; `None` for 0.
    pub gid: Option<u32>,
}

/// How concurrent steps use one cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// All at once.
    #[default]
    Shared,
    /// Each its own.
    Private,
    /// One after the other.
    Locked,
}

/// `type=tmpfs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    /// Where it appears; relative to the working directory.
    pub target: String,
    /// Size limit in bytes.
    pub size: Option<u64>,
}

/// `type=secret`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// The secret's name.
    pub id: String,
    /// The file; `None` when only a variable is wanted.
    pub target: Option<String>,
    /// The variable that gets the value.
    pub env: Option<String>,
    /// Whether the step fails without it.
    pub required: bool,
    /// Permission bits of the file.
    pub mode: u32,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
}

/// `type=ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    /// The agent's name.
    pub id: String,
    /// The socket; `None` for `/run/buildkit/ssh_agent.N`.
    pub target: Option<String>,
    /// Whether the step fails without it.
    pub required: bool,
    /// Permission bits of the socket.
    pub mode: u32,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
}

/// Why a mount cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A value does not expand.
    #[error("cannot expand the value of `{key}`")]
    Expand {
        /// The option.
        key: String,
        /// Why not.
        source: ExpandError,
    },
    /// The options make no sense.
    #[error("{message}")]
    Invalid {
        /// What is wrong.
        message: String,
        /// The name that was probably meant.
        hint: Option<String>,
    },
}

impl MountError {
    fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), hint: None }
    }

    fn near(message: impl Into<String>, name: &str, names: &[&'static str]) -> Self {
        let near = nearest(name, names.iter().copied());
        Self::Invalid { message: message.into(), hint: near.map(|near| format!("did you mean `{near}`?")) }
    }

    /// Turns the error into a diagnostic without a place.
    #[must_use]
    pub fn diagnostic(&self) -> Diagnostic {
        match self {
            Self::Expand { source, .. } => Diagnostic::error(format!("{self}: {source}")),
            Self::Invalid { message, hint } => {
                Diagnostic { hint: hint.clone(), ..Diagnostic::error(message.clone()) }
            }
        }
    }
}

/// The options of one mount before its type makes sense of them.
#[derive(Debug, Default)]
struct Options {
    kind: Kind,
    from: Option<String>,
    source: String,
    target: String,
    access: Option<Access>,
    required: bool,
    size: Option<u64>,
    id: Option<String>,
    sharing: Option<Sharing>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

fn malformed(what: &str) -> MountError {
    MountError::invalid(format!("failed to parse csv mounts: {what}"))
}

/// Checks what can be known before variables have values: that the text is CSV and `from` holds no variable.
pub(crate) fn check_unexpanded(text: &str) -> Result<(), MountError> {
    for field in csv::split(text).map_err(malformed)? {
        let Some((key, value)) = field.split_once('=') else { continue };
        let variable = value.split_once('$').is_some_and(|(_, name)| !name.is_empty());
        if key.eq_ignore_ascii_case("from") && variable {
            return Err(MountError::Invalid {
                message: "'from' doesn't support variable expansion".to_owned(),
                hint: Some("define a stage `FROM $NAME AS alias` and name that".to_owned()),
            });
        }
    }
    Ok(())
}

/// Reads the value of `--mount`; `expand` is called for every value.
///
/// # Errors
/// When an option is unknown, lacks its value, does not belong to the type, or does not expand.
pub fn parse_mount(
    text: &str,
    expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
) -> Result<Mount, MountError> {
    check_unexpanded(text)?;
    let mut options = Options::default();
    for field in csv::split(text).map_err(malformed)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        let Some(value) = value else {
            options.set_switch(&key, &field)?;
            continue;
        };
        let value = expand(value).map_err(|source| MountError::Expand { key: key.clone(), source })?;
        options.set(&key, value, &field)?;
    }
    options.finish()
}

impl Options {
    /// Takes an option without a value.
    fn set_switch(&mut self, key: &str, field: &str) -> Result<(), MountError> {
        match key {
            "readonly" | "ro" => self.access = Some(Access::ReadOnly),
            "readwrite" | "rw" => self.access = Some(Access::ReadWrite),
            "required" => self.set_required(true)?,
            _ => {
                let message = format!("invalid field '{field}' must be a key=value pair");
                return Err(MountError::near(message, key, &KEYS));
            }
        }
        Ok(())
    }

    /// Takes an option with its expanded value.
    fn set(&mut self, key: &str, value: String, field: &str) -> Result<(), MountError> {
        let invalid = |value: &str| MountError::invalid(format!("invalid value for {key}: {value}"));
        match key {
            "type" => self.kind = parse_kind(&value)?,
            "from" => self.from = Some(value).filter(|from| !from.is_empty()),
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "readonly" | "ro" | "readwrite" | "rw" => {
                let flag = parse_bool(&value).ok_or_else(|| invalid(&value))?;
                let read_only = flag == matches!(key, "readonly" | "ro");
                self.access = Some(if read_only { Access::ReadOnly } else { Access::ReadWrite });
            }
            "required" => {
                let flag = parse_bool(&value).ok_or_else(|| invalid(&value))?;
                self.set_required(flag)?;
            }
            "size" if self.kind == Kind::Tmpfs => {
                self.size = Some(parse_size(&value).ok_or_else(|| invalid(&value))?);
            }
            "size" => return Err(self.unexpected(key)),
            "id" => self.id = Some(value).filter(|id| !id.is_empty()),
            "sharing" => self.sharing = Some(parse_sharing(&value)?),
            "env" => self.env = Some(value),
            "mode" => self.mode = Some(number(key, &value, 8)?),
            "uid" => self.uid = Some(number(key, &value, 10)?),
            "gid" => self.gid = Some(number(key, &value, 10)?),
            _ => {
                let message = format!("unexpected key '{key}' in '{field}'");
                return Err(MountError::near(message, key, &KEYS));
            }
        }
        Ok(())
    }

    fn unexpected(&self, key: &str) -> MountError {
        MountError::Invalid {
            message: format!("unexpected key '{key}' for mount type '{}'", self.kind.name()),
            hint: Some("put `type=` first".to_owned()),
        }
    }

    fn set_required(&mut self, required: bool) -> Result<(), MountError> {
        if !matches!(self.kind, Kind::Secret | Kind::Ssh) {
            return Err(self.unexpected("required"));
        }
        self.required = required;
        Ok(())
    }

    /// Checks the options against the type, and fills in the defaults.
    fn finish(self) -> Result<Mount, MountError> {
        let kind = self.kind.name();
        if matches!(self.kind, Kind::Bind | Kind::Tmpfs) {
            for (key, given) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if given.is_some() {
                    return Err(MountError::invalid(format!("{key} not allowed for {kind:?} type mounts")));
                }
            }
        }
        if self.sharing.is_some() && self.kind != Kind::Cache {
            return Err(MountError::invalid(format!("invalid cache sharing set for {kind} mount")));
        }
        Ok(match self.kind {
            Kind::Bind => Mount::Bind(Bind {
                target: self.target,
                source: self.source,
                from: self.from,
                access: self.access.unwrap_or(Access::ReadOnly),
            }),
            Kind::Cache => Mount::Cache(Cache {
                target: self.target,
                id: self.id,
                sharing: self.sharing.unwrap_or_default(),
                from: self.from,
                source: self.source,
                access: self.access.unwrap_or(Access::ReadWrite),
                mode: self.mode,
                uid: self.uid,
                gid: self.gid,
            }),
            Kind::Tmpfs => Mount::Tmpfs(Tmpfs { target: self.target, size: self.size }),
            Kind::Secret => Mount::Secret(self.secret()?),
            Kind::Ssh => Mount::Ssh(Ssh {
                id: self.id.unwrap_or_else(|| "default".to_owned()),
                target: Some(self.target).filter(|target| !target.is_empty()),
                required: self.required,
                mode: self.mode.unwrap_or(0o600),
                uid: self.uid.unwrap_or(0),
                gid: self.gid.unwrap_or(0),
            }),
        })
    }

    fn secret(self) -> Result<Secret, MountError> {
        if self.from.is_some() {
            return Err(MountError::invalid("secret mount should not have a from"));
        }
        let target = Some(self.target).filter(|target| !target.is_empty());
        let source = Some(self.source).filter(|source| !source.is_empty());
        let id = match (source, self.id, &target) {
            (Some(_), Some(_), _) => {
                return Err(MountError::invalid("both source and id can't be set"));
            }
            (Some(id), None, _) | (None, Some(id), _) => id,
            (None, None, Some(target)) => base_name(target).to_owned(),
            (None, None, None) => {
                return Err(MountError::invalid("invalid secret mount: one of id, source, target required"));
            }
        };
        let target = match (target, &self.env) {
            (None, None) => Some(format!("/run/secrets/{}", base_name(&id))),
            (target, _) => target,
        };
        Ok(Secret {
            id,
            target,
            env: self.env,
            required: self.required,
            mode: self.mode.unwrap_or(0o400),
            uid: self.uid.unwrap_or(0),
            gid: self.gid.unwrap_or(0),
        })
    }
}

fn parse_kind(value: &str) -> Result<Kind, MountError> {
    Ok(match value.to_lowercase().as_str() {
        "bind" => Kind::Bind,
        "cache" => Kind::Cache,
        "tmpfs" => Kind::Tmpfs,
        "secret" => Kind::Secret,
        "ssh" => Kind::Ssh,
        _ => return Err(MountError::near(format!("unsupported mount type {value:?}"), value, &TYPES)),
    })
}

fn parse_sharing(value: &str) -> Result<Sharing, MountError> {
    Ok(match value.to_lowercase().as_str() {
        "shared" => Sharing::Shared,
        "private" => Sharing::Private,
        "locked" => Sharing::Locked,
        _ => {
            let message = format!("unsupported sharing value {value:?}");
            return Err(MountError::near(message, value, &SHARINGS));
        }
    })
}

fn number(key: &str, value: &str, radix: u32) -> Result<u32, MountError> {
    // from_str_radix takes a sign, which Go's ParseUint refuses.
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = u32::from_str_radix(value, radix).ok().filter(|_| digits);
    parsed.ok_or_else(|| MountError::invalid(format!("invalid value {value} for {key}")))
}

/// Returns the last component of a path, as Go's `path.Base` does.
fn base_name(path: &str) -> &str {
    match path.trim_end_matches('/').rsplit('/').next() {
        Some("") | None => "/",
        Some(name) => name,
    }
}

/// Reads a size in bytes with an optional binary unit: `10m`, `1.5 GiB`.
fn parse_size(text: &str) -> Option<u64> {
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.')? + 1;
    let (number, unit) = text.split_at_checked(end)?;
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 0,
        "k" | "ki" => 1,
        "m" | "mi" => 2,
        "g" | "gi" => 3,
        "t" | "ti" => 4,
        "p" | "pi" => 5,
        _ => return None,
    };
    let bytes = number * 1024f64.powi(power);
    // Larger sizes do not fit the mount option either.
    (bytes < 9.2e18).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Mount, String> {
        let mut expand = |word: &str| Ok(word.replace("$T", "cache"));
        parse_mount(text, &mut expand).map_err(|error| error.diagnostic().to_string())
    }

    #[test]
    fn defaults() {
        let bind = Bind { target: "/t".into(), source: String::new(), from: None, access: Access::ReadOnly };
        assert_eq!(parse("target=/t"), Ok(Mount::Bind(bind.clone())));
        let rw = Bind { access: Access::ReadWrite, source: "s".into(), from: Some("b".into()), ..bind };
        for text in ["type=bind,dst=/t,src=s,from=b,rw", "FROM=b,\"target=/t\",source=s,ro=false"] {
            assert_eq!(parse(text), Ok(Mount::Bind(rw.clone())), "{text}");
        }
        let Ok(Mount::Cache(cache)) = parse("type=$T,target=/c,sharing=locked,mode=0700,uid=5") else {
            panic!("no cache");
        };
        assert_eq!((cache.sharing, cache.mode, cache.uid), (Sharing::Locked, Some(0o700), Some(5)));
        assert_eq!((cache.access, cache.id, cache.gid), (Access::ReadWrite, None, None));
        let size = |text: &str| match parse(text) {
            Ok(Mount::Tmpfs(tmpfs)) => tmpfs.size,
            other => panic!("{other:?}"),
        };
        assert_eq!(size("type=tmpfs,target=/t,size=10m"), Some(10 << 20));
        assert_eq!(size("type=tmpfs,target=/t,size=1.5KiB"), Some(1536));
        assert_eq!(size("type=tmpfs,target=/t"), None);
    }

    #[test]
    fn secrets() {
        let check = |text: &str, id: &str, target: Option<&str>, env: Option<&str>| match parse(text) {
            Ok(Mount::Secret(secret)) => assert_eq!(
                (secret.id.as_str(), secret.target.as_deref(), secret.env.as_deref()),
                (id, target, env),
                "{text}"
            ),
            other => panic!("{text}: {other:?}"),
        };
        check("type=secret,id=a/b", "a/b", Some("/run/secrets/b"), None);
        check("type=secret,target=/x/y", "y", Some("/x/y"), None);
        check("type=secret,source=s,env=E", "s", None, Some("E"));
        check("type=secret,id=s,env=E,target=/t", "s", Some("/t"), Some("E"));
    }

    #[test]
    fn errors() {
        let check = |text: &str, expect: &str| assert_eq!(parse(text), Err(expect.to_owned()), "{text}");
        check("type=chache", "unsupported mount type \"chache\" (did you mean `cache`?)");
        check("z", "invalid field 'z' must be a key=value pair");
        check("tagret=/x", "unexpected key 'tagret' in 'tagret=/x' (did you mean `target`?)");
        check("required,type=secret", "unexpected key 'required' for mount type 'bind' (put `type=` first)");
        check("target=/x,mode=7", "mode not allowed for \"bind\" type mounts");
        check("target=/x,sharing=shared", "invalid cache sharing set for bind mount");
        check("type=secret", "invalid secret mount: one of id, source, target required");
        check("type=secret,id=a,from=b", "secret mount should not have a from");
        check("type=tmpfs,size=lots", "invalid value for size: lots");
        check("type=cache,mode=+7", "invalid value +7 for mode");
        check("type=cache,mode=8", "invalid value 8 for mode");
        check("a\"b=c", "failed to parse csv mounts: bare \" in non-quoted field");
        check("\"a=b", "failed to parse csv mounts: a quoted field is not closed");
        assert!(parse("from=$X,target=/x").unwrap_err().contains("doesn't support variable expansion"));
    }
}
