//! The store as a place images come from and go to: its layout, which is the same directory.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rbuild_image::{Content, Descriptor, Reference, Resolved, Sink, Source, StoreError};

use super::Store;

impl Source for Store {
    fn resolve<'a>(&'a self, name: &'a Reference) -> BoxFuture<'a, Result<Resolved, StoreError>> {
        self.layout().resolve(name)
    }

    fn manifest<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        self.layout().manifest(descriptor)
    }

    fn content<'a>(
        &'a self,
        descriptor: &'a Descriptor,
    ) -> BoxFuture<'a, Result<Arc<dyn Content>, StoreError>> {
        self.layout().content(descriptor)
    }
}

impl Sink for Store {
    fn exists<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.layout().exists(descriptor)
    }

    fn push<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        content: Arc<dyn Content>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            // Who asks for a blob that is on its way waits for it; the layout finds it there then.
            let flight = self.flight(descriptor.digest);
            let _flight = flight.lock().await;
            self.layout().push(descriptor, content).await
        })
    }

    fn push_manifest<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.layout().push_manifest(descriptor, bytes)
    }

    fn tag<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        bytes: Bytes,
        name: &'a Reference,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.layout().tag(descriptor, bytes, name)
    }
}
