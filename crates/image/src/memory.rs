//! Images in memory, for tests and for what never needs a disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::io::AsyncReadExt as _;

use crate::digest::{Digest, Verified};
use crate::manifest::Descriptor;
use crate::reference::Reference;
use crate::store::{BytesContent, Content, Resolved, Sink, Source, StoreError, StoreErrorKind};

/// A store of blobs and names in memory; clones share their content.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Inside>>);

#[derive(Debug, Default)]
struct Inside {
    blobs: BTreeMap<Digest, Bytes>,
    names: BTreeMap<String, Descriptor>,
}

impl Memory {
    /// Makes an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores `bytes` and returns their digest.
    pub fn put(&self, bytes: Bytes) -> Digest {
        let digest = Digest::of(&bytes);
        self.inside().blobs.insert(digest, bytes);
        digest
    }

    /// Returns the blob of `digest`.
    pub fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.inside().blobs.get(digest).cloned()
    }

    /// Lists names, in full form, and what they stand for.
    pub fn names(&self) -> BTreeMap<String, Descriptor> {
        self.inside().names.clone()
    }

    /// A panic elsewhere leaves the maps whole, since each change is one call; so poison is no reason to stop.
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, descriptor: &Descriptor) -> Result<Bytes, StoreError> {
        let bytes = self.get(&descriptor.digest).ok_or_else(|| {
            StoreError::new(StoreErrorKind::NotFound, format!("no content {}", descriptor.digest))
        })?;
        match bytes.len() as u64 == descriptor.size {
            true => Ok(bytes),
            false => Err(corrupt(descriptor, None)),
        }
    }

    fn put_verified(&self, descriptor: &Descriptor, bytes: Bytes) -> Result<(), StoreError> {
        let actual = Digest::of(&bytes);
        if actual != descriptor.digest || bytes.len() as u64 != descriptor.size {
            return Err(corrupt(descriptor, Some(actual)));
        }
        self.put(bytes);
        Ok(())
    }
}

fn corrupt(descriptor: &Descriptor, actual: Option<Digest>) -> StoreError {
    let kind = StoreErrorKind::Corrupt { expected: descriptor.digest, actual };
    StoreError::new(kind, format!("content is not {} of {} bytes", descriptor.digest, descriptor.size))
}

impl Source for Memory {
    fn resolve<'a>(&'a self, name: &'a Reference) -> BoxFuture<'a, Result<Resolved, StoreError>> {
        Box::pin(async move {
            let by_digest = |descriptors: &BTreeMap<String, Descriptor>, digest| {
                descriptors.values().find(|d| d.digest == digest).cloned()
            };
            let descriptor = match name.digest() {
                Some(digest) => by_digest(&self.inside().names, digest),
                None => self.inside().names.get(&name.to_string()).cloned(),
            };
            let missing = || StoreError::new(StoreErrorKind::NotFound, format!("no image {name}"));
            let descriptor = descriptor.ok_or_else(missing)?;
            Ok(Resolved { bytes: self.read(&descriptor)?, descriptor })
        })
    }

    fn manifest<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move { self.read(descriptor) })
    }

    fn content<'a>(
        &'a self,
        descriptor: &'a Descriptor,
    ) -> BoxFuture<'a, Result<Arc<dyn Content>, StoreError>> {
        Box::pin(async move { Ok(Arc::new(BytesContent(self.read(descriptor)?)) as Arc<dyn Content>) })
    }
}

impl Sink for Memory {
    fn exists<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { Ok(self.get(&descriptor.digest).is_some()) })
    }

    fn push<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        content: Arc<dyn Content>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let failed = |error| StoreError::io(format!("cannot store blob {}", descriptor.digest), error);
            let reader = content.open(0).await.map_err(failed)?;
            let mut bytes = Vec::new();
            let mut reader = Verified::new(reader, descriptor.digest, descriptor.size);
            reader.read_to_end(&mut bytes).await.map_err(failed)?;
            self.put(bytes.into());
            Ok(())
        })
    }

    fn push_manifest<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.put_verified(descriptor, bytes) })
    }

    fn tag<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        bytes: Bytes,
        name: &'a Reference,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.put_verified(descriptor, bytes)?;
            self.inside().names.insert(name.to_string(), descriptor.clone());
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_and_digests_resolve() {
        let memory = Memory::new();
        let bytes = Bytes::from_static(b"{}");
        let descriptor = Descriptor::of("m", &bytes);
        memory.tag(&descriptor, bytes.clone(), &"a:1".parse().unwrap()).await.unwrap();
        for name in ["a:1".to_owned(), format!("a@{}", descriptor.digest)] {
            let resolved = memory.resolve(&name.parse().unwrap()).await.unwrap();
            assert_eq!(resolved, Resolved { descriptor: descriptor.clone(), bytes: bytes.clone() });
        }
        let error = memory.resolve(&"a:2".parse().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), &StoreErrorKind::NotFound);
    }

    #[tokio::test]
    async fn wrong_content_is_refused() {
        let memory = Memory::new();
        let descriptor = Descriptor::of("m", b"right");
        let wrong = Arc::new(BytesContent(Bytes::from_static(b"wrong")));
        let error = memory.push(&descriptor, wrong).await.unwrap_err();
        assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }));
        assert!(!memory.exists(&descriptor).await.unwrap());
    }
}
