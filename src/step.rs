//! One change of the host's network: as data to be kept in the journal, and as the command that a person would type.
#![forbid(unsafe_code)]

use crate::keeper::Keeper;
use crate::layer3::{End, Layer3};
use crate::mac::Mac;
use crate::name::IfName;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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
    },
    /// Sets a link up.
    SetUp {
        /// Which one.
        link: IfName,
    },
    /// Makes an interface of the host a port of the bridge, and moves what the host has on it there.
    TakeUplink {
        /// The bridge.
        bridge: IfName,
        /// The interface.
        uplink: IfName,
        /// Its index when this was planned.
        index: u32,
        /// Its address.
        #[serde(default)]
        mac: Option<Mac>,
        /// What the host had on it when it was taken.
        #[serde(default)]
        layer3: Layer3,
    },
    /// Tells who looks after an uplink to leave it alone, and has its lease renewed on the bridge.
    Tell {
        /// The uplink.
        uplink: IfName,
        /// Its index when this was planned.
        index: u32,
        /// Who looks after it.
        keeper: Keeper,
        /// Whether the host has anything on it.
        takes_part: bool,
    },
    /// Tells systemd-networkd, where a file of its own would take them too, to leave the bridge and our TAPs alone: of an
    /// uplink it is told nothing.
    Spare {
        /// That file.
        by: PathBuf,
    },
    /// Gives a setting of an interface (`host::SETTINGS`) another value.
    Configure {
        /// The interface.
        link: IfName,
        /// The setting, as `ipv6/accept_ra`.
        setting: String,
        /// Its value from now on.
        value: String,
        /// The one before.
        was: String,
    },
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
    /// The `ip` commands that do the same.
    pub fn commands(&self) -> Vec<Vec<String>> {
        match self {
            Self::AddBridge { bridge, mac, mtu } => {
                let add = format!("ip link add name {bridge} address {mac} type bridge stp_state 0 forward_delay 0");
                // In the creating request it would last until the first port only.
                let mtu = mtu.map(|mtu| format!("ip link set dev {bridge} mtu {mtu}"));
                [Some(add), mtu].into_iter().flatten().map(|command| split(&command)).collect()
            }
            Self::SetUp { link } => vec![split(&format!("ip link set dev {link} up"))],
            Self::TakeUplink { bridge, uplink, index, layer3, .. } => {
                let (from, to) = (End { index: *index, name: uplink }, End { index: 0, name: bridge });
                let mut commands = vec![split(&format!("ip link set dev {uplink} master {bridge}"))];
                commands.extend(layer3.commands(from, to));
                commands
            }
            Self::Tell { .. } | Self::Spare { .. } => Vec::new(),
            Self::Configure { link, setting, value, .. } => {
                let (family, name) = setting.split_once('/').unwrap_or_default();
                // A dot in a name would divide it.
                let link = link.as_str().replace('.', "/");
                vec![split(&format!("sysctl -qw net.{family}.conf.{link}.{name}={value}"))]
            }
        }
    }
}

impl Tap {
    /// The `ip` commands that do the same, for a TAP called `name`.
    pub fn commands(&self, name: &IfName, mac: Mac, alias: &str) -> Vec<Vec<String>> {
        match self.found {
            Some(found) if found.is_up => return Vec::new(),
            Some(_) => return vec![split(&format!("ip link set dev {name} up"))],
            None => {}
        }
        let mut dress = split(&format!("ip link set dev {name} address {mac} mtu {} addrgenmode none", self.mtu));
        dress.extend(["alias".to_owned(), alias.to_owned()]);
        vec![
            split(&format!(
                "ip tuntap add dev {name} mode tap vnet_hdr{}",
                if self.queues > 1 { " multi_queue" } else { "" }
            )),
            dress,
            split(&format!("ip link set dev {name} master {} up", self.bridge)),
        ]
    }
}

/// Interface names have no blanks, so that a command of names and numbers can be written as one string.
fn split(command: &str) -> Vec<String> {
    command.split(' ').map(str::to_owned).collect()
}
