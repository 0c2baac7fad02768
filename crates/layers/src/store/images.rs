//! The store as a place images come from and go to: its layout, which is the same directory. What is asked for is kept
//! from garbage collection.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rbuild_image::{Content, Descriptor, Reference, Resolved, Sink, Source, StoreError, StoreErrorKind};

use super::Store;

impl Source for Store {
    fn resolve<'a>(&'a self, name: &'a Reference) -> BoxFuture<'a, Result<Resolved, StoreError>> {
        Box::pin(async move {
            let resolved = self.layout().resolve(name).await?;
            let _ = self.has_blob(&resolved.descriptor.digest);
            Ok(resolved)
        })
    }

    fn manifest<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        let _ = self.has_blob(&descriptor.digest);
        self.layout().manifest(descriptor)
    }

    fn content<'a>(
        &'a self,
        descriptor: &'a Descriptor,
    ) -> BoxFuture<'a, Result<Arc<dyn Content>, StoreError>> {
        let _ = self.has_blob(&descriptor.digest);
        self.layout().content(descriptor)
    }
}

impl Sink for Store {
    fn exists<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<bool, StoreError>> {
        let _ = self.has_blob(&descriptor.digest);
        self.layout().exists(descriptor)
    }

    fn push<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        content: Arc<dyn Content>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            // Who asks for a blob that is on its way waits for it, and finds it there then.
            let flight = self.flight(descriptor.digest);
            let _flight = flight.lock().await;
            if self.blob_size(&descriptor.digest) == Some(descriptor.size) {
                return Ok(());
            }
            let mut room = self.reserve(descriptor.size).map_err(|error| {
                let message = format!("cannot store blob {}", descriptor.digest);
                StoreError::new(StoreErrorKind::Other, message).with_source(error)
            })?;
            self.layout().push(descriptor, content).await?;
            room.is_kept = true;
            Ok(())
        })
    }

    fn push_manifest<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let _ = self.has_blob(&descriptor.digest);
        self.layout().push_manifest(descriptor, bytes)
    }

    fn tag<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        bytes: Bytes,
        name: &'a Reference,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let _ = self.has_blob(&descriptor.digest);
        self.layout().tag(descriptor, bytes, name)
    }
}
