//! What the headers of one entry say together.

use super::header::{self, Block};
use super::pax::{self, Records};
use super::sparse;
use crate::meta::{Kind, Meta, Time};
use crate::xattr;

/// What the headers before an entry say of it.
#[derive(Default)]
pub(super) struct Extended {
    pub(super) records: Option<Records>,
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
}

impl Extended {
    pub(super) const fn any(&self) -> bool {
        self.records.is_some() || self.path.is_some() || self.link.is_some()
    }

    pub(super) fn add_records(&mut self, content: &[u8]) -> Result<(), &'static str> {
        match self.records.replace(Records::parse(content)?) {
            Some(_) => Err("two extended headers for one entry"),
            None => Ok(()),
        }
    }
}

/// Accepts a global header that says nothing of which entries there are. Go, and so BuildKit, applies none of
/// its records, GNU tar all.
pub(super) fn check_global(content: &[u8]) -> Result<(), &'static str> {
    let records = Records::parse(content)?;
    let structural = |key: &[u8]| {
        pax::STRUCTURAL.contains(&key) || key.starts_with(pax::SPARSE) || key.starts_with(pax::XATTR)
    };
    if records.keys().any(structural) || !records.sparse_pairs.is_empty() {
        return Err("a global header names single entries");
    }
    Ok(())
}

/// Takes the content of one of GNU tar's long name entries.
pub(super) fn set_long(slot: &mut Option<Vec<u8>>, content: &[u8]) -> Result<(), &'static str> {
    let name = header::until_zero(content);
    if content.iter().skip(name.len()).any(|byte| *byte != 0) {
        return Err("a long name holds a zero byte");
    }
    match slot.replace(name.to_vec()) {
        Some(_) => Err("two long names for one entry"),
        None => Ok(()),
    }
}

pub(super) fn read_gnu_parts(field: &[u8], parts: &mut Vec<(u64, u64)>) -> Result<(), &'static str> {
    for pair in field.chunks_exact(24) {
        let (position, length) = pair.split_at(12);
        if position.first() == Some(&0) {
            break;
        }
        let number = |field| header::number(field).and_then(|number| u64::try_from(number).ok());
        let part = number(position).zip(number(length)).ok_or("malformed sparse map")?;
        if parts.len() >= sparse::MAX_PARTS {
            return Err("sparse map too large");
        }
        parts.push(part);
    }
    Ok(())
}

/// A header block and the extended headers before it: where both say something, the extended one counts.
pub(super) struct Fields<'a> {
    pub(super) block: &'a Block,
    pub(super) extended: &'a Extended,
}

impl Fields<'_> {
    fn record(&self, key: &[u8]) -> Option<&[u8]> {
        self.extended.records.as_ref().and_then(|records| records.get(key))
    }

    pub(super) fn path(&self) -> Result<Vec<u8>, &'static str> {
        let sparse = self.record(b"GNU.sparse.name");
        let long = one_name(sparse.or_else(|| self.record(b"path")), self.extended.path.as_deref())?;
        Ok(long.map_or_else(|| self.short_path(), <[u8]>::to_vec))
    }

    fn short_path(&self) -> Vec<u8> {
        let name = self.block.text(header::NAME);
        let prefix = self.block.text(header::PREFIX);
        if self.block.field(header::MAGIC) != header::USTAR || prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, name].join(&b'/')
    }

    pub(super) fn link(&self) -> Result<Vec<u8>, &'static str> {
        let long = one_name(self.record(b"linkpath"), self.extended.link.as_deref())?;
        let target = long.unwrap_or_else(|| self.block.text(header::LINK));
        if target.is_empty() { Err("a link without a target") } else { Ok(target.to_vec()) }
    }

    pub(super) fn device(&self, flag: u8) -> Result<Kind, &'static str> {
        let number = |field| self.block.number(field).and_then(|number| u32::try_from(number).ok());
        let pair = number(header::DEV_MAJOR).zip(number(header::DEV_MINOR));
        let (major, minor) = pair.ok_or("malformed device number")?;
        Ok(if flag == b'3' { Kind::CharDevice { major, minor } } else { Kind::BlockDevice { major, minor } })
    }

    /// Returns the number of bytes stored for the entry.
    pub(super) fn stored(&self) -> Result<u64, &'static str> {
        let short = self.block.number(header::SIZE).and_then(|size| u64::try_from(size).ok());
        let short = short.ok_or("the size in a header is not a number")?;
        let long = self.extended.records.as_ref().map_or(Ok(None), |records| records.number(b"size"))?;
        // what a header has room for is 0 there, or the same
        if long.is_some_and(|long| short != 0 && short != long && long < 1 << 33) {
            return Err("two sizes for one entry");
        }
        let stored = long.unwrap_or(short);
        if stored > i64::MAX as u64 { Err("the size of an entry is too large") } else { Ok(stored) }
    }

    pub(super) fn meta(&self, kind: Kind) -> Result<Meta, &'static str> {
        let mode = self.block.number(header::MODE).ok_or("malformed mode")?;
        let mode = u32::try_from(mode & 0o7777).unwrap_or(0);
        let (uid, gid) = (self.id(b"uid", header::UID)?, self.id(b"gid", header::GID)?);
        let mtime = match self.record(b"mtime") {
            Some(text) => pax::time(text).ok_or("malformed time")?,
            None => Time::seconds(self.block.number(header::MTIME).ok_or("malformed time")?),
        };
        let mut meta = Meta { uid, gid, mtime, ..Meta::new(kind, mode) };
        for (name, value) in self.extended.records.iter().flat_map(Records::xattrs) {
            if xattr::travels(name) {
                meta.xattrs.insert(name.to_vec(), xattr::portable(name, value.to_vec()));
            }
        }
        Ok(meta)
    }

    fn id(&self, key: &[u8], field: std::ops::Range<usize>) -> Result<u32, &'static str> {
        let id = match self.record(key) {
            Some(text) => pax::decimal(text).and_then(|id| u32::try_from(id).ok()),
            None => self.block.number(field).and_then(|id| u32::try_from(id).ok()),
        };
        // (uid_t) -1 means "leave it as it is" to chown(2)
        id.filter(|id| *id != u32::MAX).ok_or("an owner that is no user or group number")
    }
}

/// Chooses between the two ways to write a long name.
fn one_name<'a>(pax: Option<&'a [u8]>, gnu: Option<&'a [u8]>) -> Result<Option<&'a [u8]>, &'static str> {
    match (pax, gnu) {
        (Some(pax), Some(gnu)) if pax != gnu => Err("two names for one entry"),
        (Some(name), _) if name.contains(&0) => Err("a name holds a zero byte"),
        (pax, gnu) => Ok(pax.or(gnu)),
    }
}
