//! `RUN --mount=type=ssh`: who signs for a step, and the socket through which it asks.

mod keys;
mod proxy;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use keys::KeyError;
use keys::Keys;
pub(crate) use proxy::{Proxy, Socket};

/// Who answers for an id of `RUN --mount=type=ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshAgent(Signer);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Signer {
    Socket(PathBuf),
    Keys(Arc<Keys>),
}

impl SshAgent {
    /// The agent that listens on a socket.
    pub fn socket(path: impl Into<PathBuf>) -> Self {
        Self(Signer::Socket(path.into()))
    }

    /// This process, with private keys that it reads from files now: OpenSSH's own form, or PKCS #1, PKCS #8 and SEC 1
    /// in PEM. A step may let them sign, and never sees them.
    ///
    /// # Errors
    /// A file cannot be read, holds no key, or one that wants a passphrase or a device.
    pub fn keys<P: AsRef<Path>>(paths: &[P]) -> Result<Self, KeyError> {
        Ok(Self(Signer::Keys(Arc::new(Keys::read(paths)?))))
    }
}

/// Bytes of one message of the protocol, as in OpenSSH.
const MAX_MESSAGE: usize = 256 * 1024;

/// SSH_AGENTC_REQUEST_IDENTITIES.
const IDENTITIES: u8 = 11;

/// SSH_AGENTC_SIGN_REQUEST.
const SIGN: u8 = 13;

/// What a step may ask: the keys, and a signature.
///
/// Adding, removing and locking keys and extensions are refused, as BuildKit does: a step must not change the agent.
///
/// # References
/// draft-ietf-sshm-ssh-agent, "Message Numbers"
const ALLOWED: [u8; 2] = [IDENTITIES, SIGN];

/// SSH_AGENT_FAILURE.
const FAILURE: &[u8] = &[5];

/// One conversation with an agent.
enum Conversation {
    Remote(UnixStream),
    Own(Arc<Keys>),
}

impl Conversation {
    fn start(agent: &SshAgent) -> io::Result<Self> {
        match &agent.0 {
            Signer::Socket(path) => Ok(Self::Remote(UnixStream::connect(path)?)),
            Signer::Keys(keys) => Ok(Self::Own(Arc::clone(keys))),
        }
    }

    /// Answers a request, or refuses it.
    fn answer(&mut self, request: &[u8]) -> io::Result<Vec<u8>> {
        if !request.first().is_some_and(|kind| ALLOWED.contains(kind)) {
            return Ok(FAILURE.to_vec());
        }
        match self {
            Self::Own(keys) => Ok(keys.answer(request)),
            Self::Remote(stream) => {
                write_message(stream, request)?;
                read_message(stream)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
        }
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
