//! A program for another machine, small enough to be written by hand.

/// What [`program`] prints.
pub(crate) const GREETING: &str = "hello from arm64\n";

/// A static ELF executable for arm64 Linux that writes [`GREETING`] and exits.
///
/// # References
/// elf(5); Arm Architecture Reference Manual, C6.2 (MOVZ, ADR, SVC)
pub(crate) fn program() -> Vec<u8> {
    const HEADERS: u16 = 64 + 56;
    const BASE: u64 = 0x40_0000;
    let length = u32::try_from(GREETING.len()).expect("a short text");
    let code: [u32; 8] = [
        0xd280_0020,               // mov x0, #1
        0x1000_00e1,               // adr x1, to what follows the code
        0xd280_0002 | length << 5, // mov x2, #length
        0xd280_0808,               // mov x8, #64 (write)
        0xd400_0001,               // svc #0
        0xd280_0000,               // mov x0, #0
        0xd280_0ba8,               // mov x8, #93 (exit)
        0xd400_0001,               // svc #0
    ];
    let size = u64::from(HEADERS) + 4 * code.len() as u64 + GREETING.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut half = |value: u16| elf.extend(value.to_le_bytes());
    // An executable (2) for AArch64 (183), version 1.
    [2, 183, 1, 0].into_iter().for_each(&mut half);
    // Entry point, program headers, no section headers; flags; sizes and counts.
    let wide = [BASE + u64::from(HEADERS), 64, 0];
    elf.extend(wide.into_iter().flat_map(u64::to_le_bytes));
    elf.extend([0, 0, 64, 56, 1, 0, 0, 0].into_iter().flat_map(u16::to_le_bytes));
    // One segment to load (1), to be read and executed (5).
    elf.extend([1_u32, 5].into_iter().flat_map(u32::to_le_bytes));
    elf.extend([0, BASE, BASE, size, size, 0x1000].into_iter().flat_map(u64::to_le_bytes));
    elf.extend(code.into_iter().flat_map(u32::to_le_bytes));
    elf.extend(GREETING.as_bytes());
    elf
}
