//! `RUN --mount=type=ssh`: who signs for a step, and the socket through which it asks.

mod proxy;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

pub(crate) use proxy::{Proxy, Socket};

/// Who answers for an id of `RUN --mount=type=ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SshAgent {
    /// The agent that listens on this socket.
    Socket(PathBuf),
}

/// Bytes of one message of the protocol, as in OpenSSH.
const MAX_MESSAGE: usize = 256 * 1024;

/// What a step may ask: the keys, and a signature.
///
/// Adding, removing and locking keys and extensions are refused, as BuildKit does: a step must not change the agent.
///
/// # References
/// draft-ietf-sshm-ssh-agent, "Message Numbers"
const ALLOWED: [u8; 2] = [11, 13];

/// SSH_AGENT_FAILURE.
const FAILURE: &[u8] = &[5];

/// One conversation with an agent.
struct Conversation(UnixStream);

impl Conversation {
    fn start(agent: &SshAgent) -> io::Result<Self> {
        match agent {
            SshAgent::Socket(path) => Ok(Self(UnixStream::connect(path)?)),
        }
    }

    /// Answers a request, or refuses it.
    fn answer(&mut self, request: &[u8]) -> io::Result<Vec<u8>> {
        if !request.first().is_some_and(|kind| ALLOWED.contains(kind)) {
            return Ok(FAILURE.to_vec());
        }
        write_message(&mut self.0, request)?;
        read_message(&mut self.0)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Reads one message; `None` at the end.
fn read_message(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message)?;
    Ok(Some(message))
}

fn write_message(stream: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat())
}
