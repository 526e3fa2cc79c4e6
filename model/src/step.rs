//! One change of the host's network: as data to be kept in the journal, and as the commands that a person would type.
//! It may not know why.
#![forbid(unsafe_code)]

use crate::ifname::IfName;
use crate::mac::Mac;
use crate::request::Attach;
use crate::share;
use crate::share::{MarkBy, Share};
use crate::text::shell::quote;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A change that lasts longer than the process that makes it, and so has to be undone by somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// Makes a bridge: no STP, no forward delay, its address pinned.
    AddBridge {
        /// Its name.
        bridge: IfName,
        /// Its address, given in the creating request so that no port moves it.
        mac: Mac,
        /// Its MTU in bytes, where it is not the kernel's 1500.
        mtu: Option<u32>,
        /// What the host has of IPv6 on it.
        ipv6: Ipv6,
        /// Without ARP: on a shared uplink the host answers for its addresses there, and not here too.
        no_arp: bool,
    },
    /// Sets a link up.
    SetUp {
        /// Which one.
        link: IfName,
    },
    /// Makes an interface that nobody uses a port of the bridge.
    AttachPort {
        /// The bridge.
        bridge: IfName,
        /// The interface.
        uplink: IfName,
        /// Its index when this was planned.
        index: u32,
        /// Its address.
        mac: Mac,
        /// Whether it has IPv6, which a port must not have of its own.
        had_ipv6: bool,
        /// Whether that was asked for (`attach=port`): it stays a port, whatever comes. Else it is shared as soon as the host
        /// has an address on it.
        is_asked: bool,
    },
    /// Has the bridge wait for its uplink, which is not there yet. It is done when one of the steps above and below is.
    AwaitUplink {
        /// The bridge.
        bridge: IfName,
        /// The interface; `None` for the default route's.
        uplink: Option<IfName>,
        /// How it is to be attached, if that was said.
        attach: Option<Attach>,
        /// Whether it was a port before, that nobody used.
        was_port: bool,
        /// Whether the bridge goes with the default route to another uplink.
        follow: bool,
    },
    /// Shares an interface that the host uses.
    ShareUplink {
        /// The bridge.
        bridge: IfName,
        /// How.
        share: Share,
    },
}

/// What the host has of IPv6 on a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6 {
    /// What every new link has.
    Usual,
    /// No address or route from router advertisements: by an uplink that it does not use it does not join the network, and
    /// where there is none, no guest is the host's router.
    NoRouters,
    /// Nothing: it has it on the shared uplink.
    Off,
}

/// A TAP and its way onto a bridge. It goes with the process that holds it: nothing to undo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    /// Its name; `None` where the kernel numbers it.
    pub name: Option<IfName>,
    /// The bridge that it becomes a port of.
    pub bridge: IfName,
    /// Its MTU in bytes: the bridge's.
    pub mtu: u32,
    /// How many queues it has, each with a descriptor of its own.
    pub queues: u16,
    /// Whether it is there: a persistent one that is a port already.
    pub found: Option<Found>,
}

/// How a TAP that somebody else made has to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its index.
    pub index: u32,
    /// Whether it is up; else it is set up.
    pub is_up: bool,
    /// With IFF_MULTI_QUEUE.
    pub is_multi_queue: bool,
}

impl Step {
    /// The uplink that it attaches.
    pub fn uplink(&self) -> Option<&IfName> {
        match self {
            Self::AttachPort { uplink, .. } | Self::ShareUplink { share: Share { uplink, .. }, .. } => Some(uplink),
            Self::AddBridge { .. } | Self::SetUp { .. } | Self::AwaitUplink { .. } => None,
        }
    }

    /// How it shares an uplink, if it does.
    pub fn share(&self) -> Option<&Share> {
        match self {
            Self::ShareUplink { share, .. } => Some(share),
            _ => None,
        }
    }

    /// The commands that do the same: `ip`, `sysctl`, `tc`, and `nft` where frames can't be marked otherwise; each a line for a
    /// shell.
    pub fn commands(&self) -> Vec<String> {
        match self {
            Self::AddBridge { bridge, mac, mtu, ipv6, no_arp } => {
                let mut commands = vec![format!(
                    "ip link add name {} address {mac} type bridge stp_state 0 forward_delay 0",
                    quote(bridge)
                )];
                // In the creating request it would last until the first port only.
                commands.extend(mtu.map(|mtu| format!("ip link set dev {} mtu {mtu}", quote(bridge))));
                commands.extend(match ipv6 {
                    Ipv6::Usual => None,
                    Ipv6::NoRouters => Some(set_ipv6(bridge, "accept_ra", 0)),
                    Ipv6::Off => Some(no_ipv6(bridge)),
                });
                commands.extend(no_arp.then(|| format!("ip link set dev {} arp off", quote(bridge))));
                commands
            }
            Self::SetUp { link } => vec![format!("ip link set dev {} up", quote(link))],
            Self::AttachPort { bridge, uplink, had_ipv6, .. } => {
                let mut commands: Vec<String> = had_ipv6.then(|| no_ipv6(uplink)).into_iter().collect();
                commands.push(format!("ip link set dev {} master {}", quote(uplink), quote(bridge)));
                commands
            }
            // There is nothing to be typed before it is there.
            Self::AwaitUplink { .. } => Vec::new(),
            Self::ShareUplink { bridge, share } => commands_to_share(bridge, share),
        }
    }
}

fn commands_to_share(bridge: &IfName, share: &Share) -> Vec<String> {
    let [host_end, port] = share::ends(bridge);
    let uplink = quote(&share.uplink);
    let (host, end) = (quote(&host_end), quote(&port));
    let mut commands = vec![
        format!(
            "ip link add name {host} address {} mtu {} type veth peer name {end} mtu {}",
            share.mac, share.mtu, share.mtu
        ),
        no_ipv6(&host_end),
        no_ipv6(&port),
        format!("ip link set dev {host} arp off up"),
        format!("ip link set dev {end} master {} up", quote(bridge)),
        format!("bridge fdb replace {} dev {end} master static sticky", share.mac),
    ];
    if share.mark == MarkBy::Program {
        let ruleset = quote(share::ruleset(bridge, &share.uplink));
        commands.push(format!("nft {ruleset}  # kvm-bridge has an eBPF program do this, which can't be typed"));
    }
    if share.changes.clears_lro {
        commands.push(format!("ethtool -K {uplink} lro off"));
    }
    if share.changes.sets_promiscuous {
        commands.push(format!("ip link set dev {uplink} promisc on"));
    }
    commands.push(format!("tc qdisc add dev {} clsact", quote(bridge)));
    commands.push(format!("tc qdisc add dev {host} clsact"));
    if share.changes.adds_clsact {
        commands.push(format!("tc qdisc add dev {uplink} clsact"));
    }
    commands.extend(share.filters(&BTreeSet::new()).iter().filter_map(|filter| filter.command(bridge, &share.uplink)));
    commands
}

/// The command that switches IPv6 off on a link.
fn no_ipv6(link: &IfName) -> String {
    set_ipv6(link, "disable_ipv6", 1)
}

fn set_ipv6(link: &IfName, setting: &str, value: u32) -> String {
    // A dot in a name would divide it.
    format!("sysctl -qw {}", quote(format!("net.ipv6.conf.{}.{setting}={value}", link.as_str().replace('.', "/"))))
}

impl Tap {
    /// The `ip` commands that do the same, for a TAP called `name`; with the `tc` command by which the host reaches the guest
    /// of this address, where the bridge shares an uplink.
    pub fn commands(&self, name: &IfName, mac: Mac, alias: &str, share: Option<&Share>) -> Vec<String> {
        let dev = quote(name);
        match self.found {
            Some(found) if found.is_up => return Vec::new(),
            Some(_) => return vec![format!("ip link set dev {dev} up")],
            None => {}
        }
        let queues = if self.queues > 1 { " multi_queue" } else { "" };
        let mut commands = vec![
            format!("ip tuntap add dev {dev} mode tap vnet_hdr{queues}"),
            format!(
                "ip link set dev {dev} address {} mtu {} addrgenmode none alias {}",
                mac.of_tap(),
                self.mtu,
                quote(alias)
            ),
            format!("ip link set dev {dev} master {} up", quote(&self.bridge)),
        ];
        if let Some(share) = share {
            commands.extend(share.entry(mac).command(&self.bridge, &share.uplink));
        }
        commands
    }
}
