//! Dockerfile and context in, image out: plan, cache, execute, export.
