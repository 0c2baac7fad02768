//! `rbuild images`: what the store's index lists.

use rbuild_image::{Platform, layout::IMAGE_NAME};
use serde::Serialize;

use super::{Documents, open_store, print};
use crate::args::{Format, ImagesArgs};
use crate::render::{bytes, report::table};

#[derive(Serialize)]
struct Row {
    name: Option<String>,
    digest: String,
    size: Option<u64>,
    created: Option<String>,
}

/// Prints one row per image, sorted by name.
pub(crate) async fn run(args: ImagesArgs) -> anyhow::Result<()> {
    let store = open_store(&args.store)?;
    let layout = store.layout();
    let mut rows = Vec::new();
    for descriptor in layout.descriptors()? {
        let platform = descriptor.platform.clone().unwrap_or_else(Platform::host);
        // An image whose layers were never needed here, or that has no image for this machine, is listed all the same.
        let documents = Documents::read(layout, &descriptor, &platform).await.ok();
        rows.push(Row {
            name: descriptor.annotations.get(IMAGE_NAME).cloned(),
            digest: descriptor.digest.to_string(),
            size: documents.as_ref().map(Documents::size),
            created: documents.and_then(|documents| documents.config.into_value().created),
        });
    }
    rows.sort_by(|a, b| (&a.name, &a.digest).cmp(&(&b.name, &b.digest)));
    match args.format {
        Format::Json => print(&format!("{}\n", serde_json::to_string(&rows)?)),
        Format::Text => print(&text(&rows)),
    }
}

fn text(rows: &[Row]) -> String {
    let header = ["NAME", "DIGEST", "SIZE", "CREATED"].map(str::to_owned).to_vec();
    let cell = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let familiar =
        |name: &String| name.parse().map_or(name.clone(), |name: rbuild_image::Reference| name.familiar());
    let row = |row: &Row| {
        let digest = row.digest.get(.."sha256:".len() + 12).unwrap_or(&row.digest).to_owned();
        vec![
            cell(row.name.as_ref().map(familiar)),
            digest,
            cell(row.size.map(bytes)),
            cell(row.created.clone()),
        ]
    };
    table(&std::iter::once(header).chain(rows.iter().map(row)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_short() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".to_owned();
        let rows = [
            Row { name: None, digest: digest.clone(), size: None, created: None },
            Row {
                name: Some("docker.io/library/app:1".to_owned()),
                digest,
                size: Some(12_345),
                created: Some("2026-01-01T00:00:00Z".to_owned()),
            },
        ];
        let expect = "NAME   DIGEST               SIZE    CREATED\n\
                      -      sha256:e3b0c44298fc  -       -\n\
                      app:1  sha256:e3b0c44298fc  12.3kB  2026-01-01T00:00:00Z\n";
        assert_eq!(text(&rows), expect);
    }
}
