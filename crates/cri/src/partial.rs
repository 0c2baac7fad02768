//! A blob on its way into a layout: a file that survives whoever was writing it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rbuild_image::{Descriptor, Digester, Layout, VerifyError};

use crate::error::{Error, failed};

/// The directory of blobs on their way, beside the layout's `blobs`.
const DIRECTORY: &str = "partial";

/// Whether what is written is on the disk before it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    /// It is: a power cut leaves no broken blob under a valid name.
    #[default]
    Yes,
    /// The system writes it when it likes.
    No,
}

/// A blob on its way. The file is locked as long as this lives; dropped, it stays for the next one.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    digester: Digester,
    position: u64,
}

impl Partial {
    /// Opens, or begins, the blob, and reads what is there of it. Waits for whoever is writing it.
    pub(crate) fn open(layout: &Layout, descriptor: &Descriptor) -> Result<Self, Error> {
        let directory = layout.path().join(DIRECTORY);
        let path = directory.join(descriptor.digest.hex());
        let mut file = loop {
            match DirBuilder::new().mode(0o700).create(&directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(failed("make directory", &directory))?,
            }
            let file = match File::options().create(true).read(true).append(true).open(&path) {
                // Whoever finished the last blob in it has just taken the directory away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(failed("open", &path))?,
            };
            file.lock().map_err(failed("lock", &path))?;
            // Its last writer may have finished and renamed it meanwhile.
            if is_at(&file, &path) {
                break file;
            }
        };
        let mut digester = Digester::new();
        let mut position = 0;
        let mut piece = vec![0; 256 << 10];
        loop {
            let count = file.read(&mut piece).map_err(failed("read", &path))?;
            let Some(bytes) = piece.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            digester.update(bytes);
            position += count as u64;
        }
        let mut partial = Self { path, file, digester, position };
        if position > descriptor.size {
            partial.restart()?;
        }
        Ok(partial)
    }

    /// How many bytes are there.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(failed("write", &self.path))?;
        self.digester.update(bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Forgets what is there.
    pub(crate) fn restart(&mut self) -> Result<(), Error> {
        self.file.set_len(0).map_err(failed("truncate", &self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(failed("rewind", &self.path))?;
        (self.digester, self.position) = (Digester::new(), 0);
        Ok(())
    }

    /// Gives the blob its name in the layout, when it is the right one; forgets it when not.
    pub(crate) fn finish(self, layout: &Layout, descriptor: &Descriptor, sync: Sync) -> Result<(), Error> {
        let Self { path, file, digester, position } = self;
        let (expected, size, actual) = (descriptor.digest, descriptor.size, digester.finish());
        let wrong = match position.cmp(&size) {
            std::cmp::Ordering::Less => Some(VerifyError::Short { expected, size, actual: position }),
            std::cmp::Ordering::Greater => Some(VerifyError::Long { expected, size }),
            std::cmp::Ordering::Equal => {
                (actual != expected).then_some(VerifyError::Mismatch { expected, actual })
            }
        };
        if let Some(wrong) = wrong {
            // What broke off is worth keeping; what is complete and wrong is not.
            if position >= size {
                let _ = fs::remove_file(&path);
            }
            let message = format!("cannot store blob {expected}");
            return Err(Error::Store(rbuild_image::StoreError::io(message, wrong.into())));
        }
        let target = layout.blob_path(&expected);
        if sync == Sync::Yes {
            file.sync_data().map_err(failed("sync", &path))?;
        }
        fs::rename(&path, &target).map_err(failed("rename to", &target))?;
        if sync == Sync::Yes {
            let parent = target.parent().unwrap_or(layout.path());
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("sync", parent))?;
        }
        // Other tools read layouts that have nothing else in them; it goes when it is empty.
        let _ = fs::remove_dir(layout.path().join(DIRECTORY));
        Ok(())
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |metadata: io::Result<fs::Metadata>| metadata.map(|it| (it.dev(), it.ino())).ok();
    identity(file.metadata()) == identity(fs::metadata(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob() -> (tempfile::TempDir, Layout, Descriptor) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        (directory, layout, Descriptor::of("x", b"hello world"))
    }

    #[test]
    fn what_broke_off_is_taken_up() {
        let (_directory, layout, descriptor) = blob();
        let mut partial = Partial::open(&layout, &descriptor).unwrap();
        partial.write(b"hello").unwrap();
        drop(partial);
        let mut partial = Partial::open(&layout, &descriptor).unwrap();
        assert_eq!(partial.position(), 5);
        partial.write(b" world").unwrap();
        partial.finish(&layout, &descriptor, Sync::Yes).unwrap();
        assert_eq!(fs::read(layout.blob_path(&descriptor.digest)).unwrap(), b"hello world");
        assert!(!layout.path().join(DIRECTORY).exists());
    }

    #[test]
    fn the_directory_may_come_and_go() {
        let (_directory, layout, _) = blob();
        std::thread::scope(|scope| {
            for thread in 0..4_u32 {
                let layout = &layout;
                scope.spawn(move || {
                    for number in 0..200_u32 {
                        let bytes = (thread << 16 | number).to_le_bytes();
                        let descriptor = Descriptor::of("x", &bytes);
                        let mut partial = Partial::open(layout, &descriptor).unwrap();
                        partial.write(&bytes).unwrap();
                        partial.finish(layout, &descriptor, Sync::No).unwrap();
                    }
                });
            }
        });
        assert!(!layout.path().join(DIRECTORY).exists());
        assert_eq!(layout.path().join("blobs/sha256").read_dir().unwrap().count(), 800);
    }

    #[test]
    fn wrong_bytes_get_no_name() {
        let (_directory, layout, descriptor) = blob();
        let mut partial = Partial::open(&layout, &descriptor).unwrap();
        partial.write(b"hello_world").unwrap();
        assert!(partial.finish(&layout, &descriptor, Sync::Yes).is_err());
        let partial = Partial::open(&layout, &descriptor).unwrap();
        assert_eq!(partial.position(), 0, "complete and wrong: nothing to go on from");
        assert!(partial.finish(&layout, &descriptor, Sync::No).is_err());
        assert!(!layout.blob_path(&descriptor.digest).exists());
    }

    #[test]
    fn too_much_is_begun_again() {
        let (_directory, layout, descriptor) = blob();
        let mut partial = Partial::open(&layout, &descriptor).unwrap();
        partial.write(b"hello world and more").unwrap();
        drop(partial);
        assert_eq!(Partial::open(&layout, &descriptor).unwrap().position(), 0);
    }
}
