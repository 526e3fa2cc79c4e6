//! The filters that are there, and which of them are ours.

use crate::bpf::Instruction;
use crate::mac::Mac;
use crate::share::{Action, Classifier, Filter, Hook, On, Place};

/// The indices of the links that a filter is about.
#[derive(Debug, Clone, Copy)]
pub struct Links {
    /// The bridge.
    pub bridge: u32,
    /// The uplink.
    pub uplink: u32,
    /// The host's end of the veth pair.
    pub host_end: u32,
}

impl Links {
    /// That of one.
    pub fn index(&self, on: On) -> u32 {
        match on {
            On::Bridge => self.bridge,
            On::Uplink => self.uplink,
            On::HostEnd => self.host_end,
        }
    }

    /// What marks the filters that are there for a TAP, or for none (0).
    pub fn cookie(&self, tap: u32) -> Cookie {
        Cookie { bridge: self.bridge, tap }
    }
}

/// A mark on our filters' actions by which they are known as ours (TCA_ACT_COOKIE): the bridge's own number, and the index of
/// the TAP that a filter is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cookie {
    /// The bridge's index.
    pub bridge: u32,
    /// The TAP's, of an entry that is there before the guest has sent anything.
    pub tap: u32,
}

impl Cookie {
    /// What is the same in all of ours.
    const START: [u8; 4] = *b"kvmb";

    /// As the kernel keeps it.
    pub fn bytes(self) -> Vec<u8> {
        [Self::START, self.bridge.to_be_bytes(), self.tap.to_be_bytes()].concat()
    }

    /// One that is there; `None` for one of somebody else's.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        (bytes.get(..4)? == Self::START).then_some(Self { bridge: number(4)?, tap: number(8)? })
    }

    /// The name of an eBPF program, which has no action to carry the mark (TCA_BPF_NAME).
    pub fn name(self, set: bool) -> String {
        format!("kvmb-{:08x}-{}", self.bridge, if set { "mark" } else { "clear" })
    }

    /// That of a program of this name, if it is ours.
    pub fn of_name(name: &str) -> Option<Self> {
        let (bridge, _) = name.strip_prefix("kvmb-")?.split_once('-')?;
        Some(Self { bridge: u32::from_str_radix(bridge, 16).ok()?, tap: 0 })
    }
}

/// A filter that is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Its place.
    pub pref: u16,
    /// Its number there.
    pub handle: u32,
    /// Its classifier, as the kernel calls it.
    pub kind: String,
    /// Whether it is none, but the place of filters that may be there.
    pub is_place: bool,
    /// The hash table that it is or that it is in (`u32` only).
    pub table: Option<u32>,
    /// The hash table that it leads to (`u32` only).
    pub leads_to: Option<u32>,
    /// Its classic program, of one that has one.
    pub program: Vec<Instruction>,
    /// Its name, of an eBPF program.
    pub name: Option<String>,
    /// The address that it is for, of one in a hash table.
    pub entry: Option<Mac>,
    /// The sender that it is for, of one that leads to a hash table.
    pub sender: Option<Mac>,
    /// Whose it is, if it is ours.
    pub cookie: Option<Cookie>,
    /// Where its first action sends frames.
    pub target: Option<u32>,
    /// How many frames met it.
    pub packets: u64,
    /// And how many bytes they had.
    pub bytes: u64,
}

impl Found {
    /// Whether it classifies frames: a place and a hash table do not.
    pub fn is_filter(&self) -> bool {
        !self.is_place && !self.is_table()
    }

    /// Whether it is a hash table and none of its entries.
    pub fn is_table(&self) -> bool {
        self.table.is_some() && self.handle & 0x000f_ffff == 0
    }

    /// Whether it stands where the hash table of a place does.
    pub fn is_in_table_of(&self, place: Place) -> bool {
        self.kind == "u32" && self.pref == place.of_table()
    }

    /// Whether it is one of the bridge of this index.
    pub fn is_of(&self, bridge: u32) -> bool {
        self.cookie.is_some_and(|cookie| cookie.bridge == bridge)
    }

    /// The address of an entry that the bridge has heard of, and that no guest of ours was given.
    pub fn learnt(&self) -> Option<Mac> {
        self.entry.filter(|_| self.cookie.is_some_and(|cookie| cookie.tap == 0))
    }

    /// Whether it is this one, as it should be.
    pub fn is_as(&self, filter: &Filter, links: Links) -> bool {
        let target = filter.actions.iter().find_map(|action| match action {
            Action::Mirred { to, .. } => Some(links.index(*to)),
            Action::Mark(_) => None,
        });
        let is_its = match &filter.classifier {
            Classifier::Bpf(program) | Classifier::Verdict(program) => {
                self.program == *program && self.target == target
            }
            Classifier::Mark(set) => self.name.as_deref() == Some(&links.cookie(0).name(*set)),
            Classifier::Table(table) => self.is_table() && self.table == Some(*table),
            Classifier::ToTable(mac, table) => {
                self.sender == Some(*mac) && self.leads_to == Some(*table) && self.cookie == Some(links.cookie(0))
            }
            Classifier::Entry(mac, table) => {
                self.entry == Some(*mac) && self.table == Some(*table) && self.target == target
            }
        };
        self.pref == filter.pref && is_its
    }
}

/// How many frames and bytes each way has carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// From the network to the bridge: frames and bytes.
    pub from_network: (u64, u64),
    /// From the host to the bridge.
    pub from_host: (u64, u64),
    /// From the bridge, to the network, to the host or to both.
    pub from_bridge: (u64, u64),
}

/// What is on an uplink's two hooks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct There {
    /// For what comes in.
    pub ingress: Vec<Found>,
    /// For what goes out.
    pub egress: Vec<Found>,
}

impl There {
    /// A place for the filters of another bridge.
    pub fn place(&self) -> Option<Place> {
        let prefs = self.all().map(|(_, found)| found.pref).collect();
        Place::beside(&prefs, &self.egress.iter().filter_map(|found| found.table).collect())
    }

    /// Those of a bridge: what lets frames in is first.
    pub fn of(&self, bridge: u32) -> impl Iterator<Item = (Hook, &Found)> {
        self.all().filter(move |(_, found)| found.is_of(bridge))
    }

    /// Whether somebody else has filters there, too.
    pub fn has_others(&self, bridge: u32) -> bool {
        self.all().any(|(_, found)| found.is_filter() && !found.is_of(bridge))
    }

    /// Whether nobody else uses `u32` on what goes out, so that our table and all that is in it can go with its pref: of hash
    /// tables the kernel tells only those whose own pref is there, and deletes none with it while `u32` is used at another.
    pub fn is_table_alone(&self, bridge: u32, place: Place) -> bool {
        let is_foreign = |found: &Found| found.is_filter() && !found.is_of(bridge);
        !self.egress.iter().any(|found| found.kind == "u32" && (!found.is_in_table_of(place) || is_foreign(found)))
    }

    fn all(&self) -> impl Iterator<Item = (Hook, &Found)> {
        let of = |hook: Hook, all| std::iter::repeat(hook).zip::<&Vec<Found>>(all);
        of(Hook::Ingress, &self.ingress).chain(of(Hook::Egress, &self.egress))
    }
}
