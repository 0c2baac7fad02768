//! Reading on one thread, consuming on another.

use std::io::{self, Cursor, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

const BLOCK: u64 = 256 << 10;
const BLOCKS_AHEAD: usize = 8;

/// Runs `consume` on this thread while another reads from `reader`, up to 2 MiB ahead, and returns the reader
/// beside the result. What `consume` leaves unread may or may not have been read.
pub(crate) fn read_ahead<R: Read + Send, T>(reader: R, consume: impl FnOnce(&mut Ahead) -> T) -> (T, R) {
    thread::scope(|scope| {
        let (sender, blocks) = sync_channel(BLOCKS_AHEAD);
        let reading = scope.spawn(move || fill(reader, &sender));
        let mut ahead = Ahead { blocks, block: Cursor::default(), failed: false };
        let consumed = consume(&mut ahead);
        // The reading thread ends at its next block when nobody takes it.
        drop(ahead);
        let reader = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (consumed, reader)
    })
}

fn fill<R: Read>(mut reader: R, blocks: &SyncSender<io::Result<Vec<u8>>>) -> R {
    loop {
        let mut block = Vec::with_capacity(usize::try_from(BLOCK).unwrap_or_default());
        match reader.by_ref().take(BLOCK).read_to_end(&mut block) {
            Ok(0) => return reader,
            Ok(_) if blocks.send(Ok(block)).is_ok() => {}
            Ok(_) => return reader,
            Err(error) => {
                // Nobody hears of it when the consumer is gone.
                let _ = blocks.send(Err(error));
                return reader;
            }
        }
    }
}

/// What another thread has read.
#[derive(Debug)]
pub(crate) struct Ahead {
    blocks: Receiver<io::Result<Vec<u8>>>,
    block: Cursor<Vec<u8>>,
    failed: bool,
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.block.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            if self.failed {
                return Err(io::Error::other("reading failed before"));
            }
            match self.blocks.recv() {
                Ok(Ok(block)) => self.block = Cursor::new(block),
                Ok(Err(error)) => {
                    self.failed = true;
                    return Err(error);
                }
                Err(_) => return Ok(0),
            }
        }
    }
}
