//! The Dockerfile language: lines, instructions, expansion, ignore files and lint rules.
