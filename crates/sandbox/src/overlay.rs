//! Overlay options: short, relative and escaped.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::RunError;
use crate::prepare::{absolute, c_path};
use crate::program::OverlayPlan;

/// Plans an overlay; `lower` is given lowest first.
pub(crate) fn plan(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<OverlayPlan, RunError> {
    if lower.is_empty() {
        return Err(RunError::Invalid("an overlay without a lower directory".to_owned()));
    }
    let lower = lower.iter().rev().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = (absolute(upper)?, absolute(work)?);
    let base = common_directory(lower.iter().chain([&upper, &work]).map(PathBuf::as_path));
    let relative = |path: &Path| match path.strip_prefix(&base) {
        Ok(rest) if !rest.as_os_str().is_empty() => rest.to_owned(),
        _ => PathBuf::from("."),
    };
    let (upper, work) = (relative(&upper), relative(&work));
    let lower: Vec<PathBuf> = lower.iter().map(|path| relative(path)).collect();
    let (options_durable, options) = mount_options(&lower, &upper, &work)?;
    Ok(OverlayPlan {
        base: c_path(&base)?,
        lower: lower.iter().map(|path| c_path(path)).collect::<Result<_, _>>()?,
        upper_option: bytes(escape(&upper))?,
        work_option: bytes(escape(&work))?,
        upper: c_path(&upper)?,
        options,
        options_durable,
    })
}

/// Returns the options for mount(2), without and with `volatile`.
fn mount_options(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<(CString, CString), RunError> {
    let lower: Vec<Vec<u8>> = lower.iter().map(|path| escape(path)).collect();
    let durable = [
        b"userxattr,lowerdir=".as_slice(),
        &lower.join(&b':'),
        b",upperdir=",
        &escape(upper),
        b",workdir=",
        &escape(work),
    ]
    .concat();
    let volatile = [durable.as_slice(), b",volatile"].concat();
    Ok((bytes(durable)?, bytes(volatile)?))
}

/// Returns the deepest directory that all paths are in or are.
fn common_directory<'a>(mut paths: impl Iterator<Item = &'a Path>) -> PathBuf {
    let first = paths.next().unwrap_or(Path::new("/")).to_owned();
    paths.fold(first, |common, path| {
        common.components().zip(path.components()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
    })
}

/// Escapes what separates options and layers.
fn escape(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes().iter();
    bytes
        .flat_map(|&byte| match byte {
            b'\\' | b':' | b',' => [Some(b'\\'), Some(byte)],
            byte => [Some(byte), None],
        })
        .flatten()
        .collect()
}

fn bytes(text: Vec<u8>) -> Result<CString, RunError> {
    c_path(Path::new(OsStr::from_bytes(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_relative_and_escaped() {
        let check = |lower: &[&str], upper: &str, base: &str, options: &str| {
            let lower: Vec<PathBuf> = lower.iter().map(PathBuf::from).collect();
            let plan = plan(&lower, Path::new(upper), Path::new("/s/w")).unwrap();
            assert_eq!(plan.base.to_str(), Ok(base));
            assert_eq!(plan.options_durable.to_str(), Ok(options));
            assert_eq!(plan.options.to_str(), Ok(format!("{options},volatile").as_str()));
        };
        check(&["/s/1", "/s/2"], "/s/u", "/s", "userxattr,lowerdir=2:1,upperdir=u,workdir=w");
        check(&["/t/a:b"], "/s/u,v", "/", r"userxattr,lowerdir=t/a\:b,upperdir=s/u\,v,workdir=s/w");
        check(&["/s"], "/s/u", "/s", "userxattr,lowerdir=.,upperdir=u,workdir=w");
        check(&["/s/d/f"], "/s/dd", "/s", "userxattr,lowerdir=d/f,upperdir=dd,workdir=w");
        assert!(plan(&[], Path::new("/u"), Path::new("/w")).is_err());
    }
}
