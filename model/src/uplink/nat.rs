//! `uplink=nat`: a network of the host's own, behind its address. docs/nat.md says what it is.

use crate::error::{Error, Result};
use crate::host::{ForNat, Host};
use crate::ifname::IfName;
use crate::nat::firewall::Blocked;
use crate::nat::subnet::{Ula, choose, is_free};
use crate::nat::{Nat, check_name, dnsmasq, ruleset};
use crate::text::shell::quote;
use crate::uplink::Wish;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Such a network, and what it changes on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Masquerade {
    /// The network.
    pub network: Nat,
    /// The firewalls of others that let its guests' packets pass because of us.
    pub blocked: Vec<Blocked>,
}

/// Chooses the network, or says why there can't be one.
pub(super) fn plan(wish: &Wish, host: &Host) -> Result<Masquerade> {
    check_name(wish.bridge)?;
    let unseen = || Error::new("the host's networks were not looked at", "Please report this.");
    let ForNat { taken, kept, has_ipv6, random, blocked } = host.for_nat.get(wish.bridge).ok_or_else(unseen)?;
    let [a, b, c, d, rest @ ..] = *random;
    let subnet = match wish.net {
        None => choose(taken, kept.map(|(subnet, _)| subnet), [a, b, c, d])?,
        Some(net) => is_free(net, taken).map(|()| net).map_err(|other| {
            let what = format!("{net} is not free: the host has an address in {other}, or a route to it");
            Error::new(what, "Give net= another network, or leave it out: a free one is chosen then.")
        })?,
    };
    let ula = has_ipv6.then(|| kept.map_or_else(|| Ula::new(rest), |(_, ula)| ula));
    Ok(Masquerade { network: Nat::new(wish.bridge, subnet, ula)?, blocked: blocked.clone() })
}

impl Masquerade {
    /// What people call it.
    pub fn in_words(&self) -> String {
        let Nat { subnet, ula, .. } = &self.network;
        let ula = ula.map(|ula| format!(" and {ula}")).unwrap_or_default();
        format!("a network of the host's own, {subnet}{ula}")
    }

    /// The commands that do the same, each a line for a shell. kvm-bridge turns forwarding on for single interfaces, which takes
    /// many.
    pub(super) fn commands(&self, bridge: &IfName) -> Vec<String> {
        let (dev, nat) = (quote(bridge), &self.network);
        let mut commands = vec![format!("nft {}", quote(ruleset::typed(bridge, nat)))];
        commands.push(format!("ip address add {}/{} dev {dev}", nat.gateway(), nat.subnet.prefix()));
        commands.push("sysctl -qw net.ipv4.ip_forward=1".to_owned());
        if let Some(gateway) = nat.gateway6() {
            commands.push(format!("ip address add {gateway}/64 dev {dev} nodad"));
            commands.push("sysctl -qw net.ipv6.conf.all.forwarding=1".to_owned());
        }
        let fixes = self.blocked.iter().filter_map(|blocked| blocked.fix.as_ref()).flat_map(|fix| &fix.add);
        commands.extend(fixes.map(|words| words.iter().map(quote).collect::<Vec<_>>().join(" ")));
        let [hosts, leases, resolver] =
            ["/run/dnsmasq-hosts", "/run/dnsmasq-leases", "/etc/resolv.conf"].map(Path::new);
        let words = dnsmasq::words(nat, bridge, dnsmasq::Places { hosts, leases, resolver });
        let words: Vec<String> = words.iter().filter(|word| !word.starts_with("--dhcp-hostsdir")).map(quote).collect();
        commands.push(format!("dnsmasq {} &", words.join(" ")));
        commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::Uplink;

    fn planned(net: Option<&str>, taken: &[&str], kept: Option<&str>, has_ipv6: bool) -> Result<Masquerade> {
        let bridge = IfName::new("br0").unwrap();
        let net_of = |text: &str| text.parse().unwrap();
        let kept = kept.map(|net| (net_of(net), Ula::new([9; 7])));
        let taken = taken.iter().map(|net| net_of(net)).collect();
        let for_nat = ForNat { taken, kept, has_ipv6, random: [7; 11], blocked: Vec::new() };
        let host = Host { for_nat: [(bridge.clone(), for_nat)].into(), ..Host::default() };
        let wish = Wish {
            bridge: &bridge,
            uplink: Uplink::Nat,
            attach: None,
            mtu: None,
            is_late: false,
            was_port: false,
            follow: false,
            is_configured: false,
            net: net.map(net_of),
            falls_back: false,
        };
        plan(&wish, &host)
    }

    #[test]
    fn what_was_kept_is_had_again_and_what_is_asked_for_has_to_be_free() {
        let subnet = |result: Result<Masquerade>| result.unwrap().network.subnet.to_string();
        assert_eq!(subnet(planned(None, &[], Some("10.77.5.0/24"), false)), "10.77.5.0/24");
        assert_ne!(subnet(planned(None, &["10.77.5.0/29"], Some("10.77.5.0/24"), false)), "10.77.5.0/24");
        assert_eq!(subnet(planned(Some("192.168.7.0/24"), &[], Some("10.77.5.0/24"), false)), "192.168.7.0/24");
        let error = planned(Some("192.168.7.0/24"), &["192.168.0.0/16"], None, false).unwrap_err().to_string();
        assert!(error.starts_with("192.168.7.0/24 is not free") && error.contains("192.168.0.0/16"), "{error}");
        let ula = |kept| planned(None, &[], kept, true).unwrap().network.ula.unwrap().to_string();
        assert_eq!(ula(Some("10.77.5.0/24")), "fd09:909:909:909::/64");
        assert_eq!(ula(None), "fd07:707:707:707::/64");
        assert_eq!(planned(None, &[], None, false).unwrap().network.ula, None);
    }
}
