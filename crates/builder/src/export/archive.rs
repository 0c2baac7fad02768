//! Files: written aside and renamed, so that what stands under the name is complete.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{Destination, ExportError};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Bytes that are collected before they are written.
const BUFFER: usize = 256 << 10;

/// Lets `write` fill a destination.
///
/// A regular file is replaced when it is complete; anything else that is there, a pipe or device, is written to.
pub(super) fn write(
    dest: &Destination,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Cause>,
) -> Result<(), ExportError> {
    let path = match dest {
        Destination::File(path) => path.clone(),
        Destination::Stdout => PathBuf::from("/dev/stdout"),
    };
    let filled = match dest {
        Destination::Stdout => fill(io::stdout().lock(), write).map(drop),
        Destination::File(path) if is_special(path) => File::options()
            .write(true)
            .open(path)
            .map_err(Cause::from)
            .and_then(|file| fill(file, write))
            .map(drop),
        Destination::File(path) => replace(path, write),
    };
    filled.map_err(|source| ExportError::Write { path, source })
}

fn is_special(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<(), Cause>) -> Result<(), Cause> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let temporary = tempfile::Builder::new().permissions(permissions).tempfile_in(directory)?;
    let temporary = fill(temporary, write)?;
    temporary.persist(path)?;
    Ok(())
}

fn fill<W: Write>(out: W, write: impl FnOnce(&mut dyn Write) -> Result<(), Cause>) -> Result<W, Cause> {
    let mut buffered = BufWriter::with_capacity(BUFFER, out);
    write(&mut buffered)?;
    Ok(buffered.into_inner().map_err(io::IntoInnerError::into_error)?)
}
