//! A finished image as a source: new blobs from the store, base layers from where they are.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rbuild_image::{
    BytesContent, Content, Descriptor, Reference, Resolved, Source, StoreError, StoreErrorKind,
};
use rbuild_layers::Store;

use super::{Places, Product};
use crate::cache::remote::RemoteCache;
use crate::images::Origin;

/// A finished product whose blobs need not be in one place.
pub(crate) struct Assembled<'a> {
    pub product: &'a Product,
    pub store: &'a Store,
    /// Where layers of steps are that nobody fetched.
    pub elsewhere: &'a RemoteCache,
    /// Where layers are that were pushed before.
    pub places: Places,
}

impl Assembled<'_> {
    fn own_document(&self, descriptor: &Descriptor) -> Option<Bytes> {
        self.product.document(&descriptor.digest).cloned()
    }

    fn base_of(&self, descriptor: &Descriptor) -> Option<&Arc<dyn Source>> {
        let mut bases = self.product.images.iter().flat_map(|image| &image.stage.bases);
        bases.find_map(|base| match &base.origin {
            Origin::Blobs(source) if base.image.layers.iter().any(|own| own.digest == descriptor.digest) => {
                Some(source)
            }
            _ => None,
        })
    }
}

impl Source for Assembled<'_> {
    fn resolve<'a>(&'a self, _name: &'a Reference) -> BoxFuture<'a, Result<Resolved, StoreError>> {
        Box::pin(async { Ok(self.product.root()) })
    }

    fn manifest<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            match self.own_document(descriptor) {
                Some(bytes) => Ok(bytes),
                None => self.store.manifest(descriptor).await,
            }
        })
    }

    fn content<'a>(
        &'a self,
        descriptor: &'a Descriptor,
    ) -> BoxFuture<'a, Result<Arc<dyn Content>, StoreError>> {
        Box::pin(async move {
            if let Some(bytes) = self.own_document(descriptor) {
                return Ok(Arc::new(BytesContent(bytes)) as Arc<dyn Content>);
            }
            if self.store.has_blob(&descriptor.digest) {
                return self.store.content(descriptor).await;
            }
            let missing = || {
                let message = format!("blob {} is nowhere to be found", descriptor.digest);
                StoreError::new(StoreErrorKind::NotFound, message)
            };
            let elsewhere = || self.elsewhere.source_of(&descriptor.digest);
            self.base_of(descriptor).or_else(elsewhere).ok_or_else(missing)?.content(descriptor).await
        })
    }

    fn origins(&self, blob: &Descriptor) -> Vec<Reference> {
        let base = self.base_of(blob).map(|source| source.origins(blob)).unwrap_or_default();
        let places = self.places.of(&blob.digest).cloned();
        base.into_iter().chain(places).chain(self.elsewhere.origins(blob)).collect()
    }
}
