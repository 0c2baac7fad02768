//! The ids that are mapped in the user namespace of a step.

use std::fs;
use std::io;

use thiserror::Error;

/// Ids that are mapped in a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<Range>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    /// What the first one is called in the user namespace of this process.
    outside: u32,
    count: u32,
}

/// Why an id map cannot be used.
#[derive(Debug, Error)]
pub(crate) enum IdMapError {
    #[error("cannot read {path}")]
    Read { path: &'static str, source: io::Error },
    #[error("{path} is not an id map: {line:?}")]
    Syntax { path: &'static str, line: String },
}

/// The user and group ids that are mapped in a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdRanges {
    pub(crate) users: Ranges,
    pub(crate) groups: Ranges,
}

impl IdRanges {
    /// Reads those of this process from `/proc/self/uid_map` and `/proc/self/gid_map`.
    ///
    /// # References
    /// user_namespaces(7)
    pub(crate) fn of_this_process() -> Result<Self, IdMapError> {
        Ok(Self { users: read("/proc/self/uid_map")?, groups: read("/proc/self/gid_map")? })
    }

    /// Makes root of the user and group of this process, and maps nobody else.
    pub(crate) fn single() -> Self {
        let root = |outside| Ranges(vec![Range { first: 0, outside, count: 1 }]);
        Self {
            users: root(rustix::process::geteuid().as_raw()),
            groups: root(rustix::process::getegid().as_raw()),
        }
    }
}

fn read(path: &'static str) -> Result<Ranges, IdMapError> {
    let text = fs::read_to_string(path).map_err(|source| IdMapError::Read { path, source })?;
    Ranges::parse(&text).map_err(|line| IdMapError::Syntax { path, line })
}

impl Ranges {
    /// Parses the lines "first-inside first-outside count" to a map of the same numbers; the offending line is the
    /// error.
    fn parse(text: &str) -> Result<Self, String> {
        let line = |line: &str| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
            match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
                (Some(Ok(first)), Some(Ok(_)), Some(Ok(count)), None) => {
                    Ok(Range { first, outside: first, count })
                }
                _ => Err(line.to_owned()),
            }
        };
        text.lines().map(line).collect::<Result<_, _>>().map(Self)
    }

    /// Tells whether `id` is mapped.
    pub(crate) fn contains(&self, id: u32) -> bool {
        self.0.iter().any(|range| id.checked_sub(range.first).is_some_and(|offset| offset < range.count))
    }

    /// Returns the map as the kernel wants it written for a child of this process.
    pub(crate) fn map(&self) -> String {
        self.0.iter().map(|range| format!("{} {} {}\n", range.first, range.outside, range.count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<&str, &str>) {
        let map = Ranges::parse(text).map(|ranges| ranges.map());
        assert_eq!(map.as_deref().map_err(String::as_str), expect);
    }

    #[test]
    fn identity_maps() {
        check("         0          0 4294967295\n", Ok("0 0 4294967295\n"));
        check("0 655360 65536\n", Ok("0 0 65536\n"));
        check("0 1000 1\n1 100000 65536\n", Ok("0 0 1\n1 1 65536\n"));
        check("0 1000\n", Err("0 1000"));
        check("0 1000 1 1\n", Err("0 1000 1 1"));
        check("0 -1 1\n", Err("0 -1 1"));
    }

    #[test]
    fn a_single_id() {
        let ids = IdRanges::single();
        assert_eq!(ids.users.map(), format!("0 {} 1\n", rustix::process::geteuid().as_raw()));
        assert!(ids.groups.contains(0) && !ids.groups.contains(1));
    }

    #[test]
    fn containment() {
        let ranges = Ranges::parse("0 655360 6\n10 0 4294967285\n").unwrap();
        for (id, expect) in [(0, true), (5, true), (6, false), (9, false), (10, true), (u32::MAX, false)] {
            assert_eq!(ranges.contains(id), expect, "{id}");
        }
    }
}
