//! Driving another process: a thread whose call waits for an answer is stopped, makes other calls in its place, and
//! goes on as if nothing had happened. It is a debugger's means, taken for that moment only.
//!
//! # References
//! ptrace(2)

use std::ptr;

use rustix::io::{Errno, Result};
use rustix::process::Pid;

use super::check;

const GETREGSET: u64 = 0x4204;
const SETREGSET: u64 = 0x4205;
const SEIZE: u64 = 0x4206;
const INTERRUPT: u64 = 0x4207;
const GETSIGMASK: u64 = 0x420a;
const SETSIGMASK: u64 = 0x420b;
const SYSCALL: u64 = 24;
const DETACH: u64 = 17;

const TRACESYSGOOD: u64 = 1;
const TRACEEXEC: u64 = 1 << 4;
const NT_PRSTATUS: u64 = 1;
const EVENT_EXEC: i32 = 4;
const EVENT_STOP: i32 = 128;
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
const MASK_SIZE: u64 = 8;

/// Why a driven thread stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Call,
    Exec,
    Signal(i32),
}

/// A thread that is driven. It is let go when this is dropped, wherever it stands.
#[derive(Debug)]
pub(crate) struct Driven {
    thread: Pid,
    registers: Registers,
    mask: u64,
    released: bool,
}

impl Driven {
    /// Takes hold of a thread whose call waits; `release` answers the call, which returns only when the thread is
    /// driven no more.
    ///
    /// # Errors
    /// EPERM when it is debugged already, or nobody may debug it; ESRCH when it has died.
    pub(crate) fn take(thread: Pid, release: impl FnOnce() -> Result<()>) -> Result<Self> {
        request(SEIZE, thread, 0, TRACESYSGOOD | TRACEEXEC)?;
        let mut driven = Self { thread, registers: Registers::zero(), mask: 0, released: false };
        request(INTERRUPT, thread, 0, 0)?;
        // Before Linux 5.19 the interruption has ended the call already.
        let _ = release();
        loop {
            match driven.wait(thread)? {
                Stop::Signal(0) => break,
                Stop::Signal(signal) => driven.resume(signal)?,
                Stop::Call | Stop::Exec => driven.resume(0)?,
            }
        }
        driven.registers = Registers::of(thread)?;
        request(GETSIGMASK, thread, MASK_SIZE, (&raw mut driven.mask).expose_provenance() as u64)?;
        // No handler may run among calls that are not its own.
        driven.set_mask(u64::MAX)?;
        Ok(driven)
    }

    /// Makes the thread make a call; returns what that returned.
    pub(crate) fn call(&mut self, number: libc::c_long, arguments: [u64; 6]) -> Result<i64> {
        self.start(number, arguments)?;
        self.advance()?;
        match self.advance()? {
            Stop::Call => Ok(Registers::of(self.thread)?.result()),
            _ => Err(Errno::SRCH),
        }
    }

    /// Makes the thread make a call and does not wait for its end; the thread goes on with what that returns.
    pub(crate) fn leave_in(mut self, number: libc::c_long, arguments: [u64; 6]) -> Result<()> {
        self.start(number, arguments)?;
        self.advance()?;
        self.set_mask(self.mask)?;
        self.released = true;
        request(DETACH, self.thread, 0, 0).map(drop)
    }

    /// Makes the thread execute a program, by a call whose arguments are those of execve. `executed` is called with the
    /// process when it has, and before it runs.
    ///
    /// # Errors
    /// Those of execve, after which the thread has gone on with that error.
    pub(crate) fn execute(
        mut self,
        number: libc::c_long,
        arguments: [u64; 6],
        executed: impl FnOnce(Pid),
    ) -> Result<()> {
        self.start(number, arguments)?;
        self.advance()?;
        match self.advance()? {
            Stop::Exec => {
                executed(self.thread);
                self.set_mask(self.mask)?;
                self.released = true;
                request(DETACH, self.thread, 0, 0).map(drop)
            }
            _ => {
                let result = Registers::of(self.thread)?.result();
                self.finish(result)
            }
        }
    }

    /// Lets the thread go on: the call that waited returns `result`.
    pub(crate) fn finish(mut self, result: i64) -> Result<()> {
        self.let_go(result)
    }

    fn let_go(&mut self, result: i64) -> Result<()> {
        self.released = true;
        self.registers.returning(result).set(self.thread)?;
        self.set_mask(self.mask)?;
        request(DETACH, self.thread, 0, 0).map(drop)
    }

    fn start(&self, number: libc::c_long, arguments: [u64; 6]) -> Result<()> {
        self.registers.calling(number, arguments).set(self.thread)
    }

    /// Lets the thread run to the next end or beginning of a call, or into a new program.
    fn advance(&mut self) -> Result<Stop> {
        self.resume(0)?;
        loop {
            // Who executes takes the number of its process.
            match self.wait_for_any()? {
                Stop::Signal(signal) => self.resume(signal)?,
                stop => return Ok(stop),
            }
        }
    }

    fn resume(&self, signal: i32) -> Result<()> {
        request(SYSCALL, self.thread, 0, u64::from(signal.cast_unsigned())).map(drop)
    }

    fn set_mask(&self, mask: u64) -> Result<()> {
        request(SETSIGMASK, self.thread, MASK_SIZE, (&raw const mask).expose_provenance() as u64).map(drop)
    }

    fn wait_for_any(&mut self) -> Result<Stop> {
        let (thread, status) = wait(-1)?;
        self.thread = thread;
        self.stop_of(status)
    }

    fn wait(&mut self, thread: Pid) -> Result<Stop> {
        let (_, status) = wait(thread.as_raw_nonzero().get())?;
        self.stop_of(status)
    }

    fn stop_of(&mut self, status: i32) -> Result<Stop> {
        if !libc::WIFSTOPPED(status) {
            self.released = true;
            return Err(Errno::SRCH);
        }
        Ok(match (status >> 16, libc::WSTOPSIG(status)) {
            (EVENT_EXEC, _) => Stop::Exec,
            (EVENT_STOP, _) => Stop::Signal(0),
            (_, SYSCALL_STOP) => Stop::Call,
            (_, signal) => Stop::Signal(signal),
        })
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        if !self.released {
            let _ = self.let_go(-i64::from(libc::EIO));
        }
    }
}

/// Waits for a thread that this one debugs.
fn wait(which: i32) -> Result<(Pid, i32)> {
    let mut status = 0;
    let options = libc::__WALL | libc::__WNOTHREAD;
    loop {
        // SAFETY: the kernel writes one live integer; a null usage is not written.
        let waited = check(unsafe {
            libc::syscall(libc::SYS_wait4, which, &raw mut status, options, ptr::null::<libc::rusage>())
        });
        match waited {
            Err(Errno::INTR) => {}
            waited => {
                let pid = i32::try_from(waited?).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
                return Ok((pid, status));
            }
        }
    }
}

/// Makes a request whose address and data are numbers, or addresses of live memory as large as the request wants.
fn request(request: u64, thread: Pid, address: u64, data: u64) -> Result<()> {
    // SAFETY: by this function's contract, which its few callers in this file keep.
    check(unsafe { libc::syscall(libc::SYS_ptrace, request, thread.as_raw_nonzero().get(), address, data) })
        .map(drop)
}

/// The registers of a stopped thread.
#[derive(Clone, Copy)]
struct Registers(libc::user_regs_struct);

impl std::fmt::Debug for Registers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registers")
    }
}

impl Registers {
    fn zero() -> Self {
        // SAFETY: plain integers.
        Self(unsafe { std::mem::zeroed() })
    }

    fn of(thread: Pid) -> Result<Self> {
        let mut registers = Self::zero();
        let mut vector = libc::iovec {
            iov_base: (&raw mut registers.0).cast(),
            iov_len: size_of::<libc::user_regs_struct>(),
        };
        request(GETREGSET, thread, NT_PRSTATUS, (&raw mut vector).expose_provenance() as u64)?;
        Ok(registers)
    }

    fn set(mut self, thread: Pid) -> Result<()> {
        let mut vector =
            libc::iovec { iov_base: (&raw mut self.0).cast(), iov_len: size_of::<libc::user_regs_struct>() };
        request(SETREGSET, thread, NT_PRSTATUS, (&raw mut vector).expose_provenance() as u64)
    }
}

#[cfg(target_arch = "x86_64")]
impl Registers {
    /// Returns what the registers have to be for the call that was made last to be made again, as another one.
    const fn calling(mut self, number: libc::c_long, arguments: [u64; 6]) -> Self {
        const INSTRUCTION: u64 = 2;
        let [first, second, third, fourth, fifth, sixth] = arguments;
        self.0.rip = self.0.rip.wrapping_sub(INSTRUCTION);
        self.0.rax = number.cast_unsigned();
        self.0.orig_rax = u64::MAX;
        (self.0.rdi, self.0.rsi, self.0.rdx) = (first, second, third);
        (self.0.r10, self.0.r8, self.0.r9) = (fourth, fifth, sixth);
        self
    }

    const fn returning(mut self, result: i64) -> Self {
        self.0.rax = result.cast_unsigned();
        self.0.orig_rax = u64::MAX;
        self
    }

    const fn result(&self) -> i64 {
        self.0.rax.cast_signed()
    }
}

#[cfg(target_arch = "aarch64")]
impl Registers {
    /// Returns what the registers have to be for the call that was made last to be made again, as another one.
    fn calling(mut self, number: libc::c_long, arguments: [u64; 6]) -> Self {
        const INSTRUCTION: u64 = 4;
        self.0.pc = self.0.pc.wrapping_sub(INSTRUCTION);
        for (register, argument) in self.0.regs.iter_mut().zip(arguments) {
            *register = argument;
        }
        self.0.regs[8] = number.cast_unsigned();
        self
    }

    fn returning(mut self, result: i64) -> Self {
        self.0.regs[0] = result.cast_unsigned();
        self
    }

    fn result(&self) -> i64 {
        self.0.regs[0].cast_signed()
    }
}
