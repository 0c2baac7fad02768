//! From actions to a BPF program.
//!
//! The calls of an architecture are merged into ranges of equal action, which a binary search tells apart: about
//! eight comparisons for any call. (The kernel caches calls that are always allowed, so only the others pay.)
//!
//! # References
//! seccomp(2), `struct seccomp_data`; <linux/bpf_common.h>

use libc::sock_filter;

use super::{Abi, Action, Condition, ENOSYS, EPERM, Test};

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const IF_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;

/// Offsets into `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const fn code(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Makes a test that skips `no` instructions when it does not hold.
const fn test(code: u16, k: u32, no: u8) -> sock_filter {
    sock_filter { code, jt: 0, jf: no, k }
}

/// Compiles one program for all `abis`; a call of another architecture is answered with ENOSYS.
pub(super) fn compile(abis: &[Abi]) -> Vec<sock_filter> {
    let mut program = vec![code(LOAD, ARCH)];
    for abi in abis {
        let mut section = vec![code(LOAD, NUMBER)];
        section.extend(search(&ranges(abi)));
        program.push(test(IF_EQUAL, abi.audit, 1));
        program.push(code(JUMP, 1));
        program.push(code(JUMP, length(&section)));
        program.extend(section);
    }
    program.push(refuse(ENOSYS));
    program
}

/// Returns where each run of equal actions starts; the first starts at 0.
fn ranges(abi: &Abi) -> Vec<(u32, Action)> {
    let mut starts = vec![(0, abi.action(0))];
    for &(number, _) in &abi.calls {
        for number in [number, number.saturating_add(1)] {
            let action = abi.action(number);
            if starts.last().is_none_or(|last| last.1 != action) {
                starts.push((number, action));
            }
        }
    }
    starts
}

/// Compiles a binary search for the range the loaded number is in.
fn search(ranges: &[(u32, Action)]) -> Vec<sock_filter> {
    match ranges {
        [] => vec![refuse(EPERM)],
        [(_, action)] => leaf(*action),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let pivot = high.first().map_or(0, |range| range.0);
            let low = search(low);
            // Conditional jumps reach 255 instructions, unconditional ones any number.
            let mut node = vec![test(IF_AT_LEAST, pivot, 1), code(JUMP, length(&low))];
            node.extend(low);
            node.extend(search(high));
            node
        }
    }
}

fn leaf(action: Action) -> Vec<sock_filter> {
    match action {
        Action::Allow => vec![code(RETURN, RET_ALLOW)],
        Action::Errno(errno) => vec![refuse(errno)],
        Action::Notify => vec![code(RETURN, RET_USER_NOTIF)],
        Action::When(condition) => choose(condition),
    }
}

/// Compiles a choice by the low half of an argument (both architectures are little-endian).
fn choose(condition: &Condition) -> Vec<sock_filter> {
    let mut program = vec![code(LOAD, ARGUMENTS + 8 * u32::from(condition.argument))];
    let (jump, values) = match &condition.test {
        Test::OneOf(values) => (IF_EQUAL, *values),
        Test::AnyBit(bits) => (IF_ANY_BIT, std::slice::from_ref(bits)),
        Test::Masked(mask, values) => {
            program.push(code(AND, *mask));
            (IF_EQUAL, *values)
        }
    };
    let then = leaf(condition.then);
    for &value in values {
        program.push(test(jump, value, 1));
        program.push(code(JUMP, 1));
        // Where the test does not hold: on to the next value.
        program.push(code(JUMP, length(&then)));
        program.extend_from_slice(&then);
    }
    program.extend(leaf(condition.otherwise));
    program
}

const fn refuse(errno: u16) -> sock_filter {
    code(RETURN, RET_ERRNO | errno as u32)
}

/// Returns a length as a jump distance; the kernel bounds programs to 4096 instructions.
fn length(code: &[sock_filter]) -> u32 {
    u32::try_from(code.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    /// Runs a program on a call, as the kernel would.
    fn run(program: &[sock_filter], arch: u32, number: u32, arguments: [u32; 4]) -> u32 {
        let (mut at, mut register) = (0usize, 0u32);
        loop {
            let instruction = program[at];
            at += 1;
            let holds = match instruction.code {
                IF_EQUAL => register == instruction.k,
                IF_AT_LEAST => register >= instruction.k,
                IF_ANY_BIT => register & instruction.k != 0,
                LOAD => {
                    register = match instruction.k {
                        NUMBER => number,
                        ARCH => arch,
                        offset => arguments[((offset - ARGUMENTS) / 8) as usize],
                    };
                    continue;
                }
                AND => {
                    register &= instruction.k;
                    continue;
                }
                JUMP => {
                    at += instruction.k as usize;
                    continue;
                }
                RETURN => return instruction.k,
                other => panic!("unknown instruction {other:#x}"),
            };
            at += usize::from(if holds { instruction.jt } else { instruction.jf });
        }
    }

    fn compiled() -> (Vec<Abi>, Vec<sock_filter>) {
        let abis: Vec<Abi> = [Column::X86_64, Column::I386, Column::Aarch64, Column::Arm]
            .into_iter()
            .map(|column| parse(TABLE, column, &[]).unwrap())
            .collect();
        let program = compile(&abis);
        (abis, program)
    }

    #[test]
    fn every_number_gets_its_action() {
        let (abis, program) = compiled();
        assert!(program.len() < 4096, "{}", program.len());
        for abi in &abis {
            for number in (0..1000).chain([0xf_0002, 0xf_0005, 0xf_0006, 0x4000_0001, u32::MAX]) {
                let result = run(&program, abi.audit, number, [0; 4]);
                match abi.action(number) {
                    Action::Allow => assert_eq!(result, RET_ALLOW, "{number}"),
                    Action::Errno(errno) => assert_eq!(result, RET_ERRNO | u32::from(errno), "{number}"),
                    Action::Notify => assert_eq!(result, RET_USER_NOTIF, "{number}"),
                    Action::When(_) => {}
                }
            }
        }
        assert_eq!(run(&program, 0xc000_00f3, 0, [0; 4]), RET_ERRNO | u32::from(ENOSYS));
    }

    #[test]
    fn conditions() {
        let (_, program) = compiled();
        let x86_64 = Column::X86_64.audit();
        let check = |number, arguments, expect: Option<u32>| {
            let expect = expect.map_or(RET_ALLOW, |errno| RET_ERRNO | errno);
            assert_eq!(run(&program, x86_64, number, arguments), expect, "{number} {arguments:x?}");
        };
        check(56, [0x11, 0, 0, 0], None); // clone: SIGCHLD
        check(56, [0x1000_0011, 0, 0, 0], Some(1)); // CLONE_NEWUSER
        check(56, [0x0002_0011, 0, 0, 0], Some(1)); // CLONE_NEWNS
        check(56, [0x003d_0f00, 0, 0, 0], None); // a thread
        check(41, [2, 1, 0, 0], None); // socket: AF_INET
        check(41, [16, 3, 0, 0], None); // AF_NETLINK
        check(41, [38, 5, 0, 0], Some(1)); // AF_ALG
        check(41, [39, 5, 0, 0], None);
        check(41, [40, 1, 0, 0], Some(1)); // AF_VSOCK
        check(135, [0, 0, 0, 0], None); // personality
        check(135, [0xffff_ffff, 0, 0, 0], None);
        check(135, [0x0040_0000, 0, 0, 0], Some(1)); // ADDR_NO_RANDOMIZE
        check(26, [0, 4096, 1, 0], None); // msync: MS_ASYNC
        check(26, [0, 4096, 4, 0], Some(0)); // MS_SYNC
        check(133, [0, 0o100_644, 0xfe00, 0], None); // mknod: a regular file
        check(133, [0, 0o010_644, 0, 0], None); // a fifo
        check(133, [0, 0o020_666, 0x103, 0], None); // null
        check(133, [0, 0o020_666, 0, 0], None); // a whiteout
        check(133, [0, 0o020_666, 0x101, 0], Some(1)); // mem
        check(133, [0, 0o060_660, 0xfe00, 0], Some(1)); // a disk
        check(259, [0, 0, 0o060_660, 0], Some(1)); // mknodat
        check(259, [0, 0, 0o020_666, 0x103], None);
        check(259, [0, 0, 0o020_666, 0x10b], Some(1)); // kmsg
    }
}
