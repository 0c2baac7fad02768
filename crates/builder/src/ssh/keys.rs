//! Private keys that were read from files, and the agent that signs with them.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::signature::Signer as _;
use ssh_key::private::{EcdsaKeypair, KeypairData};
use ssh_key::{HashAlg, PrivateKey, Signature};
use zeroize::Zeroizing;

use super::{FAILURE, IDENTITIES, SIGN};

/// Bytes a key file may have, as with docker.
const LARGEST_KEY: u64 = 100 << 10;

/// Keys of one id. What they are made of is wiped when the last copy goes, and no message shows it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Keys(Vec<PrivateKey>);

/// A file holds no key that this process can sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read.
    #[error("cannot read the key {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It wants a passphrase, and nobody is asked for one.
    #[error("the key {} is protected by a passphrase", path.display())]
    Protected {
        /// The file.
        path: PathBuf,
    },
    /// It is none of the forms that are known, or damaged.
    #[error("{} holds no private key in a form that is known: {why}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What was expected, or what is wrong with it. Nothing of its content.
        why: &'static str,
    },
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().map(|key| key.fingerprint(HashAlg::Sha256).to_string());
        f.debug_list().entries(shown).finish()
    }
}

impl Keys {
    /// Reads key files: OpenSSH's own form, PKCS #1, PKCS #8 and SEC 1 in PEM.
    ///
    /// # Errors
    /// A file cannot be read, holds no key, or one that wants a passphrase or a device.
    pub(crate) fn read<P: AsRef<Path>>(paths: &[P]) -> Result<Self, KeyError> {
        paths.iter().map(|path| read(path.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    /// Answers a request of the agent's protocol.
    ///
    /// # References
    /// draft-ietf-sshm-ssh-agent, "Requesting a List of Keys", "Private Key Operations"
    pub(crate) fn answer(&self, request: &[u8]) -> Vec<u8> {
        let answer = match request.split_first() {
            Some((&IDENTITIES, _)) => self.identities(),
            Some((&SIGN, rest)) => self.sign(rest),
            _ => None,
        };
        answer.unwrap_or_else(|| FAILURE.to_vec())
    }

    fn identities(&self) -> Option<Vec<u8>> {
        let mut answer = vec![12];
        answer.extend(u32::try_from(self.0.len()).ok()?.to_be_bytes());
        for key in &self.0 {
            put(&mut answer, &key.public_key().to_bytes().ok()?)?;
            // A comment names people and machines, which a step need not know.
            put(&mut answer, b"")?;
        }
        Some(answer)
    }

    fn sign(&self, request: &[u8]) -> Option<Vec<u8>> {
        let (blob, rest) = take(request)?;
        let (message, rest) = take(rest)?;
        let flags = u32::from_be_bytes(rest.try_into().ok()?);
        let mut keys = self.0.iter();
        let key = keys.find(|key| key.public_key().to_bytes().is_ok_and(|bytes| bytes == blob))?;
        let signature = sign(key, message, flags)?;
        let mut inner = Vec::new();
        put(&mut inner, signature.algorithm().as_str().as_bytes())?;
        put(&mut inner, signature.as_bytes())?;
        let mut answer = vec![14];
        put(&mut answer, &inner)?;
        Some(answer)
    }
}

/// Signs as the flags want it; they mean something for RSA only. SHA-1, which no flag asks for, is not made any more:
/// OpenSSH takes no such signature since 8.8.
fn sign(key: &PrivateKey, message: &[u8], flags: u32) -> Option<Signature> {
    const SHA2_256: u32 = 2;
    const SHA2_512: u32 = 4;
    let KeypairData::Rsa(pair) = key.key_data() else { return key.try_sign(message).ok() };
    let hash = match flags {
        flags if flags & SHA2_512 != 0 => HashAlg::Sha512,
        flags if flags & SHA2_256 != 0 => HashAlg::Sha256,
        _ => return None,
    };
    (pair, Some(hash)).try_sign(message).ok()
}

fn read(path: &Path) -> Result<PrivateKey, KeyError> {
    let owned = || path.to_owned();
    let unknown = |why| KeyError::Unknown { path: owned(), why };
    let mut text = Zeroizing::new(Vec::new());
    let read = File::open(path).and_then(|file| file.take(LARGEST_KEY + 1).read_to_end(&mut text));
    read.map_err(|source| KeyError::Read { path: owned(), source })?;
    if text.len() as u64 > LARGEST_KEY {
        return Err(unknown("it is too large"));
    }
    let text = std::str::from_utf8(&text).map_err(|_| unknown("it is no text"))?.trim();
    let Some((label, _)) = text.strip_prefix("-----BEGIN ").and_then(|text| text.split_once("-----")) else {
        return Err(unknown("it does not start with \"-----BEGIN\""));
    };
    if label == "ENCRYPTED PRIVATE KEY" || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(KeyError::Protected { path: owned() });
    }
    let key = match label {
        "OPENSSH PRIVATE KEY" => PrivateKey::from_openssh(text).ok(),
        "RSA PRIVATE KEY" => rsa::RsaPrivateKey::from_pkcs1_pem(text)
            .ok()
            .and_then(|key| private(KeypairData::Rsa(key.try_into().ok()?))),
        "EC PRIVATE KEY" => private_ecdsa([
            p256::SecretKey::from_sec1_pem(text).ok().map(p256_pair),
            p384::SecretKey::from_sec1_pem(text).ok().map(p384_pair),
            p521::SecretKey::from_sec1_pem(text).ok().map(p521_pair),
        ]),
        "PRIVATE KEY" => match rsa::RsaPrivateKey::from_pkcs8_pem(text) {
            Ok(key) => key.try_into().ok().and_then(|key| private(KeypairData::Rsa(key))),
            Err(_) => private_ecdsa([
                p256::SecretKey::from_pkcs8_pem(text).ok().map(p256_pair),
                p384::SecretKey::from_pkcs8_pem(text).ok().map(p384_pair),
                p521::SecretKey::from_pkcs8_pem(text).ok().map(p521_pair),
            ]),
        },
        _ => return Err(unknown("it is neither OpenSSH's form nor PKCS #1, PKCS #8 or SEC 1")),
    };
    let key = key.ok_or_else(|| unknown("it is damaged, or of a kind that is not supported"))?;
    if key.is_encrypted() {
        return Err(KeyError::Protected { path: owned() });
    }
    // A key whose numbers do not belong together, or that lives in a device, is found out here and not in a step.
    sign(&key, b"", 4).ok_or_else(|| unknown("nothing can be signed with it"))?;
    Ok(key)
}

fn private(data: KeypairData) -> Option<PrivateKey> {
    PrivateKey::new(data, "").ok()
}

/// The one curve that fits.
fn private_ecdsa(curves: [Option<EcdsaKeypair>; 3]) -> Option<PrivateKey> {
    private(KeypairData::Ecdsa(curves.into_iter().flatten().next()?))
}

fn p256_pair(key: p256::SecretKey) -> EcdsaKeypair {
    EcdsaKeypair::NistP256 { public: key.public_key().into(), private: key.into() }
}

fn p384_pair(key: p384::SecretKey) -> EcdsaKeypair {
    EcdsaKeypair::NistP384 { public: key.public_key().into(), private: key.into() }
}

fn p521_pair(key: p521::SecretKey) -> EcdsaKeypair {
    EcdsaKeypair::NistP521 { public: key.public_key().into(), private: key.into() }
}

/// Appends a string of the protocol: its length, and itself.
fn put(message: &mut Vec<u8>, text: &[u8]) -> Option<()> {
    message.extend(u32::try_from(text.len()).ok()?.to_be_bytes());
    message.extend(text);
    Some(())
}

/// Splits a string of the protocol off.
fn take(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = message.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rsa::signature::Verifier as _;

    use super::*;

    /// Makes a key with OpenSSH's program; `None` where there is none.
    fn generate(dir: &Path, name: &str, args: &[&str]) -> Option<PathBuf> {
        let path = dir.join(name);
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-C", "me@here", "-f"]).arg(&path).args(args);
        match command.output() {
            Ok(output) => {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                Some(path)
            }
            Err(error) => {
                println!("skipped: ssh-keygen cannot be run (Debian: openssh-client): {error}");
                None
            }
        }
    }

    fn string(text: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        put(&mut message, text).unwrap();
        message
    }

    /// The algorithm of a signature that the key's public half takes.
    fn signed(keys: &Keys, key: &PrivateKey, flags: u32) -> Option<String> {
        let blob = key.public_key().to_bytes().unwrap();
        let request = [vec![SIGN], string(&blob), string(b"to sign"), flags.to_be_bytes().to_vec()].concat();
        let answer = keys.answer(&request);
        let (kind, answer) = answer.split_first()?;
        if *kind != 14 {
            return None;
        }
        let (inner, rest) = take(answer).unwrap();
        assert_eq!(rest, b"");
        let (algorithm, inner) = take(inner).unwrap();
        let (signature, _) = take(inner).unwrap();
        let algorithm = String::from_utf8(algorithm.to_vec()).unwrap();
        let signature = Signature::new(algorithm.parse().unwrap(), signature).unwrap();
        key.public_key().key_data().verify(b"to sign", &signature).unwrap();
        Some(algorithm)
    }

    #[test]
    fn keys_of_every_form_sign() {
        let dir = tempfile::tempdir().unwrap();
        let check = |name: &str, args: &[&str], expect: &[(u32, Option<&str>)]| {
            let args = [args, &["-N", ""]].concat();
            let Some(path) = generate(dir.path(), name, &args) else { return };
            let keys = Keys::read(&[path]).unwrap_or_else(|error| panic!("{name}: {error}"));
            for (flags, algorithm) in expect {
                assert_eq!(signed(&keys, &keys.0[0], *flags).as_deref(), *algorithm, "{name} {flags}");
            }
        };
        let rsa: [(u32, Option<&str>); 4] =
            [(0, None), (2, Some("rsa-sha2-256")), (4, Some("rsa-sha2-512")), (6, Some("rsa-sha2-512"))];
        check("ed25519", &["-t", "ed25519"], &[(0, Some("ssh-ed25519")), (4, Some("ssh-ed25519"))]);
        check("rsa", &["-t", "rsa", "-b", "2048"], &rsa);
        check("rsa-pem", &["-t", "rsa", "-b", "2048", "-m", "PEM"], &rsa);
        check("rsa-pkcs8", &["-t", "rsa", "-b", "2048", "-m", "PKCS8"], &rsa);
        for bits in ["256", "384", "521"] {
            let expect = format!("ecdsa-sha2-nistp{bits}");
            for form in ["RFC4716", "PEM", "PKCS8"] {
                let args = ["-t", "ecdsa", "-b", bits, "-m", form];
                check(&format!("ecdsa-{bits}-{form}"), &args, &[(0, Some(&expect))]);
            }
        }
    }

    #[test]
    fn identities_are_listed_without_comments() {
        let dir = tempfile::tempdir().unwrap();
        let Some(one) = generate(dir.path(), "one", &["-t", "ed25519", "-N", ""]) else { return };
        let Some(two) = generate(dir.path(), "two", &["-t", "ed25519", "-N", ""]) else { return };
        let keys = Keys::read(&[one, two]).unwrap();
        let blobs = keys.0.iter().map(|key| string(&key.public_key().to_bytes().unwrap()));
        let expect: Vec<u8> = [vec![12, 0, 0, 0, 2]]
            .into_iter()
            .chain(blobs.map(|blob| [blob, string(b"")].concat()))
            .collect::<Vec<_>>()
            .concat();
        assert_eq!(keys.answer(&[IDENTITIES]), expect);
        let other = Keys(Vec::new());
        assert_eq!(signed(&other, &keys.0[0], 0), None);
        for request in [&[] as &[u8], &[17], &[SIGN], &[SIGN, 0, 0, 0, 9, 1], &[SIGN, 255, 255, 255, 255]] {
            assert_eq!(keys.answer(request), FAILURE, "{request:?}");
        }
        let shown = format!("{keys:?}");
        assert!(shown.contains("SHA256:") && !shown.contains("me@here"), "{shown}");
    }

    #[test]
    fn what_cannot_sign_is_told_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let message = |path: &Path| Keys::read(&[path]).unwrap_err().to_string();
        for (name, form) in [("openssh", "RFC4716"), ("pem", "PEM"), ("pkcs8", "PKCS8")] {
            let args = ["-t", "rsa", "-b", "2048", "-m", form, "-N", "secret phrase"];
            let Some(path) = generate(dir.path(), name, &args) else { return };
            let expect = format!("the key {} is protected by a passphrase", path.display());
            assert_eq!(message(&path), expect);
        }
        let path = dir.path().join("key");
        let check = |content: &[u8], expect: &str| {
            std::fs::write(&path, content).unwrap();
            let message = message(&path);
            assert!(message.contains(expect) && !message.contains("c2VjcmV0"), "{message}");
        };
        check(b"", "does not start with");
        check(b"\xff", "no text");
        check(
            b"-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n",
            "damaged",
        );
        check(b"-----BEGIN DSA PRIVATE KEY-----\nc2VjcmV0\n-----END DSA PRIVATE KEY-----\n", "neither");
        check(&vec![b'-'; 200 << 10], "too large");
        std::fs::remove_file(&path).unwrap();
        assert!(message(&path).contains("cannot read the key"));
    }
}
