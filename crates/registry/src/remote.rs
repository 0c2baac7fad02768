//! One repository of one registry, as a source and a sink of images.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rbuild_image::{Content, Descriptor, Digest, Reference, Resolved, Sink, Source, StoreError};
use reqwest::{Response, StatusCode};
use url::Url;

use crate::client::Client;
use crate::download::RemoteContent;
use crate::error::Error;
use crate::exchange::{Fetched, Request};
use crate::growing::Growing;
use crate::hosts::{Fallback, HostsError, Place, Plan, PullFromMirror};
use crate::mirrors;
use crate::retry::Temporary;
use crate::scope::Scopes;
use crate::token::{Access, Authenticator};
use crate::upload::Session;

/// A repository of a registry, made by [`Client::remote`]. Cheap to clone.
///
/// As a [`Source`] it asks for one manifest per name and streams blobs, taking up broken streams where they broke. As a
/// [`Sink`] it leaves the verification of blobs to the registry, which the distribution specification obliges to it.
#[derive(Clone)]
pub struct Remote {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    name: Reference,
    way: Result<Way, Arc<HostsError>>,
    /// Asked before this one, in order.
    mirrors: Vec<Mirror>,
    /// Whether this one is asked when the mirrors have nothing.
    fallback: Fallback,
    /// Upload sessions that registries opened instead of mounting a blob.
    sessions: Mutex<BTreeMap<Digest, Session>>,
}

/// The place itself, and who may see what there.
struct Way {
    place: Place,
    authenticator: Arc<Authenticator>,
}

/// Another place of the same repository, to pull from.
#[derive(Clone)]
pub(crate) struct Mirror {
    pub(crate) remote: Remote,
    pub(crate) pulls: PullFromMirror,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Remote").field(&self.shared.name).finish()
    }
}

impl Remote {
    pub(crate) fn new(client: &Client, name: &Reference, plan: Result<Plan, Arc<HostsError>>) -> Self {
        let bare = |way, mirrors, fallback| {
            let (client, name, sessions) = (client.clone(), name.clone(), Mutex::default());
            Self { shared: Arc::new(Shared { client, name, way, mirrors, fallback, sessions }) }
        };
        let way = |place: Place| Way { authenticator: client.authenticator(&place.home), place };
        match plan {
            Err(error) => bare(Err(error), Vec::new(), Fallback::Always),
            Ok(Plan { mirrors, origin, fallback }) => {
                let mirror = |place: Place| Mirror {
                    pulls: place.pulls,
                    remote: bare(Ok(way(place)), Vec::new(), Fallback::Always),
                };
                bare(Ok(way(origin)), mirrors.into_iter().map(mirror).collect(), fallback)
            }
        }
    }

    /// The client this repository is spoken to through.
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// The name this was made for.
    pub fn name(&self) -> &Reference {
        &self.shared.name
    }

    /// The repository as it is called at this place.
    pub(crate) fn repository(&self) -> &str {
        self.shared.way.as_ref().map_or(self.shared.name.repository(), |way| &way.place.repository)
    }

    pub(crate) fn authenticator(&self) -> Result<&Authenticator, Error> {
        Ok(&self.way()?.authenticator)
    }

    fn way(&self) -> Result<&Way, Error> {
        self.shared.way.as_ref().map_err(|error| Error::Hosts(error.clone()))
    }

    /// The places to pull from, in order, for what is named by a digest or by a tag. A mirror that could not be reached before is
    /// left out when the registry itself may be asked: each try costs some seconds.
    pub(crate) fn places(&self, has_digest: bool) -> Vec<&Self> {
        let unwanted = if has_digest { PullFromMirror::TagOnly } else { PullFromMirror::DigestOnly };
        let falls_back = self.shared.mirrors.is_empty() || self.shared.fallback == Fallback::Always;
        let fitting = self.shared.mirrors.iter().filter(|mirror| mirror.pulls != unwanted);
        let mirrors = fitting.map(|mirror| &mirror.remote);
        let worth_it = mirrors.filter(|mirror| !(falls_back && mirror.is_unreachable()));
        worth_it.chain(falls_back.then_some(self)).collect()
    }

    fn is_unreachable(&self) -> bool {
        self.shared.way.as_ref().is_ok_and(|way| way.authenticator.is_unreachable())
    }

    /// Remembers when an error means that the place cannot be reached.
    pub(crate) fn note(&self, error: &Error) {
        if let (Some(Temporary::Unreachable), Ok(way)) = (error.temporary(), &self.shared.way) {
            way.authenticator.note_unreachable();
        }
    }

    /// Sends a blob while it is still being written: one POST and one streamed PATCH, ended by a PUT once the digest is
    /// known. A broken stream goes on where the registry got to; a registry that does not take streams gets the
    /// blob when it is complete; one that has it by then is sent no more. Returns what the content became.
    ///
    /// # Errors
    /// As [`Sink::push`]; also when the writer gave up. Nothing is stored then, and the session expires.
    pub async fn push_growing(&self, content: Arc<dyn Growing>) -> Result<Descriptor, StoreError> {
        let name = &self.shared.name;
        let doing = format!("cannot push a layer to {}/{}", name.registry(), name.repository());
        self.upload_growing(content).await.map_err(|error| error.into_store(doing))
    }

    /// Asks the registry itself, never a mirror, which digest a name stands for, with a request that moves no content. None when it stands for
    /// nothing, or when the registry does not say.
    ///
    /// # Errors
    /// When the registry cannot be asked, or refuses.
    pub async fn digest_of(&self, name: &Reference) -> Result<Option<Digest>, StoreError> {
        match self.head_name(name).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(None),
            asked => asked.map_err(|error| error.into_store(format!("cannot look for {name}"))),
        }
    }

    /// Lists the manifests in this repository whose subject is `subject`, those of one artifact type if it is given. A
    /// registry without the referrers API is asked for the tag that clients keep instead.
    ///
    /// # Errors
    /// When the registry cannot be asked, or answers no index.
    ///
    /// # References
    /// OCI distribution specification 1.1, "Listing Referrers".
    pub async fn referrers(
        &self,
        subject: Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, StoreError> {
        let name = &self.shared.name;
        let doing =
            format!("cannot list referrers of {subject} in {}/{}", name.registry(), name.repository());
        let listed = self.list_referrers(subject, artifact_type).await;
        listed.map_err(|error| error.into_store(doing))
    }

    /// A URL below the repository: `path` is `manifests/latest`, `blobs/uploads/`.
    pub(crate) fn url(&self, path: &str) -> Result<Url, Error> {
        let place = &self.way()?.place;
        let joined = place.home.api.join(&format!("{}/{path}", place.repository));
        let mut url = joined.map_err(|_| Error::RegistryName(self.shared.name.registry().to_owned()))?;
        if let Some(namespace) = &place.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    pub(crate) fn pull_scopes(&self) -> Scopes {
        Scopes::pull(self.repository())
    }

    pub(crate) fn push_scopes(&self) -> Scopes {
        Scopes::push(self.repository())
    }

    fn access<'a>(&'a self, scopes: &'a Scopes) -> Access<'a> {
        Access { repository: self.repository(), scopes }
    }

    pub(crate) async fn attempt(&self, request: &Request, scopes: &Scopes) -> Result<Response, Error> {
        self.client().attempt(request, self.authenticator()?, self.access(scopes)).await
    }

    pub(crate) async fn send(&self, request: &Request, scopes: &Scopes) -> Result<Response, Error> {
        self.client().send(request, self.authenticator()?, self.access(scopes)).await
    }

    pub(crate) async fn fetch(
        &self,
        request: &Request,
        scopes: &Scopes,
        limit: u64,
    ) -> Result<Fetched, Error> {
        self.client().fetch(request, self.authenticator()?, self.access(scopes), limit).await
    }

    pub(crate) fn keep_session(&self, digest: Digest, session: Session) {
        self.shared.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, session);
    }

    pub(crate) fn take_session(&self, digest: &Digest) -> Option<Session> {
        self.shared.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(digest)
    }

    fn check_repository(&self, name: &Reference) -> Result<(), Error> {
        let own = &self.shared.name;
        if (own.registry(), own.repository()) == (name.registry(), name.repository()) {
            return Ok(());
        }
        let repository = format!("{}/{}", own.registry(), own.repository());
        Err(Error::OtherRepository { name: name.to_string(), repository })
    }

    async fn resolve_name(&self, name: &Reference) -> Result<Resolved, Error> {
        self.check_repository(name)?;
        let mut failures = mirrors::Failures::default();
        for place in self.places(name.digest().is_some()) {
            match place.get_manifest(name).await {
                Ok(resolved) => return Ok(resolved),
                Err(error) => {
                    place.note(&error);
                    failures.add(error);
                }
            }
        }
        Err(failures.into_error(self.name()))
    }

    async fn any_document(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let mut failures = mirrors::Failures::default();
        for place in self.places(true) {
            match place.get_document(descriptor).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => {
                    place.note(&error);
                    failures.add(error);
                }
            }
        }
        Err(failures.into_error(self.name()))
    }

    async fn head_name(&self, name: &Reference) -> Result<Option<Digest>, Error> {
        self.check_repository(name)?;
        self.head_manifest(&name.manifest_key()).await
    }

    async fn put_tag(&self, descriptor: &Descriptor, bytes: Bytes, name: &Reference) -> Result<(), Error> {
        self.check_repository(name)?;
        self.put_manifest(descriptor, bytes, name.tag().unwrap_or("latest")).await
    }
}

impl Source for Remote {
    fn resolve<'a>(&'a self, name: &'a Reference) -> BoxFuture<'a, Result<Resolved, StoreError>> {
        Box::pin(async move {
            let resolved = self.resolve_name(name).await;
            resolved.map_err(|error| error.into_store(format!("cannot resolve {name}")))
        })
    }

    fn manifest<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let fetched = self.any_document(descriptor).await;
            fetched.map_err(|error| error.into_store(self.doing("fetch", descriptor)))
        })
    }

    /// Never fails: a missing blob is found out when the content is opened.
    fn content<'a>(
        &'a self,
        descriptor: &'a Descriptor,
    ) -> BoxFuture<'a, Result<Arc<dyn Content>, StoreError>> {
        let open =
            |remote: &Self| Arc::new(RemoteContent::new(remote.clone(), descriptor)) as Arc<dyn Content>;
        let mut places: Vec<Arc<dyn Content>> = self.places(true).into_iter().map(open).collect();
        let content = match places.pop() {
            Some(only) if places.is_empty() => only,
            last => Arc::new(mirrors::FirstOf::new(self.name(), places.into_iter().chain(last).collect())),
        };
        Box::pin(async move { Ok(content) })
    }

    fn origins(&self, _blob: &Descriptor) -> Vec<Reference> {
        vec![self.shared.name.clone()]
    }
}

impl Sink for Remote {
    fn exists<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            match self.head(descriptor).await {
                Ok(()) => Ok(true),
                Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(false),
                Err(error) => Err(error.into_store(self.doing("look for", descriptor))),
            }
        })
    }

    fn push<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        content: Arc<dyn Content>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let uploaded = self.upload(descriptor, content).await;
            uploaded.map_err(|error| error.into_store(self.doing("push", descriptor)))
        })
    }

    fn push_manifest<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let put = self.put_manifest(descriptor, bytes, &descriptor.digest.to_string()).await;
            put.map_err(|error| error.into_store(self.doing("push", descriptor)))
        })
    }

    fn mount<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        from: &'a Reference,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            let mounted = self.mount_from(descriptor, from).await;
            mounted.map_err(|error| error.into_store(self.doing("mount", descriptor)))
        })
    }

    fn tag<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        bytes: Bytes,
        name: &'a Reference,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let tagged = self.put_tag(descriptor, bytes, name).await;
            tagged.map_err(|error| error.into_store(format!("cannot tag {name}")))
        })
    }
}

impl Remote {
    fn doing(&self, verb: &str, descriptor: &Descriptor) -> String {
        let name = &self.shared.name;
        format!("cannot {verb} {} in {}/{}", descriptor.digest, name.registry(), name.repository())
    }
}
