//! Which authorities of a CONNECT are this workload's: `ip:port` of one of its addresses and nothing else.

use std::net::{IpAddr, SocketAddr};

/// The mesh's own ports; an authority or original destination never names one.
pub const PROXY_PORTS: [u16; 8] = [15000, 15001, 15006, 15007, 15008, 15020, 15021, 15053];

/// Where plaintext that comes in is captured.
pub const INBOUND_PORT: u16 = 15006;

pub fn is_proxy_port(port: u16) -> bool {
    PROXY_PORTS.contains(&port)
}

/// Parses `ip:port` or `[ip]:port` strictly: no zone, user info, path, name, leading zero, or port out of 1..=65535.
pub fn parse(authority: &str) -> Result<SocketAddr, &'static str> {
    let (host, port) = authority.rsplit_once(':').ok_or("no port")?;
    let ip = match host.strip_prefix('[') {
        Some(rest) => IpAddr::V6(rest.strip_suffix(']').and_then(|ip| ip.parse().ok()).ok_or("not an IPv6 address")?),
        None => IpAddr::V4(host.parse().map_err(|_| "not an address")?),
    };
    Ok(SocketAddr::new(ip, parse_port(port)?))
}

fn parse_port(text: &str) -> Result<u16, &'static str> {
    let plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain {
        return Err("not a port");
    }
    text.parse().map_err(|_| "not a port")
}

/// The application's address that `authority` names, if it is one of `addresses` and not a port of the mesh.
pub fn admit(authority: &str, addresses: &[IpAddr]) -> Result<SocketAddr, &'static str> {
    let destination = parse(authority)?;
    admit_address(destination, addresses)?;
    Ok(destination)
}

/// The same check for a destination that is an address already.
pub fn admit_address(destination: SocketAddr, addresses: &[IpAddr]) -> Result<(), &'static str> {
    if !addresses.contains(&destination.ip()) {
        return Err("not an address of this workload");
    }
    if destination.port() == 0 || is_proxy_port(destination.port()) {
        return Err("a port of the mesh itself");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Vec<IpAddr> {
        vec!["10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap()]
    }

    #[test]
    fn own_addresses_are_admitted() {
        for text in ["10.1.2.3:80", "[fd00::3]:65535", "[fd00:0:0::3]:1"] {
            assert_eq!(admit(text, &addresses()), Ok(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let corpus = [
            "",
            ":",
            ":80",
            "10.1.2.3",
            "10.1.2.3:",
            "10.1.2.3:0",
            "10.1.2.3:65536",
            "10.1.2.3:080",
            "10.1.2.3:+80",
            "10.1.2.3:-1",
            "10.1.2.3: 80",
            "10.1.2.3:80 ",
            " 10.1.2.3:80",
            "10.1.2.3:80/",
            "10.1.2.3:80/path",
            "http://10.1.2.3:80",
            "user@10.1.2.3:80",
            "user:pw@10.1.2.3:80",
            "10.1.2.4:80",
            "127.0.0.1:80",
            "[::1]:80",
            "0.0.0.0:80",
            "[::]:80",
            "169.254.169.254:80",
            "[fe80::1%eth0]:80",
            "[fd00::3%1]:80",
            "[fd00::3]",
            "fd00::3:80",
            "[fd00::3:80",
            "fd00::3]:80",
            "[[fd00::3]]:80",
            "[10.1.2.3]:80",
            "[::ffff:10.1.2.3]:80",
            "010.1.2.3:80",
            "10.1.2.03:80",
            "0x0a.1.2.3:80",
            "167838211:80",
            "10.1.2.3.:80",
            "10.1.2.3:80,10.1.2.3:81",
            "10.1.2.3\0:80",
            "10.1.2.3:80\n",
            "svc.ns.svc.cluster.local:80",
            "localhost:80",
            "10.1.2.3:15000",
            "10.1.2.3:15001",
            "10.1.2.3:15006",
            "10.1.2.3:15007",
            "10.1.2.3:15008",
            "10.1.2.3:15020",
            "10.1.2.3:15021",
            "10.1.2.3:15053",
            "10.1.2.3:99999999999999999999",
            "１０.1.2.3:80",
        ];
        for text in corpus {
            assert!(admit(text, &addresses()).is_err(), "{text:?} was admitted");
        }
    }
}
