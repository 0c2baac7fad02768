//! When the entries of an image's history were made.

use rbuild_image::History;

/// Gives every entry a time as BuildKit does, and returns when the image was made.
///
/// The first `inherited` entries are the base image's and keep what they have. Entries of new layers say when their
/// layer was first made, also when it comes from the cache, so that a build in which nothing changed gives the same
/// bytes again. Entries without a layer take the time of the first new layer, later ones that of the layer before;
/// where no layer is new, that of the last one. With an `epoch`, new entries have that time and no other.
///
/// # References
/// BuildKit, exporter/containerimage/writer.go, `normalizeLayersAndHistory` and `patchImageConfig`
pub(crate) fn fill_times(history: &mut [History], inherited: usize, epoch: Option<&str>) -> Option<String> {
    if let Some(epoch) = epoch {
        for entry in history.iter_mut().skip(inherited) {
            entry.created = Some(epoch.to_owned());
        }
    }
    let mut created = first_new_time(history);
    let mut after_gap = false;
    for entry in history.iter_mut() {
        match &entry.created {
            Some(own) if after_gap => created = Some(own.clone()),
            Some(_) => {}
            None => {
                after_gap = true;
                entry.created.clone_from(&created);
            }
        }
    }
    let last = history.iter().rev().find_map(|entry| entry.created.clone());
    epoch.map(str::to_owned).or(last)
}

/// The first time behind an entry that has none, else the last time there is.
fn first_new_time(history: &[History]) -> Option<String> {
    let gap = history.iter().position(|entry| entry.created.is_none())?;
    let behind = history.iter().skip(gap).find_map(|entry| entry.created.clone());
    behind.or_else(|| history.iter().rev().find_map(|entry| entry.created.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(
        times: &[Option<&str>],
        inherited: usize,
        epoch: Option<&str>,
    ) -> (Vec<Option<String>>, Option<String>) {
        let entry = |time: &Option<&str>| History { created: time.map(str::to_owned), ..History::default() };
        let mut history: Vec<_> = times.iter().map(entry).collect();
        let created = fill_times(&mut history, inherited, epoch);
        (history.into_iter().map(|entry| entry.created).collect(), created)
    }

    #[test]
    fn entries_without_a_layer_take_a_layers_time() {
        let check = |times: &[Option<&str>], expect: &[Option<&str>], expect_created: Option<&str>| {
            let (got, created) = fill(times, 0, None);
            let expect: Vec<_> = expect.iter().map(|time| time.map(str::to_owned)).collect();
            assert_eq!((got, created.as_deref()), (expect, expect_created), "{times:?}");
        };
        check(&[], &[], None);
        check(&[None], &[None], None);
        check(&[Some("a")], &[Some("a")], Some("a"));
        check(&[Some("base"), None], &[Some("base"), Some("base")], Some("base"));
        check(&[Some("a"), Some("b"), None], &[Some("a"), Some("b"), Some("b")], Some("b"));
        check(
            &[Some("base"), None, Some("new"), None],
            &[Some("base"), Some("new"), Some("new"), Some("new")],
            Some("new"),
        );
        check(&[None, Some("a"), None, Some("b")], &[Some("a"), Some("a"), Some("a"), Some("b")], Some("b"));
        // The last entry counts, not the latest time.
        check(&[Some("2"), Some("1")], &[Some("2"), Some("1")], Some("1"));
    }

    #[test]
    fn an_epoch_replaces_the_times_of_new_entries_only() {
        let check = |times: &[Option<&str>], inherited: usize, expect: &[Option<&str>]| {
            let (got, created) = fill(times, inherited, Some("epoch"));
            let expect: Vec<_> = expect.iter().map(|time| time.map(str::to_owned)).collect();
            assert_eq!((got, created.as_deref()), (expect, Some("epoch")), "{times:?}");
        };
        check(&[], 0, &[]);
        check(&[None, Some("made")], 0, &[Some("epoch"), Some("epoch")]);
        check(&[Some("base"), None], 1, &[Some("base"), Some("epoch")]);
        check(&[Some("base")], 1, &[Some("base")]);
        check(&[None, Some("made")], 1, &[Some("epoch"), Some("epoch")]);
        check(&[Some("base")], 2, &[Some("base")]);
    }
}
