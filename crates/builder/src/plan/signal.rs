//! Which signals `STOPSIGNAL` knows.

const NAMES: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Whether a name (any case, `SIG` optional, `RTMIN+1` to `RTMIN+15` and `RTMAX-1` to `RTMAX-14` included) or a number
/// is a signal. Any number but zero is accepted, as BuildKit does.
///
/// # References
/// signal(7)
pub(super) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let in_range = |digits: &str, last: u32| {
        !digits.starts_with(['0', '+']) && digits.parse::<u32>().is_ok_and(|n| (1..=last).contains(&n))
    };
    NAMES.contains(&name)
        || name.strip_prefix("RTMIN+").is_some_and(|digits| in_range(digits, 15))
        || name.strip_prefix("RTMAX-").is_some_and(|digits| in_range(digits, 14))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_signals() {
        for signal in
            ["SIGTERM", "term", "9", "sigkill", "RTMIN", "SIGRTMIN+15", "RTMAX-14", "+9", "-1", "200"]
        {
            assert!(is_signal(signal), "{signal}");
        }
        for signal in
            ["SIGFOO", "", "0", "SIG", "RTMIN+16", "RTMIN+0", "RTMAX-15", "RTMIN+01", "SIGSIGTERM", "1.5"]
        {
            assert!(!is_signal(signal), "{signal}");
        }
    }
}
