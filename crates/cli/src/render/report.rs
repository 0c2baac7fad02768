//! The last lines of a build, and tables.

use rbuild_builder::Built;
use rbuild_builder::export::{Destination, OciForm, OutputKind};
use rbuild_builder::options::{BuildOptions, Push};
use rbuild_image::{Reference, names_registry};

/// Says what was built, how large it is, how long it took, and what can be done with it.
pub(crate) fn summary(options: &BuildOptions, built: &Built) -> String {
    let size = super::bytes(built.size);
    let mut lines = vec![format!("{} {size} in {:.1}s", built.digest(), built.duration.as_secs_f64())];
    let pushed =
        |name: &str| if built.unchanged { format!("unchanged {name}") } else { format!("pushed {name}") };
    for tag in &options.tags {
        let is_pushed = match options.push {
            Push::Always => true,
            Push::Never => false,
            Push::ByName => names_registry(tag),
        };
        if is_pushed && (options.push == Push::Always || options.outputs.is_empty()) {
            lines.push(pushed(tag));
        } else if options.outputs.is_empty() {
            lines.push(kept(tag));
        }
    }
    lines.extend(options.outputs.iter().flat_map(|output| next_steps(&output.kind, &options.tags, &pushed)));
    if options.outputs.is_empty() && options.tags.is_empty() {
        lines.push("it has no name and stays in the store; name it with --tag".to_owned());
    }
    lines.join("\n")
}

fn kept(tag: &str) -> String {
    if names_registry(tag) {
        return format!("{tag} stays in the store; `rbuild push {tag}` sends it");
    }
    format!("{tag} stays in the store; `rbuild push {tag} REGISTRY/{tag}` sends it")
}

/// Says of one output what can be done with it.
fn next_steps(kind: &OutputKind, tags: &[String], pushed: &dyn Fn(&str) -> String) -> Vec<String> {
    let or_tags = |names: &[Reference]| match names {
        [] => tags.to_vec(),
        names => names.iter().map(Reference::familiar).collect(),
    };
    let wrote = |path: &std::path::Path, use_it: &str| {
        let path = path.display();
        vec![format!("wrote {path}; {}", use_it.replace("{}", &path.to_string()))]
    };
    match kind {
        OutputKind::Push(names) => or_tags(names).iter().map(|name| pushed(name)).collect(),
        OutputKind::Store(names) => or_tags(names).iter().map(|name| kept(name)).collect(),
        OutputKind::Oci { dest: Destination::File(path), form: OciForm::Archive, .. } => {
            wrote(path, "`podman load -i {}` or `skopeo copy oci-archive:{} docker://…` takes it")
        }
        OutputKind::Oci { dest: Destination::File(path), form: OciForm::Directory, .. } => {
            wrote(path, "`rbuild push {} REGISTRY/NAME` sends it")
        }
        OutputKind::Docker { dest: Destination::File(path), .. } => {
            wrote(path, "`docker load -i {}` takes it")
        }
        OutputKind::Local(path) | OutputKind::Tar(Destination::File(path)) => {
            vec![format!("wrote {}", path.display())]
        }
        OutputKind::CacheOnly => vec!["nothing is kept but the cache".to_owned()],
        _ => Vec::new(),
    }
}

/// Sets `rows` in columns two spaces apart; the last column is not padded.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuild_builder::export::{LayerAttributes, Output};
    use rbuild_image::{Descriptor, Digest};

    #[test]
    fn the_end_says_what_to_do_next() {
        let digest = Digest::of(b"");
        let built = Built {
            descriptor: Descriptor::new("m", digest, 2),
            images: Vec::new(),
            names: Vec::new(),
            size: 12_345_678,
            duration: std::time::Duration::from_millis(3456),
            unchanged: false,
        };
        let check = |tags: &[&str], push: Push, outputs: &[OutputKind], expect: &[&str]| {
            let attributes = LayerAttributes::default();
            let options = BuildOptions {
                tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
                push,
                outputs: outputs.iter().map(|kind| Output { kind: kind.clone(), attributes }).collect(),
                ..BuildOptions::default()
            };
            let first = format!("{digest} 12.3MB in 3.5s");
            let expect: Vec<&str> = std::iter::once(first.as_str()).chain(expect.iter().copied()).collect();
            assert_eq!(summary(&options, &built), expect.join("\n"));
        };
        let kept = "app stays in the store; `rbuild push app REGISTRY/app` sends it";
        check(&["app", "r.io/app"], Push::ByName, &[], &[kept, "pushed r.io/app"]);
        check(&["app"], Push::Always, &[], &["pushed app"]);
        check(&["r.io/a"], Push::Never, &[], &["r.io/a stays in the store; `rbuild push r.io/a` sends it"]);
        check(&[], Push::ByName, &[], &["it has no name and stays in the store; name it with --tag"]);
        let file = |path: &str| Destination::File(path.into());
        let archive = OutputKind::Oci { dest: file("a.tar"), form: OciForm::Archive, names: Vec::new() };
        let load =
            "wrote a.tar; `podman load -i a.tar` or `skopeo copy oci-archive:a.tar docker://…` takes it";
        check(&["r.io/app"], Push::ByName, &[archive], &[load]);
        check(&["r.io/app"], Push::Always, &[OutputKind::Local("d".into())], &["pushed r.io/app", "wrote d"]);
        check(&["r.io/app"], Push::ByName, &[OutputKind::Push(Vec::new())], &["pushed r.io/app"]);
    }

    #[test]
    fn columns_line_up() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let rows = [row(&["NAME", "SIZE"]), row(&["a-long-name", "1kB"]), row(&["é", "20MB"])];
        assert_eq!(table(&rows), "NAME         SIZE\na-long-name  1kB\né            20MB\n");
        assert_eq!(table(&[]), "");
    }
}
