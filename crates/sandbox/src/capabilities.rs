//! The capabilities of a step: Docker's default set.

use rustix::io::Result;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

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

/// Removes everything but [`DEFAULT`] from the bounding set, and empties the ambient set.
pub(crate) fn bound() -> Result<()> {
    // Linux 6.18 knows 41 capabilities; a number it does not know is EINVAL and ends the loop.
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if DEFAULT.contains(capability) {
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

/// Reduces the calling thread to [`DEFAULT`], as far as it has it.
///
/// The inheritable set is left empty, as Docker does since CVE-2022-24769: a program with inheritable file
/// capabilities would otherwise gain them.
pub(crate) fn reduce() -> Result<()> {
    let kept = DEFAULT.intersection(capabilities(None)?.permitted);
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
