//! Filesystem trees and OCI layers: rootfs access, tar, unpacking, changes, snapshots and the store.
