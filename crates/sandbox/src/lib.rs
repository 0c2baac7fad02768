//! One process in one root filesystem, in the strongest isolation this host allows.
