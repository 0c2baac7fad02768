//! Writes every output of a build.

use std::path::Path;

use rbuild_image::Source as _;
use rbuild_image::archive::{write_docker, write_oci_tree};
use rbuild_layers::Changes;
use rbuild_registry::Client;

use super::{
    Assembled, Destination, ExportError, OciForm, OutputKind, Outputs, Places, PlatformImage, Product,
    archive, layout, local, push,
};
use crate::build::OnEvent;
use crate::error::BuildError;
use crate::event::Event;
use crate::execute::Executor;

/// A finished product and the ways out.
pub(crate) struct Exporter<'a> {
    pub executor: &'a Executor,
    pub client: Option<&'a Client>,
    pub product: &'a Product,
    pub on_event: &'a OnEvent,
}

/// What became of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// It was written.
    Anew,
    /// All its names stood for the same digest before.
    Unchanged,
}

impl Exporter<'_> {
    /// Writes all outputs, local ones first, and tells of each. Unchanged is the whole if everything with a name is, and
    /// something has one.
    pub(crate) async fn write(&self, outputs: &Outputs) -> Result<Written, BuildError> {
        let leaves = |kind: &&OutputKind| matches!(kind, OutputKind::Push(_));
        let (remote, here): (Vec<_>, Vec<_>) = outputs.kinds().iter().partition(leaves);
        let (mut same, mut others) = (0, 0);
        for kind in here.into_iter().chain(remote) {
            let unchanged = self.stands(kind).await;
            if !unchanged {
                self.write_one(kind).await?;
            }
            match kind {
                _ if unchanged => same += 1,
                OutputKind::Push(_) | OutputKind::Store(_) => others += 1,
                _ => {}
            }
            let digest = has_digest(kind).then(|| self.product.descriptor.digest.to_string());
            (self.on_event)(Event::Exported { output: describe(kind), digest, unchanged });
        }
        Ok(if same > 0 && others == 0 { Written::Unchanged } else { Written::Anew })
    }

    /// Whether all names of an output stand for the result already. Asked only when nothing was made: else it is sooner written.
    async fn stands(&self, kind: &OutputKind) -> bool {
        if !self.product.is_cached() {
            return false;
        }
        match (kind, self.client) {
            (OutputKind::Push(names), Some(client)) => {
                push::is_there(&self.assembled(), client, names, self.on_event).await
            }
            (OutputKind::Store(names), _) if !names.is_empty() => {
                let (store, digest) = (self.executor.store(), self.product.descriptor.digest);
                for name in names {
                    let stands =
                        store.resolve(name).await.is_ok_and(|named| named.descriptor.digest == digest);
                    if !stands || !self.is_stored() {
                        return false;
                    }
                }
                true
            }
            _ => false,
        }
    }

    /// Whether the store has every blob of the result.
    fn is_stored(&self) -> bool {
        let (store, tree) = (self.executor.store(), self.product.tree());
        let documents = tree.documents.iter().map(|document| rbuild_image::Digest::of(document));
        tree.layers.iter().map(|layer| layer.digest).chain(documents).all(|digest| store.has_blob(&digest))
    }

    async fn write_one(&self, kind: &OutputKind) -> Result<(), BuildError> {
        let assembled = self.assembled();
        match kind {
            OutputKind::Push(names) => {
                let client = self.client.ok_or_else(|| BuildError::Option {
                    option: "registry",
                    value: String::new(),
                    reason: "a push needs a client".to_owned(),
                })?;
                push(&assembled, client, names, self.on_event).await
            }
            OutputKind::Store(names) if names.is_empty() => self.keep_unnamed(),
            OutputKind::Store(names) => {
                let store = self.executor.store();
                let failed = |source| ExportError::Write { path: store.path().to_owned(), source };
                layout::into(&assembled, store, names).await.map_err(failed)?;
                Ok(())
            }
            OutputKind::Oci { dest: Destination::File(dest), form: OciForm::Directory, names } => {
                Ok(layout::write(&assembled, dest, names).await?)
            }
            OutputKind::Oci { dest, names, .. } => {
                self.fetch().await?;
                let layout = self.executor.store().layout();
                let tree = self.product.tree();
                Ok(archive::write(dest, |out| Ok(write_oci_tree(out, &tree, names, layout).map(drop)?))?)
            }
            OutputKind::Docker { dest, names } => {
                self.fetch().await?;
                let layout = self.executor.store().layout();
                // Several platforms are refused when the outputs are read.
                let image = self.product.images.first().ok_or(BuildError::Cancelled)?;
                let docker = image.stage.image.finish_docker();
                Ok(archive::write(dest, |out| Ok(write_docker(out, &docker, names, layout).map(drop)?))?)
            }
            OutputKind::Local(dest) => {
                self.fetch().await?;
                for image in &self.product.images {
                    let dest = self.directory(image).map_or_else(|| dest.clone(), |name| dest.join(name));
                    local::write_directory(self.flatten(image)?, &dest)?;
                }
                Ok(())
            }
            OutputKind::Tar(dest) => {
                self.fetch().await?;
                let mut all = Changes::new();
                for image in &self.product.images {
                    let changes = self.flatten(image)?;
                    match self.directory(image) {
                        None => all = changes,
                        Some(name) => local::add_below(&mut all, Path::new(&name), changes),
                    }
                }
                let clamp = self.executor.clock().epoch();
                Ok(archive::write(dest, |out| local::write_tar(&all, out, clamp))?)
            }
            OutputKind::CacheOnly => Ok(()),
        }
    }

    fn assembled(&self) -> Assembled<'_> {
        Assembled {
            product: self.product,
            store: self.executor.store(),
            elsewhere: self.executor.elsewhere(),
            places: Places::default(),
        }
    }

    /// The documents go into the store, the name list stays as it is, and base layers stay where they are.
    fn keep_unnamed(&self) -> Result<(), BuildError> {
        let store = self.executor.store();
        for document in self.product.tree().documents.iter().rev() {
            store.put_bytes(document)?;
        }
        Ok(())
    }

    /// Brings the base layers into the store.
    async fn fetch(&self) -> Result<(), BuildError> {
        for PlatformImage { stage, .. } in &self.product.images {
            let fetched = self.executor.bring(&stage.image.chain(), &stage.bases).await;
            fetched.map_err(ExportError::Fetch)?;
        }
        Ok(())
    }

    /// The directory that an image's files stand in, where there are several images.
    fn directory(&self, image: &PlatformImage) -> Option<String> {
        self.product.index.as_ref().map(|_| image.platform.normalised().to_string().replace('/', "_"))
    }

    /// The files of an image, whose layers are in the store.
    fn flatten(&self, image: &PlatformImage) -> Result<Changes, BuildError> {
        let rootfs = |error: Box<dyn std::error::Error + Send + Sync>| ExportError::Rootfs(error);
        let view =
            self.executor.unpacked(&image.stage.image.chain()).map_err(|error| rootfs(error.into()))?;
        Ok(local::flatten(&view).map_err(|error| rootfs(error.into()))?)
    }
}

fn has_digest(kind: &OutputKind) -> bool {
    matches!(kind, OutputKind::Push(_) | OutputKind::Store(_) | OutputKind::Oci { .. })
}

fn describe(kind: &OutputKind) -> String {
    let named = |kind: &str, names: &[rbuild_image::Reference]| {
        let names: Vec<String> = names.iter().map(rbuild_image::Reference::familiar).collect();
        format!("{kind} {}", names.join(", ")).trim_end().to_owned()
    };
    let at = |kind: &str, dest: &Destination| match dest {
        Destination::File(path) => format!("{kind} {}", path.display()),
        Destination::Stdout => format!("{kind} -"),
    };
    match kind {
        OutputKind::Push(names) => named("registry", names),
        OutputKind::Store(names) => named("store", names),
        OutputKind::Oci { dest, .. } => at("oci", dest),
        OutputKind::Docker { dest, .. } => at("docker", dest),
        OutputKind::Local(path) => format!("local {}", path.display()),
        OutputKind::Tar(dest) => at("tar", dest),
        OutputKind::CacheOnly => "cacheonly".to_owned(),
    }
}
