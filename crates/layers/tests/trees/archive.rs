//! Archives built byte by byte, which may say what no sound program writes.

/// An archive under construction, which may say what no sound program writes.
#[derive(Clone, Default)]
pub(crate) struct Archive(pub(crate) Vec<u8>);

/// A header block with valid defaults.
pub(crate) struct Header {
    pub(crate) name: Vec<u8>,
    pub(crate) flag: u8,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
    pub(crate) magic: [u8; 8],
}

impl Header {
    pub(crate) fn new(flag: u8, name: impl AsRef<[u8]>) -> Self {
        let mode = if flag == b'5' { 0o755 } else { 0o644 };
        let (name, magic) = (name.as_ref().to_vec(), *b"ustar\x0000");
        Self { name, flag, link: Vec::new(), mode, size: 0, device: (0, 0), magic }
    }

    pub(crate) fn block(&self) -> [u8; 512] {
        let mut block = [0; 512];
        block[..self.name.len()].copy_from_slice(&self.name);
        block[157..157 + self.link.len()].copy_from_slice(&self.link);
        let octal = |value: u64, digits: usize| format!("{value:0digits$o}").into_bytes();
        let (uid, gid) = own_ids();
        for (at, text) in [
            (100, octal(self.mode.into(), 7)),
            (108, octal(uid.into(), 7)),
            (116, octal(gid.into(), 7)),
            (124, octal(self.size, 11)),
            (136, octal(1_000_000_000, 11)),
            (329, octal(self.device.0.into(), 7)),
            (337, octal(self.device.1.into(), 7)),
        ] {
            block[at..at + text.len()].copy_from_slice(&text);
        }
        block[156] = self.flag;
        block[257..265].copy_from_slice(&self.magic);
        seal(&mut block);
        block
    }
}

/// Sets the checksum of a block.
pub(crate) fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

impl Archive {
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn padded(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn entry(self, mut header: Header, content: &[u8]) -> Self {
        header.size = content.len() as u64;
        self.raw(&header.block()).padded(content)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.entry(Header::new(b'5', name), b"")
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.entry(Header::new(b'0', name), content.as_bytes())
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(Header { link: target.into(), ..Header::new(b'2', name) }, b"")
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.entry(Header { link: target.into(), ..Header::new(b'1', name) }, b"")
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.extended(b'x', records)
    }

    pub(crate) fn extended(self, flag: u8, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            content.extend(record(key, value));
        }
        self.entry(Header::new(flag, "PaxHeaders/x"), &content)
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

/// Makes a pax record.
pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length =
        (rest..).find(|length| *length == rest + length.to_string().len()).expect("some number is right");
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

pub(crate) fn own_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}
