//! Content that is sent while it is still being written.

use std::fmt;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream;
use rbuild_image::{Content, Descriptor};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::watch;
use tokio_util::io::StreamReader;

/// The size of the pieces a growing file is read in.
const PIECE: u64 = 128 << 10;

/// Content whose end, and so whose digest, is not known yet.
///
/// A reader that [`Content::open`] returns waits where the content ends for now, and comes to its own end only when the
/// content is complete. What has been written once must not change: a broken upload reads it again.
pub trait Growing: Content {
    /// Waits until the content is complete and describes it; `None` when it never will be.
    fn complete(&self) -> BoxFuture<'_, Option<Descriptor>>;
}

/// A file that somebody else writes to, at its end.
///
/// ```
/// use rbuild_image::{Descriptor, media_type};
/// use rbuild_registry::{Growing as _, GrowingFile};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("layer");
/// std::fs::write(&path, "the beginning")?;
/// let (file, growth) = GrowingFile::new(&path);
/// growth.advance(13);
/// // … Remote::push_growing(file.clone()) sends what is there, and waits …
/// growth.complete(Descriptor::of(media_type::OCI_LAYER, b"the beginning"));
/// assert_eq!(file.complete().await.map(|layer| layer.size), Some(13));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct GrowingFile {
    path: PathBuf,
    state: watch::Receiver<State>,
}

/// The writer's end of a [`GrowingFile`]. Dropped before [`Growth::complete`], the content is given up.
#[derive(Debug)]
pub struct Growth {
    state: watch::Sender<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    written: u64,
    complete: Option<Descriptor>,
}

impl fmt::Debug for GrowingFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrowingFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl GrowingFile {
    /// Names a file that exists when it is first read; nothing of it counts as written yet.
    pub fn new(path: impl Into<PathBuf>) -> (Self, Growth) {
        let (sender, state) = watch::channel(State::default());
        (Self { path: path.into(), state }, Growth { state: sender })
    }
}

impl Growth {
    /// Says that the first `written` bytes of the file are there and stay as they are.
    pub fn advance(&self, written: u64) {
        self.state.send_modify(|state| state.written = state.written.max(written));
    }

    /// Says that the file is complete, and what it is.
    pub fn complete(self, content: Descriptor) {
        self.state.send_modify(|state| {
            state.written = content.size;
            state.complete = Some(content);
        });
    }
}

impl Growing for GrowingFile {
    fn complete(&self) -> BoxFuture<'_, Option<Descriptor>> {
        let mut state = self.state.clone();
        Box::pin(async move { state.wait_for(|state| state.complete.is_some()).await.ok()?.complete.clone() })
    }
}

impl Content for GrowingFile {
    fn open(&self, offset: u64) -> BoxFuture<'_, io::Result<Box<dyn AsyncRead + Send + Unpin>>> {
        Box::pin(async move {
            let mut file = File::open(&self.path).await?;
            file.seek(SeekFrom::Start(offset)).await?;
            let reading = Reading { file, position: offset, state: self.state.clone() };
            let pieces = stream::try_unfold(reading, async |mut reading| {
                Ok::<_, io::Error>(reading.next().await?.map(|piece| (piece, reading)))
            });
            Ok(Box::new(StreamReader::new(Box::pin(pieces))) as Box<dyn AsyncRead + Send + Unpin>)
        })
    }

    fn path(&self) -> Option<&Path> {
        None
    }
}

struct Reading {
    file: File,
    position: u64,
    state: watch::Receiver<State>,
}

impl Reading {
    /// The next piece, waited for when there is none yet; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let position = self.position;
        let more = |state: &State| state.written > position || state.complete.is_some();
        let abandoned = |_| io::Error::new(io::ErrorKind::BrokenPipe, "its writer gave up");
        let written = self.state.wait_for(more).await.map_err(abandoned)?.written;
        let length = written.saturating_sub(position).min(PIECE);
        if length == 0 {
            return Ok(None);
        }
        let mut piece = BytesMut::zeroed(usize::try_from(length).unwrap_or_default());
        self.file.read_exact(&mut piece).await?;
        self.position = position.saturating_add(length);
        Ok(Some(piece.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuild_image::media_type;

    #[tokio::test]
    async fn readers_wait_for_what_comes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("layer");
        std::fs::write(&path, "0123456789, not written yet").unwrap();
        let (file, growth) = GrowingFile::new(&path);
        growth.advance(4);
        let mut reader = file.open(2).await.unwrap();
        let mut start = [0; 2];
        reader.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"23");
        let mut rest = String::new();
        let (read, ()) = tokio::join!(reader.read_to_string(&mut rest), async {
            growth.advance(6);
            tokio::task::yield_now().await;
            growth.complete(Descriptor::of(media_type::OCI_LAYER, b"0123456789"));
        });
        assert_eq!((read.unwrap(), rest.as_str()), (6, "456789"));
        assert_eq!(file.complete().await.map(|layer| layer.size), Some(10));
    }

    #[tokio::test]
    async fn a_writer_that_gives_up_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("layer");
        std::fs::write(&path, "half").unwrap();
        let (file, growth) = GrowingFile::new(&path);
        growth.advance(4);
        let mut reader = file.open(0).await.unwrap();
        drop(growth);
        let mut all = Vec::new();
        assert_eq!(reader.read_to_end(&mut all).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(all, b"half");
        assert_eq!(file.complete().await, None);
    }
}
