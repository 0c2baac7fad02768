//! The ports of `EXPOSE`.

use std::net::IpAddr;

/// More ports than every number in all three protocols: only repetitions could follow.
const MAX_PORTS: usize = 3 * 65_536;

/// Lists `port/protocol` for each word of the form `[[ip:]host:]port[-port][/protocol]`, in the order given.
///
/// # Errors
/// The text of what is wrong with the first bad word.
pub(super) fn ports(words: &[String]) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    for word in words {
        let (protocol, first, last) = port_range(word)?;
        if out.len() + usize::from(last - first) >= MAX_PORTS {
            return Err("too many ports".to_owned());
        }
        out.extend((first..=last).map(|port| format!("{port}/{protocol}")));
    }
    Ok(out)
}

fn port_range(word: &str) -> Result<(&'static str, u16, u16), String> {
    let (rest, container) = word.rsplit_once(':').unwrap_or(("", word));
    let (ip, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() {
        return Err(format!("no port specified: {word}"));
    }
    let protocol = match protocol.to_lowercase().as_str() {
        "" | "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        other => return Err(format!("invalid protocol: {other}")),
    };
    check_ip(ip)?;
    let (first, last) = range(port).ok_or_else(|| format!("invalid container port: {port}"))?;
    if !host.is_empty() {
        let (host_first, host_last) = range(host).ok_or_else(|| format!("invalid host port: {host}"))?;
        if first != last && last - first != host_last - host_first {
            return Err(format!("invalid ranges specified for container and host ports: {port} and {host}"));
        }
    }
    Ok((protocol, first, last))
}

fn check_ip(ip: &str) -> Result<(), String> {
    let invalid = || format!("invalid IP address: {ip}");
    let bare = match ip.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(invalid)?,
        None => ip,
    };
    if bare.is_empty() || bare.parse::<IpAddr>().is_ok() { Ok(()) } else { Err(invalid()) }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

fn number(text: &str) -> Option<u16> {
    // u16's own parser takes a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_ports() {
        let check = |input: &str, expect: &[&str]| {
            let words: Vec<String> = input.split(' ').map(str::to_owned).collect();
            assert_eq!(ports(&words).expect(input), expect, "{input}");
        };
        check("80", &["80/tcp"]);
        check("80/UDP 1/sctp", &["80/udp", "1/sctp"]);
        check("8000-8002/tcp", &["8000/tcp", "8001/tcp", "8002/tcp"]);
        check("127.0.0.1:80:81", &["81/tcp"]);
        check("[::1]:80:81", &["81/tcp"]);
        check("::1:80:81", &["81/tcp"]);
        check("1000-2000:81", &["81/tcp"]);
        check("0 65535", &["0/tcp", "65535/tcp"]);
        check("80/", &["80/tcp"]);
    }

    #[test]
    fn refuses_what_is_no_port() {
        for word in [
            "",
            "/tcp",
            "x",
            "65536",
            "-1",
            "+1",
            "8-7",
            "1-2-3",
            "80/http",
            "80/tcp/udp",
            "x:80",
            "1.2.3:1:80",
            "[::1:1:80",
            "1-3:5-6",
            "a:1:80",
            ":",
        ] {
            assert!(ports(&[word.to_owned()]).is_err(), "{word}");
        }
        assert!(ports(&vec!["0-65535".to_owned(); 4]).is_err());
    }
}
