//! The command line of dnsmasq, which gives guests their addresses and answers for their names.
//!
//! Nothing of it is the host's: no configuration, no hosts file, no lease file. It is bound to the bridge's addresses alone and
//! follows them (`bind-dynamic`), so that another server on the host's port 53 is no reason to fail.

use crate::ifname::IfName;
use crate::nat::Nat;
use std::path::Path;

/// The oldest version that has all of this (`--dhcp-hostsdir`).
pub const OLDEST: (u32, u32) = (2, 73);

/// The IPv6 addresses for guests that ask by DHCPv6 and have none by their file: the first of them, and how many.
const FIRST6: u64 = 0x1000;
const POOL6: u64 = 256;

/// Where its files are.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// The folder with a file for each guest (`Guest::host_line`).
    pub hosts: &'a Path,
    /// The file of leases, which dnsmasq writes: it is for nobody to believe.
    pub leases: &'a Path,
    /// Where the host's resolver says whom it asks. A stub on a loopback address is as good as its servers, as dnsmasq runs in
    /// the host's network; and what changes behind it need not be followed.
    pub resolver: &'a Path,
}

/// The words behind its name. It stays in the foreground and writes no file of its process: who starts it has its
/// descriptor. What it has to say goes to the system's log, and to stderr when it can't begin.
pub fn words(nat: &Nat, bridge: &IfName, places: Places) -> Vec<String> {
    let Nat { subnet, domain, .. } = nat;
    let (first, last) = nat.pool();
    let path = |option: &str, path: &Path| format!("--{option}={}", path.display());
    let mut words = vec![
        "--keep-in-foreground".to_owned(),
        "--conf-file=/dev/null".to_owned(),
        "--no-hosts".to_owned(),
        "--pid-file=".to_owned(),
        "--bind-dynamic".to_owned(),
        format!("--interface={bridge}"),
        "--except-interface=lo".to_owned(),
        path("resolv-file", places.resolver),
        "--domain-needed".to_owned(),
        format!("--domain={domain}"),
        format!("--local=/{domain}/"),
        path("dhcp-hostsdir", places.hosts),
        path("dhcp-leasefile", places.leases),
        // An address is its VM's by the files of guests, so that nobody has to be asked who has it.
        "--no-ping".to_owned(),
        "--dhcp-authoritative".to_owned(),
        // A guest has the name that root has given its VM, and not another's by saying so.
        "--dhcp-ignore-names".to_owned(),
        format!("--dhcp-range={first},{last},{},1h", subnet.netmask()),
        // Those of both families count together: who asks for all that there are takes none from the others.
        format!("--dhcp-lease-max={}", u64::from(2 * subnet.size()) + POOL6),
    ];
    words.extend(subnet.reverse_zones().iter().map(|zone| format!("--local=/{zone}/")));
    if let Some(ula) = nat.ula {
        words.push("--enable-ra".to_owned());
        // Those that ask have the address of their file, all others make their own and are known by it.
        words.push(format!("--dhcp-range={},{},slaac,ra-names,64,1h", ula.nth(FIRST6), ula.nth(FIRST6 + POOL6 - 1)));
        words.push(format!("--local=/{}/", ula.reverse_zone()));
    }
    words
}

/// Reads what `dnsmasq --version` says.
pub fn version(said: &str) -> Option<(u32, u32)> {
    let rest = said.lines().next()?.strip_prefix("Dnsmasq version ")?;
    let (major, rest) = rest.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::tests::{br0, nat};

    #[test]
    fn it_is_the_bridges_alone() {
        let [hosts, leases, resolver] = ["/h", "/l", "/etc/resolv.conf"].map(Path::new);
        let line = words(&nat(), &br0(), Places { hosts, leases, resolver }).join(" ");
        assert_eq!(
            line,
            "--keep-in-foreground --conf-file=/dev/null --no-hosts --pid-file= --bind-dynamic \
             --interface=br0 --except-interface=lo --resolv-file=/etc/resolv.conf --domain-needed \
             --domain=br0.internal --local=/br0.internal/ --dhcp-hostsdir=/h --dhcp-leasefile=/l --no-ping \
             --dhcp-authoritative --dhcp-ignore-names --dhcp-range=10.77.5.192,10.77.5.254,255.255.255.0,1h --dhcp-lease-max=768 --local=/5.77.10.in-addr.arpa/ \
             --enable-ra --dhcp-range=fd01:203:405:7::1000,fd01:203:405:7::10ff,slaac,ra-names,64,1h \
             --local=/7.0.0.0.5.0.4.0.3.0.2.0.1.0.d.f.ip6.arpa/"
        );
        let without = words(&Nat { ula: None, ..nat() }, &br0(), Places { hosts, leases, resolver }).join(" ");
        assert!(!without.contains("fd01") && !without.contains("enable-ra"));
    }

    #[test]
    fn its_version_is_read() {
        assert_eq!(version("Dnsmasq version 2.90  Copyright (c) 2000-2024\n"), Some((2, 90)));
        assert_eq!(version("Dnsmasq version 2.80test3\n"), Some((2, 80)));
        assert_eq!(version("something else"), None);
        assert!((2, 90) >= OLDEST && (2, 72) < OLDEST);
    }
}
