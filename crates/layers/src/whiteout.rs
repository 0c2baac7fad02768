//! How layers say that something is gone: whiteout names.
