//! What we made and will have to undo: written down before it is made.
//! It may not know what is there by now.
//!
//! There is one journal for each bridge that we make, in a folder of its network namespace. It is written once, whole,
//! before the first change; whether a change was carried out is not noted but seen: everything that is undone must still
//! carry the identity that the journal gave it. `/run` is gone after a reboot, and so is all that it speaks of.

use crate::error;
use crate::host::{Kind, Link};
use crate::ifname::IfName;
use crate::mac::Mac;
use crate::share::Share;
use crate::step::Create;
use crate::uplink::{Attachment, Awaited, Masquerade, Port, Vtep};
use serde::{Deserialize, Serialize};

/// The format that is written, and the only one that is read: nothing before it was released.
const VERSION: u32 = 8;

/// Our links' indices are random ones from here to the largest int: far above what the kernel hands out by itself.
const FIRST_INDEX: u32 = 0x4000_0000;

/// The machine's life and the network namespace that a journal is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// random/boot_id of proc(5).
    pub boot: String,
    /// SO_NETNS_COOKIE, where the kernel tells.
    pub namespace: Option<u64>,
}

/// One bridge of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    version: u32,
    /// The bridge's name.
    pub bridge: IfName,
    /// The index that it is made with; those of a veth pair come next.
    pub index: u32,
    /// Random, and the end of the alias of all links of it: two of one name and index are told apart by it.
    token: String,
    /// Whether it stays when its last guest has gone.
    pub keep: bool,
    /// Whether all of it was made. A bridge whose journal says no, while nobody holds its lock, was left by a kill.
    pub is_finished: bool,
    /// The machine's life that it is of (random/boot_id of proc(5)).
    boot: String,
    /// The network namespace that it is of, where the kernel tells: its folder has the namespace's inode, which the next
    /// namespace may have again.
    namespace: Option<u64>,
    /// Of the whole text, with zeros in the place of this: an index that is damaged is another link's.
    checksum: String,
    /// How the bridge was made.
    pub create: Create,
    /// How it has its uplink.
    pub attachment: Option<Attachment>,
    /// How it had it before, until all of that is taken back.
    pub before: Option<Attachment>,
}

impl Journal {
    /// A new journal for a bridge that is about to be made, in this life; of the random bytes its index and token are made.
    pub fn new(
        bridge: IfName,
        keep: bool,
        create: Create,
        attachment: Option<Attachment>,
        life: Life,
        random: [u8; 8],
    ) -> Self {
        let [a, b, c, d, ..] = random;
        // Room for three, within an int.
        let index = (u32::from_ne_bytes([a, b, c, d]) % FIRST_INDEX + FIRST_INDEX) & !3;
        let token = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let Life { boot, namespace } = life;
        let checksum = UNKNOWN.to_owned();
        Self {
            version: VERSION,
            bridge,
            index,
            token,
            keep,
            is_finished: false,
            boot,
            namespace,
            checksum,
            create,
            attachment,
            before: None,
        }
    }

    /// The same journal of what is about to be removed.
    pub fn unfinished(&self) -> Self {
        Self { is_finished: false, ..self.clone() }
    }

    /// The bridge's index and its own MAC address.
    pub fn link(&self) -> (u32, Mac) {
        (self.index, self.create.mac)
    }

    /// The index of the host's end of the veth pair.
    pub fn host_end(&self) -> u32 {
        self.index + 1
    }

    /// The index of the veth pair's other end, or of a VXLAN device: a port of the bridge.
    pub fn port_end(&self) -> u32 {
        self.index + 2
    }

    /// The bridge's alias: for people, and for `owns`.
    pub fn alias(&self) -> String {
        format!("kvm-bridge {}", self.token)
    }

    /// Whether this link is the bridge that the journal speaks of: a bridge of that index, which no other has by chance,
    /// with its alias or, if somebody gave it another one, with its address.
    pub fn owns(&self, link: &Link) -> bool {
        let has_its_index = link.index == self.index && self.index >= FIRST_INDEX;
        let has_its_alias = link.alias.as_deref() == Some(&self.alias());
        let has_its_mac = link.mac == Some(self.create.mac);
        link.kind == Kind::Bridge && has_its_index && (has_its_alias || has_its_mac)
    }

    /// Whether this link is an end of the veth pair, or the VXLAN device, that the journal speaks of.
    pub fn owns_end(&self, link: &Link) -> bool {
        let is_its = [self.host_end(), self.port_end()].contains(&link.index);
        let has_its_alias = link.alias.as_deref().is_none_or(|alias| alias == self.alias());
        let is_of_kind = matches!(&link.kind, Kind::Other(kind) if kind == "veth" || kind == "vxlan");
        is_its && self.index >= FIRST_INDEX && is_of_kind && has_its_alias
    }

    /// Whether this link is the interface that was made a port, and not another that has its index now.
    pub fn is_port_of(&self, link: &Link) -> bool {
        self.port().is_some_and(|port| {
            port.index == link.index && (link.mac == Some(port.mac) || link.controller == Some(self.index))
        })
    }

    /// Whether it is of this life of the machine, and of this network namespace. /run does not outlive the machine, where it
    /// is as it should be.
    pub fn is_of(&self, life: &Life) -> bool {
        self.boot == life.boot && (self.namespace.is_none() || self.namespace == life.namespace)
    }

    /// Whether a process of ours has to stay behind the bridge: to take it away, or to keep its uplink shared, or to share it
    /// when the host begins to use it.
    pub fn needs_reaper(&self) -> bool {
        let has_work = self.share().is_some() || self.may_share() || self.awaits().is_some() || self.nat().is_some();
        !self.keep || self.before.is_some() || has_work
    }

    /// How it has its uplink, and had it before: to be undone in this order.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.attachment.iter().chain(&self.before)
    }

    /// The uplink that it waits for.
    pub fn awaits(&self) -> Option<&Awaited> {
        self.attachment.as_ref()?.awaited()
    }

    /// Whether its uplink is another one when the default route leads elsewhere.
    pub fn goes_by_routes(&self) -> bool {
        self.awaits().is_some_and(|awaited| awaited.uplink.can_follow())
            || self.share().is_some_and(|share| share.follow)
    }

    /// Whether its uplink is a port for as long as the host has no address on it.
    pub fn may_share(&self) -> bool {
        self.port().is_some_and(|port| !port.is_asked)
    }

    /// Its network of the host's own, if it has one.
    pub fn nat(&self) -> Option<&Masquerade> {
        self.attachment.as_ref()?.nat()
    }

    /// Its end of a VXLAN, if it has one.
    pub fn vtep(&self) -> Option<&Vtep> {
        self.attachment.as_ref()?.vtep()
    }

    /// How its uplink is shared, if it is.
    pub fn share(&self) -> Option<&Share> {
        self.attachment.as_ref()?.share()
    }

    /// The interface that was made a port.
    pub fn port(&self) -> Option<&Port> {
        self.attachments().find_map(Attachment::port)
    }

    /// The uplink's name when it was attached.
    pub fn uplink(&self) -> Option<&IfName> {
        self.attachments().find_map(Attachment::uplink)
    }

    /// Whether the port of this index leads to the uplink.
    pub fn attached(&self, index: u32) -> bool {
        self.attachments().any(|its| match its {
            Attachment::Port(port) => port.index == index,
            Attachment::Shared(_) | Attachment::Vxlan(_) => index == self.port_end(),
            // There is none.
            Attachment::Awaited(_) | Attachment::Nat(_) => false,
        })
    }
}

/// What stands before the checksum in the text of a journal.
const CHECKSUM: &str = "\"checksum\": \"";
/// Its sixteen digits where it is not known yet, and while it is computed.
const UNKNOWN: &str = "0000000000000000";

/// A journal as a file has it.
pub fn text_of(journal: &Journal) -> serde_json::Result<String> {
    serde_json::to_string_pretty(journal).map(sealed)
}

/// Reads that; else says why it can't be read.
pub fn parse(text: &str) -> std::result::Result<Journal, String> {
    /// Of any version.
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_str(text).map_err(|error| error::json_reason(&error))?;
    if version != VERSION {
        return Err(format!("its version is {version}, and this program reads {VERSION}"));
    }
    if !is_whole(text) {
        return Err("it is damaged: its checksum does not fit it".to_owned());
    }
    let journal: Journal = serde_json::from_str(text).map_err(|error| error::json_reason(&error))?;
    Ok(Journal { checksum: UNKNOWN.to_owned(), ..journal })
}

/// The text with its checksum in its place.
fn sealed(text: String) -> String {
    let sum = format!("{:016x}", checksum(text.as_bytes()));
    text.replacen(&format!("{CHECKSUM}{UNKNOWN}"), &format!("{CHECKSUM}{sum}"), 1)
}

/// Whether the checksum in a text is that of the text.
fn is_whole(text: &str) -> bool {
    let Some((before, after)) = text.split_once(CHECKSUM) else { return false };
    let Some(rest) = after.get(UNKNOWN.len()..) else { return false };
    sealed([before, CHECKSUM, UNKNOWN, rest].concat()) == text
}

/// FNV-1a with 64 bits (draft-eastlake-fnv): it finds damage, not ill will, for which root alone can write the file.
fn checksum(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Whether a bridge looks like one of ours, by its alias and index; only a journal knows.
pub fn looks_ours(link: &Link) -> bool {
    let has_alias = link.alias.as_deref().is_some_and(|alias| alias.starts_with("kvm-bridge "));
    link.kind == Kind::Bridge && link.index >= FIRST_INDEX && has_alias
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac::Mac;
    use crate::share::{Changes, MarkBy, ends};
    use crate::step::Ipv6;

    fn journal() -> Journal {
        let [br0, eth0] = ["br0", "eth0"].map(|name| IfName::new(name).unwrap());
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let share = Share {
            uplink: eth0,
            index: 2,
            mac,
            mtu: 1400,
            follow: false,
            mark: MarkBy::Skbedit,
            changes: Changes { adds_clsact: true, sets_promiscuous: true, ..Changes::default() },
        };
        let create = Create { mac, mtu: Some(1400), ipv6: Ipv6::Off, no_arp: true, filters_vlans: false };
        Journal::new(br0, false, create, Some(Attachment::Shared(share)), life(), *b"12345678")
    }

    fn life() -> Life {
        Life { boot: "a boot".to_owned(), namespace: Some(1) }
    }

    #[test]
    fn it_reads_what_it_writes() {
        let text = serde_json::to_string(&journal()).unwrap();
        let back: Journal = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
        assert_eq!(back.share().map(|share| share.index), Some(2));
    }

    #[test]
    fn any_damage_to_it_is_seen() {
        let whole = sealed(serde_json::to_string_pretty(&journal()).unwrap());
        assert!(is_whole(&whole) && whole.is_ascii());
        for at in 0..whole.len() {
            let mut damaged = whole.clone().into_bytes();
            damaged[at] ^= 1;
            assert!(!is_whole(&String::from_utf8_lossy(&damaged)), "byte {at}");
            assert!(!is_whole(&whole[..at]), "cut at {at}");
        }
    }

    #[test]
    fn one_of_another_namespace_is_not_current() {
        let journal = journal();
        assert!(journal.is_of(&life()));
        assert!(!journal.is_of(&Life { namespace: Some(2), ..life() }));
        assert!(!journal.is_of(&Life { boot: "another".to_owned(), ..life() }));
    }

    #[test]
    fn its_links_are_known_by_index_and_alias() {
        let journal = journal();
        assert!(journal.port_end() <= i32::MAX as u32 && journal.index >= FIRST_INDEX);
        let [host_end, _] = ends(&journal.bridge);
        let bare = Link { kind: Kind::Other("veth".to_owned()), ..Link::bare(journal.host_end(), host_end) };
        assert!(journal.owns_end(&bare), "it may be killed before it has its alias");
        assert!(journal.owns_end(&Link { alias: Some(journal.alias()), ..bare.clone() }));
        assert!(!journal.owns_end(&Link { alias: Some("kvm-bridge 00".to_owned()), ..bare.clone() }));
        assert!(!journal.owns_end(&Link { index: 7, ..bare.clone() }));
        assert!(!journal.owns_end(&Link { kind: Kind::Card, ..bare }));
    }

    #[test]
    fn another_bridge_of_the_same_name_is_not_ours() {
        let journal = journal();
        let ours = Link {
            kind: Kind::Bridge,
            alias: Some(journal.alias()),
            ..Link::bare(journal.index, journal.bridge.clone())
        };
        assert!(journal.owns(&ours));
        assert!(!journal.owns(&Link { index: 7, ..ours.clone() }));
        assert!(!journal.owns(&Link { alias: Some("kvm-bridge 00".to_owned()), ..ours.clone() }));
        assert!(!journal.owns(&Link { kind: Kind::Card, ..ours }));
    }
}
