//! What names give away of platforms.

/// Reads a platform, and gives its normalised system and architecture; `None` if it is none.
///
/// # References
/// <https://github.com/containerd/platforms>
pub(super) fn platform(text: &str) -> Option<(String, String)> {
    let valid = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    };
    let parts: Vec<&str> = text.split('/').collect();
    let (system, machine) = match parts.as_slice() {
        [one] if is_system(one) => (*one, "amd64"),
        [one] => ("linux", *one),
        [system, machine] | [system, machine, _] => (*system, *machine),
        _ => return None,
    };
    // An OS version stands in parentheses: windows(10.0.17763)/amd64.
    let system = system.split('(').next().unwrap_or_default();
    if !valid(system) || !valid(machine) {
        return None;
    }
    let machine = machine.to_lowercase();
    let machine = match machine.as_str() {
        "i386" | "i486" | "i586" | "i686" => "386",
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "armhf" | "armel" => "arm",
        other => other,
    };
    let system = system.to_lowercase();
    let system = if system == "macos" { "darwin".to_owned() } else { system };
    (parts.len() > 1 || is_system(text) || is_architecture(machine)).then(|| (system, machine.to_owned()))
}

fn is_system(name: &str) -> bool {
    matches!(
        name.to_lowercase().as_str(),
        "linux"
            | "windows"
            | "darwin"
            | "macos"
            | "freebsd"
            | "netbsd"
            | "openbsd"
            | "wasi"
            | "plan9"
            | "solaris"
    )
}

fn is_architecture(name: &str) -> bool {
    matches!(
        name,
        "386"
            | "amd64"
            | "arm"
            | "arm64"
            | "ppc64"
            | "ppc64le"
            | "mips"
            | "mipsle"
            | "mips64"
            | "mips64le"
            | "riscv64"
            | "s390x"
            | "loong64"
            | "wasm"
            | "sparc64"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms() {
        let check = |text: &str, expect: Option<(&str, &str)>| {
            let got = platform(text);
            let got = got.as_ref().map(|(system, machine)| (system.as_str(), machine.as_str()));
            assert_eq!(got, expect, "{text}");
        };
        check("linux/amd64", Some(("linux", "amd64")));
        check("linux/arm/v7", Some(("linux", "arm")));
        check("aarch64", Some(("linux", "arm64")));
        check("windows(10.0)/x86_64", Some(("windows", "amd64")));
        check("nonsense", None);
        check("linux/", None);
        check("", None);
    }
}
