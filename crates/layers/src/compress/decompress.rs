//! Decompression by magic number.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use flate2::Decompress;
use flate2::bufread::MultiGzDecoder;

use super::member::{self, HEADER};
use super::{next_job, threads_or_default};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Largest zstd window that is accepted: 128 MiB, as zstd's own tool does without `--long`.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Returns the plain bytes of a gzip, zstd or uncompressed stream, using all processors where the stream
/// allows it.
///
/// The format is found by its magic number; anything that is neither gzip nor zstd passes unchanged. The
/// end of `reader` is always reached before the end is reported, so that a verifying reader has its say.
/// Memory is bounded by a few MiB per thread for gzip and by a 128 MiB window for zstd. A stream that is
/// truncated, corrupt or followed by garbage is an error, and once failed stays so.
///
/// # Errors
/// Reading the first bytes fails. Later errors come from the returned reader.
pub fn decompress<'a>(reader: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    decompress_with(reader, threads_or_default(None))
}

/// Does what [`decompress`] does with at most `threads` threads inflating.
///
/// # Errors
/// As [`decompress`].
pub fn decompress_with<'a>(
    mut reader: impl Read + Send + 'a,
    threads: NonZeroUsize,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let magic = read_up_to(&mut reader, ZSTD.len())?;
    if magic.starts_with(GZIP) {
        return Ok(Box::new(Members::new(Cursor::new(magic).chain(reader), threads)));
    }
    let is_zstd = magic == ZSTD || is_skippable_frame(&magic);
    let stream = Cursor::new(magic).chain(reader);
    if is_zstd {
        let mut decoder = zstd::stream::read::Decoder::new(stream)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(stream))
}

/// Tools that make seekable zstd may begin with such a frame (RFC 8878, section 3.1.2).
fn is_skippable_frame(magic: &[u8]) -> bool {
    matches!(magic, [low, 0x2a, 0x4d, 0x18] if low & 0xf0 == 0x50)
}

fn read_up_to(reader: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    reader.by_ref().take(u64::try_from(length).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

type Inflated = Receiver<io::Result<Vec<u8>>>;
type Streamed<R> = MultiGzDecoder<BufReader<Chain<Cursor<Vec<u8>>, R>>>;

/// Where the rest of a gzip stream comes from.
enum Rest<R> {
    /// Members so far were ours, the next may be.
    Ours(R),
    /// A member without our subfield was met: everything from there on is inflated here, in order.
    Foreign(Box<Streamed<R>>),
    End,
    Failed,
}

/// A gzip stream whose members are inflated ahead of the reader, as far as they tell their length.
struct Members<R> {
    rest: Rest<R>,
    threads: NonZeroUsize,
    /// Started by the first member of ours: a foreign stream costs no thread.
    inflaters: Option<Inflaters>,
    ahead: VecDeque<Inflated>,
    block: Cursor<Vec<u8>>,
}

impl<R> fmt::Debug for Members<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl<R: Read> Members<R> {
    fn new(reader: R, threads: NonZeroUsize) -> Self {
        let block = Cursor::new(Vec::new());
        Self { rest: Rest::Ours(reader), threads, inflaters: None, ahead: VecDeque::new(), block }
    }

    /// Hands members to the inflaters until enough are under way.
    fn read_ahead(&mut self) -> io::Result<()> {
        while self.ahead.len() < self.threads.get() + 2 {
            let Rest::Ours(reader) = &mut self.rest else { return Ok(()) };
            let mut member = read_up_to(reader, HEADER)?;
            if member.is_empty() {
                self.rest = Rest::End;
                return Ok(());
            }
            let Some(length) = member::announced_length(&member) else {
                self.stream_from(member);
                return Ok(());
            };
            member.reserve_exact(length - HEADER);
            let wanted = u64::try_from(length - HEADER).unwrap_or(u64::MAX);
            if u64::try_from(reader.take(wanted).read_to_end(&mut member)?).unwrap_or(0) != wanted {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let inflaters = self.inflaters.get_or_insert_with(|| Inflaters::start(self.threads));
            self.ahead.push_back(inflaters.inflate(member));
        }
        Ok(())
    }

    fn stream_from(&mut self, begun: Vec<u8>) {
        if let Rest::Ours(reader) = std::mem::replace(&mut self.rest, Rest::End) {
            let stream = BufReader::with_capacity(1 << 16, Cursor::new(begun).chain(reader));
            self.rest = Rest::Foreign(Box::new(MultiGzDecoder::new(stream)));
        }
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let taken = self.block.read(buffer)?;
            if taken > 0 || buffer.is_empty() {
                return Ok(taken);
            }
            self.read_ahead()?;
            if let Some(inflated) = self.ahead.pop_front() {
                let block = inflated.recv().map_err(|_| io::Error::other("an inflating thread ended"))?;
                self.block = Cursor::new(block?);
                continue;
            }
            return match &mut self.rest {
                Rest::Foreign(stream) => stream.read(buffer),
                Rest::Failed => Err(io::Error::other("reading the gzip stream failed before")),
                Rest::Ours(_) | Rest::End => Ok(0),
            };
        }
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.try_read(buffer);
        if result.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {
            self.rest = Rest::Failed;
            self.ahead.clear();
        }
        result
    }
}

struct Job {
    member: Vec<u8>,
    reply: SyncSender<io::Result<Vec<u8>>>,
}

/// Threads that inflate members; they end and are waited for when this is dropped.
struct Inflaters {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Inflaters {
    fn start(threads: NonZeroUsize) -> Self {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let work = |queue: Arc<Mutex<Receiver<Job>>>| {
            let mut inflater = Decompress::new(false);
            while let Some(Job { member, reply }) = next_job(&queue) {
                // Nobody waits any more when the reader was dropped.
                let _ = reply.send(member::inflate(&mut inflater, &member));
            }
        };
        let start = |_| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || work(queue))
        };
        Self { jobs: Some(jobs), threads: (0..threads.get()).map(start).collect() }
    }

    fn inflate(&self, member: Vec<u8>) -> Inflated {
        let (reply, inflated) = sync_channel(1);
        if let Some(jobs) = &self.jobs {
            // A send fails only when every thread died; then `reply` is dropped and the reader is told.
            let _ = jobs.send(Job { member, reply });
        }
        inflated
    }
}

impl Drop for Inflaters {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
