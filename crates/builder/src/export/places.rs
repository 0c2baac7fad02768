//! Which repositories hold a layer, as far as was seen when it was pushed: their registry takes it over from there
//! instead of being sent it again.

use rbuild_image::{Descriptor, Digest, Reference};
use rbuild_layers::Store;

/// Layers that are remembered for one registry, the last pushed ones.
const MOST: usize = 2000;

/// Where the layers of one registry were pushed to, the last place last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    known: Vec<(Digest, Reference)>,
}

impl Places {
    /// Reads what is remembered of the registry of `name`; what cannot be read is forgotten.
    pub(crate) fn read(store: &Store, name: &Reference) -> Self {
        let text = store.cache_get(&key(name)).ok().flatten().unwrap_or_default();
        let known = String::from_utf8_lossy(&text).lines().filter_map(|line| parse(line, name)).collect();
        Self { known }
    }

    /// Returns the repository that a layer was last pushed to.
    pub(crate) fn of(&self, digest: &Digest) -> Option<&Reference> {
        self.known.iter().rev().find(|(known, _)| known == digest).map(|(_, place)| place)
    }

    /// Remembers that the repository of `name` has these layers now. What cannot be written is not remembered.
    pub(crate) fn add(mut self, layers: &[&Descriptor], name: &Reference, store: &Store) {
        let is_known = |layer: &&Descriptor| self.of(&layer.digest).is_some_and(|place| is_same(place, name));
        if layers.iter().all(is_known) {
            return;
        }
        self.known.retain(|(known, _)| layers.iter().all(|layer| layer.digest != *known));
        self.known.extend(layers.iter().map(|layer| (layer.digest, name.clone())));
        let line = |(digest, place): &(Digest, Reference)| format!("{digest} {}\n", place.repository());
        let surplus = self.known.len().saturating_sub(MOST);
        let text: String = self.known.iter().skip(surplus).map(line).collect();
        let _ = store.cache_put(&key(name), text.as_bytes());
    }
}

fn is_same(place: &Reference, name: &Reference) -> bool {
    (place.registry(), place.repository()) == (name.registry(), name.repository())
}

/// Registries have colons in their names, which a key cannot have.
fn key(name: &Reference) -> String {
    format!("pushed/{}", Digest::of(name.registry().as_bytes()).hex())
}

fn parse(line: &str, name: &Reference) -> Option<(Digest, Reference)> {
    let (digest, repository) = line.split_once(' ')?;
    let place = format!("{}/{repository}", name.registry());
    Some((digest.parse().ok()?, place.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_of_one_registry_and_the_last_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(&directory.path().join("store")).expect("a new store");
        let name = |text: &str| text.parse::<Reference>().expect("a sound name");
        let layers: Vec<_> = (0..=MOST).map(|n| Descriptor::of("layer", n.to_string().as_bytes())).collect();
        let (first, second) = (&layers[0], &layers[1]);
        let place = |registry: &str, layer: &Descriptor| {
            Places::read(&store, &name(registry)).of(&layer.digest).map(ToString::to_string)
        };
        let add = |at: &str, layers: &[&Descriptor]| {
            Places::read(&store, &name(at)).add(layers, &name(at), &store);
        };
        add("r.local:5000/a", &[first, second]);
        add("r.local:5000/b", &[second]);
        assert_eq!(place("r.local:5000/x", first).as_deref(), Some("r.local:5000/a:latest"));
        assert_eq!(place("r.local:5000/x", second).as_deref(), Some("r.local:5000/b:latest"));
        assert_eq!(place("r.local:5001/x", first), None);
        add("r.local:5000/c", &layers[1..].iter().collect::<Vec<_>>());
        assert_eq!(place("r.local:5000/x", first), None, "the oldest is forgotten");
    }
}
