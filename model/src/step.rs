//! A bridge and the TAPs on it: as data to be kept in the journal, and as the commands that a person would type.
//! It may not know why.
#![forbid(unsafe_code)]

use crate::bpf::bytecode;
use crate::ifname::IfName;
use crate::mac::Mac;
use crate::share::Share;
use crate::text::shell::quote;
use port::{FILTER_PREF, Policy, RATE_PREF, Vlans};
use serde::{Deserialize, Serialize};

/// A bridge that is made: no STP, no forward delay, its address pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Its address, given in the creating request so that no port moves it.
    pub mac: Mac,
    /// Its MTU in bytes, where it is not the kernel's 1500.
    pub mtu: Option<u32>,
    /// What the host has of IPv6 on it.
    pub ipv6: Ipv6,
    /// Without ARP: on a shared uplink the host answers for its addresses there, and not here too.
    pub no_arp: bool,
    /// Whether its ports are members of VLANs; its uplink is one of all of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub filters_vlans: bool,
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
    /// What it is held to as a port.
    pub policy: Policy,
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

impl Create {
    /// The commands that do the same, each a line for a shell.
    pub fn commands(&self, bridge: &IfName) -> Vec<String> {
        let (dev, mac) = (quote(bridge), self.mac);
        let filtering = if self.filters_vlans { " vlan_filtering 1" } else { "" };
        let mut commands =
            vec![format!("ip link add name {dev} address {mac} type bridge stp_state 0 forward_delay 0{filtering}")];
        // In the creating request it would last until the first port only.
        commands.extend(self.mtu.map(|mtu| format!("ip link set dev {dev} mtu {mtu}")));
        commands.extend(match self.ipv6 {
            Ipv6::Usual => None,
            Ipv6::NoRouters => Some(set_ipv6(bridge, "accept_ra", 0)),
            Ipv6::Off => Some(no_ipv6(bridge)),
        });
        commands.extend(self.no_arp.then(|| format!("ip link set dev {dev} arp off")));
        commands
    }
}

/// The command that sets a link up.
pub fn set_up(link: &IfName) -> String {
    format!("ip link set dev {} up", quote(link))
}

/// The command that switches IPv6 off on a link.
pub(crate) fn no_ipv6(link: &IfName) -> String {
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
        let headers = if self.policy.has_vnet_headers() { " vnet_hdr" } else { "" };
        let mut commands = vec![
            format!("ip tuntap add dev {dev} mode tap{headers}{queues}"),
            format!(
                "ip link set dev {dev} address {} mtu {} addrgenmode none alias {}",
                mac.of_tap(),
                self.mtu,
                quote(alias)
            ),
        ];
        commands.extend(before(&dev, &self.policy, mac));
        match after(&dev, &self.policy) {
            after if after.is_empty() => {
                commands.push(format!("ip link set dev {dev} master {} up", quote(&self.bridge)))
            }
            after => {
                commands.push(format!("ip link set dev {dev} master {}", quote(&self.bridge)));
                commands.extend(after);
                commands.push(format!("ip link set dev {dev} up"));
            }
        }
        if let Some(share) = share {
            commands.extend(share.entry(mac).command(&self.bridge, &share.uplink));
        }
        commands
    }
}

/// The commands of what a TAP is held to before it is a port: see `Policy::before`.
fn before(dev: &str, policy: &Policy, mac: Mac) -> Vec<String> {
    let mut commands = Vec::new();
    let filter = |pref| format!("tc filter add dev {dev} ingress protocol all pref {pref} bpf");
    if policy.is_guarded() || policy.rate.is_some() {
        commands.push(format!("tc qdisc add dev {dev} clsact"));
    }
    if policy.is_guarded() {
        let program = bytecode(&policy.program(Some(mac.0)));
        commands.push(format!("{} direct-action bytecode {program}", filter(FILTER_PREF)));
    }
    if let Some(rate) = policy.rate {
        let (all, burst) = (bytecode(&[crate::bpf::WHOLE]), rate.burst());
        let of_guest = rate.burst_of_guest();
        let police = format!("action police rate {rate} burst {of_guest} mtu 4294967295 conform-exceed drop/ok");
        commands.push(format!("{} bytecode {all} {police}", filter(RATE_PREF)));
        commands.push(format!("tc qdisc add dev {dev} root tbf rate {rate} burst {burst} latency 50ms"));
    }
    commands
}

/// The commands of what it is held to as a port: see `Policy::after`.
fn after(dev: &str, policy: &Policy) -> Vec<String> {
    let mut commands = Vec::new();
    if let Some(Vlans { untagged, tagged, .. }) = &policy.vlans {
        commands.push(format!("bridge vlan del dev {dev} vid 1-4094"));
        commands.push(format!("bridge vlan add dev {dev} vid {untagged} pvid untagged"));
        let add = |first, last| format!("bridge vlan add dev {dev} vid {first}-{last}");
        commands.extend(tagged.iter().map(|range| add(range.start(), range.end())));
    }
    let flags = [(policy.is_guarded()).then_some(" mcast_router 0"), policy.isolated.then_some(" isolated on")];
    let flags: String = flags.into_iter().flatten().collect();
    if !flags.is_empty() {
        commands.push(format!("ip link set dev {dev} type bridge_slave{flags}"));
    }
    commands
}

/// The command by which the uplink of a bridge that filters VLANs carries all of them.
pub(crate) fn trunk(uplink: &IfName) -> String {
    format!("bridge vlan add dev {} vid 2-4094", quote(uplink))
}
