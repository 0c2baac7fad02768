//! A blob on its way into a file: what has come is hashed and written on one thread while the next is awaited on another.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::mpsc::sync_channel;
use std::thread;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use crate::digest::Verified;
use crate::manifest::Descriptor;
use crate::store::Content;

/// The size of the pieces that are passed on.
const PIECE: usize = 256 << 10;
/// How many pieces may wait to be written.
const WAITING: usize = 16;
/// How much is written before the disk is told to begin.
const EARLY: u64 = 8 << 20;

/// Writes a content to a file and waits until the disk has it.
///
/// # Errors
/// The content cannot be read or is another than `descriptor` says, or the file cannot be written.
pub(crate) async fn receive(content: &dyn Content, descriptor: &Descriptor, file: File) -> io::Result<()> {
    let mut reader = content.open(0).await?;
    let (sender, receiver) = mpsc::channel(WAITING);
    let (digest, size) = (descriptor.digest, descriptor.size);
    let verified = Verified::new(io::empty(), digest, size);
    let writing = tokio::task::spawn_blocking(move || write(receiver, verified, &file, size));
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        // Small pieces, as they come from a line, are put together.
        while buffer.len() < PIECE && reader.read_buf(&mut buffer).await? > 0 {}
        let piece = buffer.split().freeze();
        // An empty piece is the end; who does not take one has failed.
        if sender.send(piece.clone()).await.is_err() || piece.is_empty() {
            break;
        }
    }
    drop(sender);
    writing.await.map_err(io::Error::other)?
}

fn write(
    pieces: mpsc::Receiver<Bytes>,
    verified: Verified<io::Empty>,
    file: &File,
    size: u64,
) -> io::Result<()> {
    if size < 2 * EARLY {
        write_all(pieces, verified, file, || {})?;
        return file.sync_data();
    }
    // The disk begins while the next pieces come: at the end there is little left to wait for.
    let (begin, begun) = sync_channel::<()>(1);
    thread::scope(|scope| {
        // The kernel tells of an error once: to whoever asks first.
        let syncing = scope.spawn(move || begun.iter().try_for_each(|()| file.sync_data()));
        let written = write_all(pieces, verified, file, move || {
            // One that is syncing is told again later.
            let _ = begin.try_send(());
        });
        syncing.join().map_err(|_| io::Error::other("syncing panicked"))??;
        written
    })?;
    file.sync_data()
}

/// Writes what comes up to its end, and calls `enough` now and then.
fn write_all(
    mut pieces: mpsc::Receiver<Bytes>,
    mut verified: Verified<io::Empty>,
    mut file: &File,
    enough: impl Fn(),
) -> io::Result<()> {
    let mut unsynced = 0;
    while let Some(piece) = pieces.blocking_recv() {
        verified.account(&piece)?;
        if piece.is_empty() {
            return Ok(());
        }
        file.write_all(&piece)?;
        unsynced += piece.len() as u64;
        if unsynced >= EARLY {
            unsynced = 0;
            enough();
        }
    }
    // Who reads the content has failed, and says why.
    Err(io::ErrorKind::BrokenPipe.into())
}
