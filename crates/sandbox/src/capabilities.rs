//! The capabilities of a step: Docker's default set.

use rustix::io::Result;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// The bits of single capabilities, for the emulation of identities.
pub(crate) const CHOWN: u64 = CapabilitySet::CHOWN.bits();
pub(crate) const DAC_OVERRIDE: u64 = CapabilitySet::DAC_OVERRIDE.bits();
pub(crate) const FOWNER: u64 = CapabilitySet::FOWNER.bits();
pub(crate) const FSETID: u64 = CapabilitySet::FSETID.bits();
pub(crate) const SETGID: u64 = CapabilitySet::SETGID.bits();
pub(crate) const SETUID: u64 = CapabilitySet::SETUID.bits();
pub(crate) const SETPCAP: u64 = CapabilitySet::SETPCAP.bits();
pub(crate) const MKNOD: u64 = CapabilitySet::MKNOD.bits();

/// What a step may have: all of it as user 0, and at most that through a set-id program.
pub(crate) const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP);

/// What a step in a changed root may have: with CAP_SYS_CHROOT it could change it again, and be outside.
pub(crate) const IN_CHANGED_ROOT: CapabilitySet = DEFAULT.difference(CapabilitySet::SYS_CHROOT);

/// Removes everything but `kept` from the bounding set, and empties the ambient set.
pub(crate) fn bound(kept: CapabilitySet) -> Result<()> {
    // Linux 6.18 knows 41 capabilities; a number it does not know is EINVAL and ends the loop.
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    clear_ambient_capability_set()
}

/// Reduces the calling thread to `kept`, as far as it has it.
///
/// The inheritable set is left empty, as Docker does since CVE-2022-24769: a program with inheritable file
/// capabilities would otherwise gain them.
pub(crate) fn reduce(kept: CapabilitySet) -> Result<()> {
    let kept = kept.intersection(capabilities(None)?.permitted);
    set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_set_is_docker_s() {
        assert_eq!(DEFAULT.bits(), 0x0000_0000_a804_25fb);
    }
}
