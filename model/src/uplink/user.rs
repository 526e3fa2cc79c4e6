//! A network of the user's own (`uplink=user`): the same as `uplink=nat` in a user and network namespace of theirs, with pasta(1)
//! or slirp4netns(1) as its way out. It needs no right at all.

use crate::error::Error;
use crate::ifname::IfName;
use crate::nat::ruleset::{Table, is, meta, of_packet, verdict};
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// The interface in the namespace that pasta makes.
pub const UPLINK: &str = "up0";
/// The resolver of the host as pasta shows it there. These addresses are link-local (RFC 3927): no network that anybody is routed to
/// has them.
pub const RESOLVER: &str = "169.254.2.3";

/// Root makes bridges on the host.
pub(super) fn refused() -> Error {
    let what = "uplink=user is for users without root: it is a network in a namespace of theirs";
    Error::new(what, "As root, uplink=nat makes the same on the host.")
}

/// The command line of pasta behind its name, for a network with this command in it.
///
/// Nothing comes in by pasta (`-t none`, `-u none`), nothing there reaches the host's loopback (`-T none`, `-U none`,
/// `--no-map-gw`), but for its resolver, which may be on it. Where the host has IPv6, the namespace has its addresses.
///
/// Only for a resolver on the loopback has it an address of its own: pasta would answer for any other one from that.
pub fn pasta<'a>(command: impl IntoIterator<Item = &'a str>, is_resolver_on_loopback: bool) -> Vec<String> {
    let resolver = if is_resolver_on_loopback { ["--dns-forward", RESOLVER].as_slice() } else { &[] };
    let addresses = ["-a", "169.254.2.1", "-n", "24", "-g", "169.254.2.2", "-I", UPLINK];
    let addresses = addresses.into_iter().chain(resolver.iter().copied());
    let closed = ["-t", "none", "-u", "none", "-T", "none", "-U", "none", "--no-map-gw"];
    let alone = ["--foreground", "--quiet", "--config-net", "--no-dhcp", "--no-dhcpv6", "--no-ra"];
    let words = alone.into_iter().chain(addresses).chain(closed).chain(["--"]).chain(command);
    words.map(str::to_owned).collect()
}

/// The command line of slirp4netns(1) behind its name, for a namespace with this process in it; it says by one descriptor that the
/// way out is there, and ends when the other end of `over` is closed.
///
/// In a network of its own, it has the addresses of pasta's gateway and resolver by itself. IPv6 is left out: it is experimental.
pub fn slirp4netns(process: u32, ready: i32, over: i32) -> Vec<String> {
    let (ready, over) = (format!("--ready-fd={ready}"), format!("--exit-fd={over}"));
    let words = ["--configure", "--mtu=65520", "--cidr=169.254.2.0/24", "--disable-host-loopback", &ready, &over];
    words.into_iter().chain([process.to_string().as_str(), UPLINK]).map(str::to_owned).collect()
}

/// Whether the resolver that pasta takes is on the loopback: the first of IPv4 in /etc/resolv.conf (resolv.conf(5)).
pub fn is_resolver_on_loopback(resolv_conf: &str) -> bool {
    let servers = resolv_conf.lines().filter_map(|line| line.trim_start().strip_prefix("nameserver"));
    let mut servers = servers.filter_map(|server| server.trim().parse::<Ipv4Addr>().ok());
    servers.next().is_some_and(|server| server.is_loopback())
}

/// Rules that lead what dnsmasq asks a resolver on the host's loopback to that resolver: the loopback here is another one.
pub fn rules() -> Value {
    let table = Table("kvmb-resolver".to_owned());
    let to_loopback = || is(of_packet("ip", "daddr"), json!({ "prefix": { "addr": "127.0.0.0", "len": 8 } }));
    let mut commands = vec![
        table.add(),
        table.delete(),
        table.add(),
        table.chain("output", "nat", "output", -100),
        table.chain("postrouting", "nat", "postrouting", 100),
        table.rule("postrouting", vec![is(meta("oifname"), json!(UPLINK)), json!({ "masquerade": null })]),
        table.chain("loopback", "filter", "postrouting", 0),
    ];
    // What is the loopback to pasta's sockets on the host: IPv4's in IPv6 (RFC 4291, 2.5.5), and `::1`.
    commands.extend(
        [("ip6", "::", 96), ("ip6", "::ffff:0.0.0.0", 96), ("ip", "127.0.0.0", 8), ("ip", "0.0.0.0", 8)].map(
            |(family, address, length)| {
                let to = is(of_packet(family, "daddr"), json!({ "prefix": { "addr": address, "len": length } }));
                table.rule("loopback", vec![is(meta("oifname"), json!(UPLINK)), to, verdict("drop")])
            },
        ),
    );
    commands.extend(["udp", "tcp"].map(|protocol| {
        let to = json!({ "dnat": { "family": "ip", "addr": RESOLVER, "port": 53 } });
        table.rule("output", vec![to_loopback(), is(of_packet(protocol, "dport"), json!(53)), to])
    }));
    json!({ "nftables": commands })
}

/// What is to be said of one that was made.
pub fn notice(bridge: &IfName, subnet: &str, is_kept: bool) -> String {
    let until = if is_kept { "" } else { ", until its last guest has gone" };
    format!("made {bridge}, a network of your own ({subnet}){until}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_in_and_the_hosts_loopback_is_out_of_reach() {
        let words = pasta(["sh", "-c", "true"], true);
        for option in ["-t", "-u", "-T", "-U"] {
            assert!(words.windows(2).any(|pair| pair[0] == option && pair[1] == "none"), "{option}");
        }
        assert!(words.contains(&"--no-map-gw".to_owned()));
        assert_eq!(words[words.len() - 4..], ["--", "sh", "-c", "true"]);
        assert!(words.contains(&RESOLVER.to_owned()) && !pasta(["sh"], false).contains(&RESOLVER.to_owned()));
        for (text, wanted) in [
            ("nameserver 127.0.0.53\nnameserver 10.0.0.1\n", true),
            ("# x\nnameserver ::1\nnameserver\t10.0.0.1\nnameserver 127.0.0.1\n", false),
            ("search lan\n", false),
            ("", false),
        ] {
            assert_eq!(is_resolver_on_loopback(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_asked_of_a_stub_on_the_loopback_goes_to_the_host() {
        let text = rules().to_string();
        assert_eq!(text.matches(r#""dnat":{"addr":"169.254.2.3""#).count(), 2, "{text}");
        assert!(text.contains(r#""right":"up0""#));
        assert_eq!(text.matches(r#"{"drop":null}"#).count(), 4);
    }
}
