//! OCI images as values: digests, references, manifests, configs and their local forms.
