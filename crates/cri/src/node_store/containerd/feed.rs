//! A blob for two: what is on its way into containerd's content store is read by who unpacks it, too.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::sync::{mpsc, oneshot};

/// How many pieces may wait for the reader.
const WAITING: usize = 4;
/// How long a reader that takes nothing is waited for. One that waits for other layers reads the blob's file later.
const PATIENCE: Duration = Duration::from_secs(1);

/// The end into which pieces go. Dropped before [`Feed::landed`] it makes reading fail.
#[derive(Debug)]
pub(super) struct Feed {
    pieces: Option<mpsc::Sender<Bytes>>,
    file: oneshot::Sender<PathBuf>,
}

/// The end where a blob is read, on a thread that may wait.
#[derive(Debug)]
pub(super) struct Fed {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
    /// How many bytes have been read.
    position: u64,
    size: u64,
    landed: Option<oneshot::Receiver<PathBuf>>,
    file: Option<File>,
}

/// Makes both ends for a blob of `size` bytes.
pub(super) fn feed(size: u64) -> (Feed, Fed) {
    let (pieces, received) = mpsc::channel(WAITING);
    let (file, landed) = oneshot::channel();
    let landed = Some(landed);
    let fed = Fed { pieces: received, piece: Bytes::new(), position: 0, size, landed, file: None };
    (Feed { pieces: Some(pieces), file }, fed)
}

impl Feed {
    /// Passes on the next piece; the first one is the blob's beginning.
    pub(super) async fn pass(&mut self, piece: &Bytes) {
        let Some(pieces) = &self.pieces else { return };
        let sent = tokio::time::timeout(PATIENCE, pieces.send(piece.clone())).await;
        if !matches!(sent, Ok(Ok(()))) {
            self.detach();
        }
    }

    /// Passes on no more pieces: the rest is read from the file.
    pub(super) fn detach(&mut self) {
        self.pieces = None;
    }

    /// The whole blob is in a file.
    pub(super) fn landed(self, file: PathBuf) {
        // Who has read everything already does not need it.
        let _ = self.file.send(file);
    }
}

impl Read for Fed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(file) = &mut self.file {
                return file.read(buffer);
            }
            if !self.piece.is_empty() {
                let count = buffer.len().min(self.piece.len());
                self.piece.copy_to_slice(buffer.get_mut(..count).unwrap_or_default());
                self.position += count as u64;
                return Ok(count);
            }
            if self.position == self.size {
                return Ok(0);
            }
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => self.open()?,
            }
        }
    }
}

impl Fed {
    /// Waits for the file and goes on in it.
    fn open(&mut self) -> io::Result<()> {
        let landed = self.landed.take().and_then(|landed| landed.blocking_recv().ok());
        let path = landed.ok_or_else(|| io::Error::other("the blob did not arrive"))?;
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(self.position))?;
        self.file = Some(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads everything on another thread.
    fn reading(mut fed: Fed) -> tokio::task::JoinHandle<io::Result<Vec<u8>>> {
        tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            fed.read_to_end(&mut bytes).map(|_| bytes)
        })
    }

    #[tokio::test]
    async fn what_passes_is_read_without_a_file() {
        let (mut feed, fed) = feed(10);
        let reading = reading(fed);
        for piece in ["hello", "world"] {
            feed.pass(&Bytes::from(piece)).await;
        }
        assert_eq!(reading.await.unwrap().unwrap(), b"helloworld");
        feed.landed("/none".into());
    }

    #[tokio::test]
    async fn the_rest_is_read_from_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blob");
        std::fs::write(&path, "helloworld").unwrap();
        for passed in ["", "hel", "hello"] {
            let (mut feed, fed) = feed(10);
            let reading = reading(fed);
            feed.pass(&Bytes::from(passed)).await;
            feed.detach();
            feed.pass(&Bytes::from("not this")).await;
            feed.landed(path.clone());
            assert_eq!(reading.await.unwrap().unwrap(), b"helloworld", "{passed}");
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_a_reader_that_does_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blob");
        std::fs::write(&path, "abcdefgh").unwrap();
        let (mut feed, fed) = feed(8);
        for letter in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            feed.pass(&Bytes::from(letter)).await;
        }
        feed.landed(path);
        assert_eq!(reading(fed).await.unwrap().unwrap(), b"abcdefgh");
    }

    #[tokio::test]
    async fn a_blob_that_does_not_arrive_cannot_be_read() {
        let (mut feed, fed) = feed(10);
        let reading = reading(fed);
        feed.pass(&Bytes::from("hello")).await;
        drop(feed);
        assert!(reading.await.unwrap().is_err());
    }
}
