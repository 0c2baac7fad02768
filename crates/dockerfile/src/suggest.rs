//! "Did you mean": the nearest of a few known names.

/// Returns the name nearest to `name`, if fewer than three edits lead to it and a letter is left; case does not count.
///
/// A name that equals `name` but for its case is no suggestion, nor is any when `name` is one of the candidates.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let most = name.chars().count().saturating_sub(1).min(MAX_EDITS);
    let candidates = candidates.into_iter().map(|candidate| (candidate.to_lowercase(), candidate));
    nearest_within(most, &name, candidates)
}

/// Returns the variable nearest to `name` as lint messages name it: case counts, and a name may be as short as it likes.
pub fn nearest_variable<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let candidates = candidates.into_iter().map(|candidate| (candidate.to_owned(), candidate));
    nearest_within(MAX_EDITS, name, candidates)
}

/// Most edits between a name and what is suggested for it.
const MAX_EDITS: usize = 2;

/// Compares a name with the first of each pair; of equally near ones the first counts.
fn nearest_within<'a>(
    most: usize,
    name: &str,
    candidates: impl Iterator<Item = (String, &'a str)>,
) -> Option<&'a str> {
    let mut best: Option<(usize, &str)> = None;
    for (compared, candidate) in candidates {
        if compared == name {
            return None;
        }
        let edits = distance(name, &compared);
        if edits <= most && best.is_none_or(|(fewest, _)| edits < fewest) {
            best = Some((edits, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Counts the edits between two names, or gives a large number at once when their lengths are too far apart.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().take(256).collect();
    let right: Vec<char> = right.chars().take(256).collect();
    if left.len().abs_diff(right.len()) >= 3 {
        return usize::MAX;
    }
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut diagonal = i;
        let mut last = i + 1;
        let mut row = vec![last];
        for (b, above) in right.iter().zip(previous.iter().skip(1)) {
            last = (diagonal + usize::from(a != b)).min(above + 1).min(last + 1);
            diagonal = *above;
            row.push(last);
        }
        previous = row;
    }
    previous.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::{nearest, nearest_variable};

    #[test]
    fn names_within_two_edits_are_suggested() {
        let check = |name: &str, candidates: &[&'static str], expect: Option<&str>| {
            assert_eq!(nearest(name, candidates.iter().copied()), expect, "{name}");
        };
        check("coppy", &["ADD", "COPY"], Some("COPY"));
        check("COYP", &["COPY"], Some("COPY"));
        check("chwon", &["chown", "chmod"], Some("chown"));
        check("copy", &["COPY"], None);
        check("xyz", &["COPY"], None);
        check("VARIANT", &["VARIAN", "VARIANTS"], Some("VARIAN"));
        check("z", &["id"], None);
        check("", &["ab", "abc"], None);
    }

    #[test]
    fn variables_are_compared_as_written() {
        let check = |name: &str, candidates: &[&'static str], expect: Option<&str>| {
            assert_eq!(nearest_variable(name, candidates.iter().copied()), expect, "{name}");
        };
        check("PAHT", &["PATH"], Some("PATH"));
        check("paht", &["PATH"], None);
        check("ZZ", &["PATH", "GO", "X"], Some("GO"));
        check("N", &["A", "B"], Some("A"));
        check("A", &["B", "A"], None);
    }
}
