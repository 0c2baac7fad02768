//! `rbuild version`.

/// Prints name and version.
pub(crate) fn run() -> anyhow::Result<()> {
    super::print(concat!("rbuild ", env!("CARGO_PKG_VERSION"), "\n"))
}
