//! `rbuild build`.
use crate::args::BuildArgs;
pub(crate) async fn run(_: BuildArgs) -> anyhow::Result<()> {
    unimplemented!()
}
