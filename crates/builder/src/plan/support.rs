//! What is parsed but cannot be executed yet.
