//! "Did you mean": the nearest of a few known names.

/// Returns the name nearest to `name`, if fewer than three edits lead to it and a letter is left; case does not count.
///
/// A name that equals `name` but for its case is no suggestion, nor is any when `name` is one of the candidates.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let lower = candidate.to_lowercase();
        if lower == name {
            return None;
        }
        let edits = distance(&name, &lower);
        if edits < 3 && edits < name.chars().count() && best.is_none_or(|(fewest, _)| edits < fewest) {
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
    use super::nearest;

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
}
