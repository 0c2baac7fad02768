//! Owners kept beside files, as an embedder keeps them: in an attribute, or in memory for what carries none.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Mutex;

use rbuild_sandbox::{Node, NodeKind, Owners, Recorded};
use rustix::fs::{FileType, Mode, Stat, XattrFlags};
use rustix::io::Errno;

const NAME: &str = "user.rbuild.owner";

#[derive(Debug, Default)]
pub(crate) struct Records {
    others: Mutex<HashMap<(u64, u64), Recorded>>,
}

fn path(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn carries_attributes(stat: &Stat) -> bool {
    matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Directory)
}

/// Only who may read or write a file may read or write its attributes.
fn opened<T>(
    file: BorrowedFd<'_>,
    stat: &Stat,
    mut act: impl FnMut() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    match act() {
        Err(Errno::ACCESS) => {
            let before = Mode::from_raw_mode(stat.st_mode);
            rustix::fs::chmod(path(file), before | Mode::RUSR | Mode::WUSR)?;
            let result = act();
            rustix::fs::chmod(path(file), before)?;
            result
        }
        result => result,
    }
}

impl Owners for Records {
    fn get(&self, file: BorrowedFd<'_>, stat: &Stat) -> io::Result<Recorded> {
        if !carries_attributes(stat) {
            let others = self.others.lock().unwrap();
            return Ok(others.get(&(stat.st_dev, stat.st_ino)).copied().unwrap_or_default());
        }
        let mut value = [0; 64];
        let length = match opened(file, stat, || rustix::fs::getxattr(path(file), NAME, &mut value)) {
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(Recorded::default()),
            length => length?,
        };
        let text = std::str::from_utf8(&value[..length]).unwrap();
        let numbers: Vec<u32> = text.split(':').map(|number| number.parse().unwrap()).collect();
        let node = match numbers[2..] {
            [major, minor] => Some(Node { kind: NodeKind::Character, major, minor }),
            _ => None,
        };
        Ok(Recorded { uid: numbers[0], gid: numbers[1], node, mode: None })
    }

    fn set(&self, file: BorrowedFd<'_>, stat: &Stat, recorded: &Recorded) -> io::Result<()> {
        if !carries_attributes(stat) {
            self.others.lock().unwrap().insert((stat.st_dev, stat.st_ino), *recorded);
            return Ok(());
        }
        let mut text = format!("{}:{}", recorded.uid, recorded.gid);
        if let Some(node) = recorded.node {
            text.push_str(&format!(":{}:{}", node.major, node.minor));
        }
        let write = || rustix::fs::setxattr(path(file), NAME, text.as_bytes(), XattrFlags::empty());
        Ok(opened(file, stat, write)?)
    }
}
