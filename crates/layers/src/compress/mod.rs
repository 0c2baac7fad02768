//! Layer compression: gzip in parallel members, zstd, or none; the same bytes for any number of threads.
//!
//! [`compress`] runs a producer on the calling thread while worker threads compress fixed-size blocks and
//! one more thread writes the results in order. [`decompress`] finds the format by its magic number and
//! reverses it; members written here are inflated in parallel.

mod ahead;
mod decompress;
mod member;

use std::fmt;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Scope};

pub(crate) use ahead::read_ahead;
pub use decompress::{decompress, decompress_with};
pub use member::MEMBER_INPUT;
use rbuild_image::media_type::{self, LayerCompression};
use zstd::zstd_safe::CParameter;

/// How the bytes of a layer are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A plain tar archive.
    None,
    /// RFC 1952 gzip, in members of [`MEMBER_INPUT`] bytes.
    #[default]
    Gzip,
    /// RFC 8878 Zstandard, one frame.
    Zstd,
}

impl Compression {
    /// Returns the OCI media type of a layer stored this way.
    ///
    /// # References
    /// - [image-spec, layer.md](https://github.com/opencontainers/image-spec/blob/main/layer.md)
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::None => media_type::OCI_LAYER,
            Self::Gzip => media_type::OCI_LAYER_GZIP,
            Self::Zstd => media_type::OCI_LAYER_ZSTD,
        }
    }

    /// Returns how a layer of this media type, OCI's or Docker's, is stored; none if it is no layer we know.
    #[must_use]
    pub fn of_layer(media_type: &str) -> Option<Self> {
        Some(match media_type::layer_compression(media_type)? {
            LayerCompression::None => Self::None,
            LayerCompression::Gzip => Self::Gzip,
            LayerCompression::Zstd => Self::Zstd,
        })
    }

    /// Returns the level that is used when none is asked for.
    #[must_use]
    pub const fn default_level(self) -> u32 {
        self.levels().1
    }

    /// The lowest, the default and the highest level.
    const fn levels(self) -> (u32, u32, u32) {
        match self {
            Self::None => (0, 0, 0),
            // Level 2 of libdeflate: still smaller than what BuildKit makes.
            Self::Gzip => (0, 2, 9),
            Self::Zstd => (1, 3, 22),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// What is wrong with a requested compression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// The name is none of ours.
    #[error("unknown compression `{0}`: expected gzip, zstd or uncompressed")]
    Unknown(String),
    /// The level is outside of what the format has.
    #[error("compression level {level} of {compression} is not between {min} and {max}")]
    Level {
        /// The format asked for.
        compression: Compression,
        /// The level asked for.
        level: u32,
        /// The lowest level of the format.
        min: u32,
        /// The highest level of the format.
        max: u32,
    },
}

impl FromStr for Compression {
    type Err = CompressionError;

    fn from_str(name: &str) -> Result<Self, CompressionError> {
        match name {
            "uncompressed" | "none" => Ok(Self::None),
            "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            other => Err(CompressionError::Unknown(other.to_owned())),
        }
    }
}

/// A format, its level, and the number of threads that may work on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    compression: Compression,
    level: u32,
    threads: NonZeroUsize,
}

/// More workers than this only add buffers: one producer cannot feed them.
const MAX_THREADS: usize = 8;
/// Input of one zstd job in bytes. zstd's own choice, four windows, takes half a gigabyte at high levels.
const ZSTD_JOB: u32 = 4 << 20;

impl Encoding {
    /// Checks `level` (the format's default when `None`); the threads default to the processors available.
    ///
    /// # Errors
    /// The level is outside of what the format has: 0 to 9 for gzip, 1 to 22 for zstd.
    pub fn new(
        compression: Compression,
        level: Option<u32>,
        threads: Option<NonZeroUsize>,
    ) -> Result<Self, CompressionError> {
        let (min, default, max) = compression.levels();
        let level = level.unwrap_or(default);
        if !(min..=max).contains(&level) {
            return Err(CompressionError::Level { compression, level, min, max });
        }
        Ok(Self { compression, level, threads: threads_or_default(threads) })
    }

    pub(crate) const fn compression(&self) -> Compression {
        self.compression
    }

    /// The level asked for, or the format's default.
    pub(crate) const fn level(&self) -> u32 {
        self.level
    }
}

fn threads_or_default(threads: Option<NonZeroUsize>) -> NonZeroUsize {
    let threads = threads.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    threads.min(NonZeroUsize::new(MAX_THREADS).unwrap_or(NonZeroUsize::MIN))
}

/// Runs `produce` on this thread and writes what it writes, compressed, into `sink`.
///
/// The output depends on the bytes, the format and the level alone: not on the number of threads, not on
/// how the producer cuts its writes. At most about two blocks of 1 MiB per thread are in memory. Empty
/// input gives a valid empty stream.
///
/// # Errors
/// The sink's error when writing fails, else the producer's own.
pub fn compress<T, E: From<io::Error>>(
    encoding: &Encoding,
    sink: &mut (impl Write + Send),
    produce: impl FnOnce(&mut dyn Write) -> Result<T, E>,
) -> Result<T, E> {
    let encoding = *encoding;
    thread::scope(|scope| {
        let depth = encoding.threads.get() + 4;
        let (tickets, finished) = sync_channel::<Ticket>(depth);
        let writing = scope.spawn(move || write_in_order(&encoding, &finished, sink));
        let jobs = match encoding.compression {
            Compression::Gzip => Some(spawn_gzip(scope, encoding.threads, encoding.level)),
            Compression::None | Compression::Zstd => None,
        };
        let mut blocks = Blocks { block: Vec::with_capacity(MEMBER_INPUT), jobs, tickets, sent: false };
        let produced = produce(&mut blocks).and_then(|value| {
            blocks.finish()?;
            Ok(value)
        });
        drop(blocks);
        let written = writing.join().unwrap_or_else(|_| Err(io::Error::other("the writing thread panicked")));
        written.map_err(E::from).and(produced)
    })
}

/// A block on its way to the sink: ready, or still with a worker.
enum Ticket {
    Ready(Vec<u8>),
    Pending(Receiver<Vec<u8>>),
    /// The producer came to its end: without it the stream was abandoned and is not closed.
    End,
}

struct Job {
    block: Vec<u8>,
    reply: SyncSender<Vec<u8>>,
}

type Jobs = Sender<Job>;

/// The producer's side: cuts the stream into blocks of exactly [`MEMBER_INPUT`] bytes.
struct Blocks {
    block: Vec<u8>,
    jobs: Option<Jobs>,
    tickets: SyncSender<Ticket>,
    sent: bool,
}

impl Blocks {
    fn send_block(&mut self) -> io::Result<()> {
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(MEMBER_INPUT));
        self.sent = true;
        let Some(jobs) = &self.jobs else { return self.send(Ticket::Ready(block)) };
        let (reply, pending) = sync_channel(1);
        jobs.send(Job { block, reply }).map_err(|_| ended())?;
        self.send(Ticket::Pending(pending))
    }

    fn send(&self, ticket: Ticket) -> io::Result<()> {
        self.tickets.send(ticket).map_err(|_| ended())
    }

    fn finish(&mut self) -> io::Result<()> {
        if !self.block.is_empty() || !self.sent {
            self.send_block()?;
        }
        self.send(Ticket::End)
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the compressor ended early")
}

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = MEMBER_INPUT - self.block.len();
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.block.extend_from_slice(taken);
        if self.block.len() == MEMBER_INPUT {
            self.send_block()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn spawn_gzip<'scope>(scope: &'scope Scope<'scope, '_>, threads: NonZeroUsize, level: u32) -> Jobs {
    // The queue itself needs no bound: the bounded queue of tickets, one per job, holds the producer back.
    let (jobs, queue) = channel::<Job>();
    let queue = std::sync::Arc::new(Mutex::new(queue));
    for _ in 0..threads.get() {
        let queue = std::sync::Arc::clone(&queue);
        scope.spawn(move || {
            let mut deflater = member::Deflater::new(level);
            while let Some(Job { block, reply }) = next_job(&queue) {
                // The writer is gone when the sink failed; the producer learns of that by itself.
                let _ = reply.send(deflater.deflate(&block));
            }
        });
    }
    jobs
}

fn next_job<T>(queue: &Mutex<Receiver<T>>) -> Option<T> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn write_in_order(encoding: &Encoding, tickets: &Receiver<Ticket>, sink: &mut impl Write) -> io::Result<()> {
    if encoding.compression != Compression::Zstd {
        return drain(tickets, sink).map(drop);
    }
    let level = i32::try_from(encoding.level).unwrap_or(i32::MAX);
    let mut encoder = zstd::stream::write::Encoder::new(sink, level)?;
    // With one worker or more, zstd cuts its jobs by input size alone; with none it does otherwise.
    encoder.multithread(u32::try_from(encoding.threads.get()).unwrap_or(1))?;
    encoder.set_parameter(CParameter::JobSize(ZSTD_JOB))?;
    if drain(tickets, &mut encoder)? {
        encoder.finish()?;
    }
    Ok(())
}

/// Writes blocks in the order they were cut; tells whether the producer reached its end.
fn drain(tickets: &Receiver<Ticket>, sink: &mut impl Write) -> io::Result<bool> {
    for ticket in tickets {
        let bytes = match ticket {
            Ticket::Ready(block) => block,
            Ticket::Pending(reply) => reply.recv().map_err(|_| ended())?,
            Ticket::End => return Ok(true),
        };
        sink.write_all(&bytes)?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
