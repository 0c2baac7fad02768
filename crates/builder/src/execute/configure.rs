//! `WORKDIR`: the one instruction of the image config that touches the rootfs.

use std::path::Path;

use rbuild_layers::{Follow, Time};

use super::copy::accounts;
use super::draft::Draft;
use super::error::StepError;
use crate::plan::WorkdirStep;

/// Makes the directory: missing components get mode 0755 and the owner that the current `USER` names.
pub(crate) fn workdir(step: &WorkdirStep, draft: &mut Draft, now: Time) -> Result<(), StepError> {
    let owner = if step.user.is_empty() { (0, 0) } else { accounts(draft)?.owner(&step.user) };
    let path = draft.resolve(Path::new(&step.path), Follow::All)?;
    Ok(draft.make_dirs(&path, owner, now)?)
}
