//! Who gives addresses on a network.

use crate::check::{Check, Topic};
use crate::packet::dhcp::Offer;
use crate::text::shell::quote;
use std::net::Ipv4Addr;

/// All of it but what has reasons of its own.
pub const DHCP: Topic = Topic("dhcp", "A guest that asks for an address has what the first server to answer offers.");

/// What was answered to a question that was asked `on` an interface; with an uplink, there has to be a server.
pub fn judge(offers: &[Offer], has_uplink: bool, on: &str) -> Check {
    const NOBODY: Topic = Topic("dhcp", "A guest with ip=dhcp waits for an address in vain.");
    const SEVERAL: Topic =
        Topic("dhcp", "Which of them a guest listens to is chance; their addresses and ways out may differ.");
    let dev = quote(on);
    match offers {
        [] if !has_uplink => NOBODY.warning(
            format!("nobody on {on} answers a DHCPDISCOVER, and it has no uplink"),
            format!(
                "ip addr add 10.99.0.1/24 dev {dev}; dnsmasq --port=0 --interface={dev} --bind-interfaces --dhcp-range=10.99.0.10,10.99.0.250"
            ),
        ),
        [] => NOBODY.failure(
            format!("nobody on {on} answers a DHCPDISCOVER"),
            format!(
                "tcpdump -eni {dev} port 67 or port 68   # or give the guest an address: -append ip=ADDRESS::GATEWAY:NETMASK::eth0:off"
            ),
        ),
        [one] => DHCP.ok(one.to_string()),
        several => {
            let said: Vec<String> = several.iter().map(Offer::to_string).collect();
            // By its MAC: what a server calls itself is its own choice.
            let macs: String = several.iter().map(|offer| format!(" -e {}", offer.mac)).collect();
            SEVERAL.warning(
                format!("{} servers answer: {}", several.len(), said.join("; ")),
                format!(
                    "bridge fdb show | grep{macs}   # the ports behind which they are: switch off the one that should not be"
                ),
            )
        }
    }
}

/// A server answers the host's own address, and nobody else's: it is behind a switch that lets in one address for each of its
/// ports.
pub fn of_one_mac(uplink: &str, server: Option<Ipv4Addr>) -> Check {
    const ONE: Topic = Topic(
        "dhcp",
        "The switch lets in one MAC address for each port (port security), as most Wi-Fi access points and the virtual \
         switches of VMware and clouds do.",
    );
    let server = server.map_or("a server".to_owned(), |server| server.to_string());
    let observed = format!(
        "on {uplink}, {server} answers a DHCPDISCOVER of the host's own MAC address, and nobody one of another"
    );
    let fix = "Allow more MAC addresses, or promiscuous mode and forged transmits, on the switch's port; or --bridge BRIDGE,uplink=none.";
    ONE.failure(observed, fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;
    use crate::mac::Mac;

    #[test]
    fn one_server_is_what_there_has_to_be() {
        let offer = |last: u8, router| Offer {
            server: Some(Ipv4Addr::new(10, 0, 0, last)),
            mac: Mac([2, 0, 0, 0, 0, last]),
            address: Ipv4Addr::new(10, 0, 0, 50),
            prefix: Some(24),
            router,
        };
        let (one, other) = (offer(1, Some(Ipv4Addr::new(10, 0, 0, 1))), offer(2, None));
        assert_eq!(judge(&[], false, "br0").verdict, Verdict::Warning);
        assert_eq!(judge(&[], true, "br0").verdict, Verdict::Failure);
        let found = judge(std::slice::from_ref(&one), true, "br0");
        assert_eq!(found.verdict, Verdict::Ok);
        assert_eq!(found.observed, "10.0.0.1 (02:00:00:00:00:01) offers 10.0.0.50/24 with the router 10.0.0.1");
        let found = judge(&[one, other], true, "br0");
        assert!(found.observed.starts_with("2 servers answer: ") && found.observed.ends_with("/24, and no router"));
        let grep = "bridge fdb show | grep -e 02:00:00:00:00:01 -e 02:00:00:00:00:02   # ";
        assert!(found.fix.is_some_and(|fix| fix.starts_with(grep)));
    }
}
