//! The images a build starts from: names become digests and configs; layers come later, if at all.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use rbuild_image::{
    Descriptor, Digest, Image, ImageConfig, Layer, Layout, Manifest, ManifestOrIndex, Platform, Raw,
    Reference, ReferenceError, Resolved, Sink, Source, StoreError, StoreErrorKind,
};
use rbuild_layers::Store;
use rbuild_registry::Client;

use crate::build::OnEvent;
use crate::context::{ContextDir, LayoutImage, NamedContext};
use crate::error::{BuildError, Unresolved};
use crate::event::{Event, Transfer, TransferState};
use crate::execute::{RemoteError, Remotes};
use crate::options::{BuildOptions, Pull};
use crate::plan::{ImageRequest, directory_config};

/// Layers that are fetched at the same time.
const PARALLEL_FETCHES: usize = 4;

/// Finds images and remembers them, so that a name means the same digest throughout a build.
#[derive(Debug)]
pub(crate) struct Images {
    contexts: BTreeMap<String, NamedContext>,
    remotes: Arc<Remotes>,
    pull: Pull,
    store: Store,
    client: Option<Client>,
    /// Looked up once for all platforms, so that none of them sees a tag that has moved since.
    roots: BTreeMap<NameKey, Root>,
    found: BTreeMap<ImageRequest, Arc<BaseImage>>,
}

/// A name and the named context that replaces it.
type NameKey = (String, Option<String>);

fn name_key(request: &ImageRequest) -> NameKey {
    (request.name.clone(), request.context.clone())
}

/// What a name stands for, before a platform is chosen.
enum Root {
    /// A manifest or an index.
    Image(Arc<dyn Source>, Box<Resolved>),
    /// A local directory.
    Directory(Arc<ContextDir>),
    /// No files.
    Nothing,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image(_, resolved) => f.debug_tuple("Image").field(&resolved.descriptor.digest).finish(),
            Self::Directory(dir) => f.debug_tuple("Directory").field(&dir.path()).finish(),
            Self::Nothing => f.write_str("Nothing"),
        }
    }
}

/// What a name stands for.
pub(crate) struct BaseImage {
    /// The name and platform that were asked for.
    pub request: ImageRequest,
    /// The manifest's digest; none for what is no image.
    pub digest: Option<Digest>,
    /// Config and layers.
    pub image: Image,
    /// Where layers are read from.
    pub origin: Origin,
}

/// Where the files of a base are.
pub(crate) enum Origin {
    /// In the blobs of a registry, layout or store.
    Blobs(Arc<dyn Source>),
    /// In a local directory.
    Directory(Arc<ContextDir>),
    /// There are none.
    Nowhere,
}

impl std::fmt::Debug for BaseImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BaseImage")
            .field("request", &self.request)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Images {
    pub(crate) fn new(options: &BuildOptions, remotes: Arc<Remotes>, client: Option<Client>) -> Self {
        let store = remotes.store().clone();
        Self {
            contexts: options.named_contexts.clone(),
            remotes,
            pull: options.pull,
            store,
            client,
            roots: BTreeMap::new(),
            found: BTreeMap::new(),
        }
    }

    /// Resolves names all at once: manifests and configs, no layers.
    pub(crate) async fn resolve(
        &mut self,
        requests: &[ImageRequest],
    ) -> Result<Vec<Arc<BaseImage>>, BuildError> {
        let mut asked: BTreeMap<NameKey, &ImageRequest> = BTreeMap::new();
        for request in requests {
            let key = name_key(request);
            if !self.roots.contains_key(&key) {
                asked.entry(key).or_insert(request);
            }
        }
        let (keys, asked): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        let roots = try_join_all(asked.into_iter().map(|request| self.root(request, requests))).await?;
        self.roots.extend(keys.into_iter().zip(roots));
        let resolved = try_join_all(requests.iter().map(|request| self.find(request))).await?;
        let resolved: Vec<_> = resolved.into_iter().map(Arc::new).collect();
        for base in &resolved {
            self.found.insert(base.request.clone(), Arc::clone(base));
        }
        Ok(resolved)
    }

    /// What was resolved for a request.
    pub(crate) fn get(&self, request: &ImageRequest) -> Option<&Arc<BaseImage>> {
        self.found.get(request)
    }

    /// What the name of a request stands for, for whatever platform.
    async fn root(&self, request: &ImageRequest, all: &[ImageRequest]) -> Result<Root, BuildError> {
        let failed = |source| unresolved(request, source);
        let context = request.context.as_ref().and_then(|key| self.contexts.get(key));
        let key = name_key(request);
        let platforms: Vec<_> =
            all.iter().filter(|other| name_key(other) == key).map(|other| &other.platform).collect();
        let (source, resolved) = match context {
            Some(NamedContext::Scratch) => return Ok(Root::Nothing),
            Some(NamedContext::Directory(dir)) if dir.is_file() => {
                let path = dir.clone();
                return self.fetched(request, move |remotes| remotes.archive_file(&path)).await;
            }
            Some(NamedContext::Git(wanted)) => {
                let wanted = wanted.clone();
                return self.fetched(request, move |remotes| remotes.git_tree(&wanted, None)).await;
            }
            Some(NamedContext::Web(url)) => {
                let url = url.clone();
                return self.fetched(request, move |remotes| remotes.web_file(&url)).await;
            }
            Some(NamedContext::Directory(dir)) => {
                let ignore = ContextDir::ignore_file(&[dir.join(".dockerignore")])?;
                return Ok(Root::Directory(Arc::new(ContextDir::open(dir, ignore)?)));
            }
            Some(NamedContext::Layout { dir, image }) => from_layout(dir, image).map_err(failed)?,
            Some(NamedContext::Image(name)) => self.lookup(name, &platforms).await.map_err(failed)?,
            None => {
                let name = self.meaning(request)?;
                self.lookup(&name, &platforms).await.map_err(failed)?
            }
        };
        Ok(Root::Image(source, Box::new(resolved)))
    }

    /// What the name of a request means, by the settings of this machine.
    fn meaning(&self, request: &ImageRequest) -> Result<Reference, BuildError> {
        let Some(client) = &self.client else {
            return request
                .name
                .parse()
                .map_err(|error: ReferenceError| unusable(request, error.to_string()));
        };
        client.reference(&request.name).map_err(|error| {
            let failed = StoreError::new(StoreErrorKind::Other, "cannot tell what the name means");
            unresolved(request, failed.with_source(error))
        })
    }

    async fn find(&self, request: &ImageRequest) -> Result<BaseImage, BuildError> {
        match self.roots.get(&name_key(request)) {
            None => Err(unusable(request, "it was not looked up".to_owned())),
            Some(Root::Nothing) => Ok(without_blobs(request, Origin::Nowhere)),
            Some(Root::Directory(dir)) => Ok(without_blobs(request, Origin::Directory(Arc::clone(dir)))),
            Some(Root::Image(source, resolved)) => {
                self.load(request, Arc::clone(source), Resolved::clone(resolved)).await
            }
        }
    }

    /// A tree from elsewhere.
    async fn fetched(
        &self,
        request: &ImageRequest,
        fetch: impl FnOnce(&Remotes) -> Result<Arc<ContextDir>, RemoteError> + Send + 'static,
    ) -> Result<Root, BuildError> {
        let remotes = Arc::clone(&self.remotes);
        let fetched = tokio::task::spawn_blocking(move || fetch(&remotes)).await;
        let tree = fetched.map_err(|_| BuildError::Cancelled)?;
        let tree = tree.map_err(|error| BuildError::fetch(&request.name, error))?;
        Ok(Root::Directory(tree))
    }

    /// Looks a name up in the store, when it may come from there, and in its registry.
    ///
    /// The store may hold one platform of an image that has others: what it lacks is asked of the registry.
    async fn lookup(
        &self,
        name: &Reference,
        platforms: &[&Platform],
    ) -> Result<(Arc<dyn Source>, Resolved), StoreError> {
        let bare = name.registry() == "docker.io";
        if bare
            && self.pull == Pull::Missing
            && let Ok(resolved) = self.store.resolve(name).await
            && (self.client.is_none() || platforms.iter().all(|platform| offers(&resolved, platform)))
        {
            return Ok((Arc::new(self.store.clone()), resolved));
        }
        let client = self.client.as_ref().ok_or_else(|| {
            StoreError::new(
                StoreErrorKind::NotFound,
                format!("{name} is not in the store, and there is no registry client"),
            )
        })?;
        let remote = client.remote(name);
        let resolved = remote.resolve(name).await?;
        Ok((Arc::new(remote), resolved))
    }

    async fn load(
        &self,
        request: &ImageRequest,
        source: Arc<dyn Source>,
        resolved: Resolved,
    ) -> Result<BaseImage, BuildError> {
        let failed = |source| unresolved(request, source);
        let manifest = select(&*source, resolved, &request.platform).await.map_err(failed)?;
        let manifest =
            manifest.ok_or_else(|| unusable(request, format!("it has no image for {}", request.platform)))?;
        let config = source.manifest(&manifest.value().config).await.map_err(failed)?;
        let config =
            Raw::<ImageConfig>::parse(config).map_err(|error| unusable(request, error.to_string()))?;
        let digest = Some(manifest.digest());
        let image = Image::from_parts(manifest.into_value(), config.into_value());
        let image = image.map_err(|error| unusable(request, error.to_string()))?;
        Ok(BaseImage { request: request.clone(), digest, image, origin: Origin::Blobs(source) })
    }
}

impl BaseImage {
    /// Those of `layers` that are the image's.
    pub(crate) fn own_layers(&self, layers: &[Layer]) -> Vec<Layer> {
        let own = |layer: &&Layer| self.image.layers.iter().any(|own| own.digest == layer.descriptor.digest);
        layers.iter().filter(own).cloned().collect()
    }

    /// Brings layers into the store that it lacks, several at once, each verified.
    pub(crate) async fn fetch(
        &self,
        store: &Store,
        layers: &[Layer],
        on_event: &OnEvent,
    ) -> Result<(), StoreError> {
        let Origin::Blobs(source) = &self.origin else { return Ok(()) };
        let fetch = async |layer: &Layer| {
            let descriptor = &layer.descriptor;
            if store.exists(descriptor).await? {
                return Ok(());
            }
            on_event(self.transfer(descriptor, TransferState::Running));
            let content = source.content(descriptor).await?;
            store.push(descriptor, content).await?;
            on_event(self.transfer(descriptor, TransferState::Finished));
            Ok(())
        };
        stream::iter(layers.iter().map(fetch)).buffer_unordered(PARALLEL_FETCHES).try_collect().await
    }
}

impl BaseImage {
    fn transfer(&self, descriptor: &Descriptor, state: TransferState) -> Event {
        let total = descriptor.size;
        let done = if state == TransferState::Finished { total } else { 0 };
        let image = self.request.name.clone();
        Event::Pull(Transfer { image, digest: descriptor.digest.to_string(), done, total, state })
    }
}

fn unresolved(request: &ImageRequest, source: StoreError) -> BuildError {
    BuildError::Resolve(Box::new(Unresolved { name: request.name.clone(), place: None, source }))
}

fn unusable(request: &ImageRequest, reason: String) -> BuildError {
    BuildError::Base { name: request.name.clone(), reason, place: None }
}

/// Whether a manifest or index is for a platform, as far as can be told without its config.
fn offers(resolved: &Resolved, platform: &Platform) -> bool {
    let Resolved { descriptor, bytes } = resolved;
    match ManifestOrIndex::parse(&descriptor.media_type, bytes.clone()) {
        Ok(ManifestOrIndex::Index(index)) => platform.select(&index.value().manifests).is_some(),
        _ => platform.select(std::slice::from_ref(descriptor)).is_some(),
    }
}

fn without_blobs(request: &ImageRequest, origin: Origin) -> BaseImage {
    let image = Image { config: directory_config(&request.platform), ..Image::scratch(&request.platform) };
    BaseImage { request: request.clone(), digest: None, image, origin }
}

fn from_layout(dir: &Path, image: &LayoutImage) -> Result<(Arc<dyn Source>, Resolved), StoreError> {
    let layout = Layout::open(dir)?;
    let descriptor = match image {
        LayoutImage::Only => layout.by_tag(None)?,
        LayoutImage::Tag(tag) => layout.by_tag(Some(tag))?,
        LayoutImage::Digest(digest) => {
            let listed = layout.descriptors()?.into_iter().find(|descriptor| descriptor.digest == *digest);
            listed.ok_or_else(|| {
                StoreError::new(StoreErrorKind::NotFound, format!("no image {digest} in {}", dir.display()))
            })?
        }
    };
    let bytes = layout.read(&descriptor)?;
    Ok((Arc::new(layout), Resolved { descriptor, bytes }))
}

/// The manifest for a platform; none when an index has no match.
async fn select(
    source: &dyn Source,
    resolved: Resolved,
    platform: &Platform,
) -> Result<Option<Raw<Manifest>>, StoreError> {
    let malformed = |error| StoreError::new(StoreErrorKind::Other, "malformed manifest").with_source(error);
    let (mut media_type, mut bytes) = (resolved.descriptor.media_type, resolved.bytes);
    // An index may list an index; two levels occur in the wild.
    for _ in 0..3 {
        match ManifestOrIndex::parse(&media_type, bytes).map_err(malformed)? {
            ManifestOrIndex::Manifest(manifest) => return Ok(Some(manifest)),
            ManifestOrIndex::Index(index) => {
                let Some(selected) = platform.select(&index.value().manifests) else { return Ok(None) };
                bytes = source.manifest(selected).await?;
                media_type.clone_from(&selected.media_type);
            }
        }
    }
    Ok(None)
}
