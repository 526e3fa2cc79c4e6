//! Machines with their network card on board: those of microcontrollers and of systems on a chip.
//!
//! Such a machine has no PCI, and `-device` puts nothing on it; `-net nic` connects a card that is there already. Which
//! machine has what differs from one version of QEMU to the next, so QEMU is asked: it makes the machine, with as many
//! `-net nic`s as are wanted, runs nothing, and tells by its monitor which buses there are and which cards were connected.
#![forbid(unsafe_code)]

use crate::argv::Line;
use crate::argv::needs::Kind;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// What a machine has for network cards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Board {
    /// The types of its buses, as QEMU calls them.
    pub buses: Vec<String>,
    /// The models of the cards that the `-net nic`s became, in their order.
    pub cards: Vec<String>,
}

/// Machines that have PCI, or about which another table knows: QEMU's architecture, and the beginnings of their names. The
/// empty name is that of the default machine; where there is none, QEMU wants one to be named.
const KNOWN: [(&str, &[&str]); 10] = [
    ("arm", &["virt"]),
    ("aarch64", &["virt", "sbsa-ref"]),
    ("riscv32", &["virt"]),
    ("riscv64", &["virt"]),
    ("ppc64", &["pseries", "powernv"]),
    ("ppc", &["g3beige", "mac99", "ppce500"]),
    ("mips", &["malta"]),
    ("mipsel", &["malta"]),
    ("mips64", &["malta"]),
    ("mips64el", &["malta", "loongson3-virt"]),
];
/// Architectures whose default machine has PCI, or that have none.
const DEFAULTS: [&str; 10] =
    ["arm", "aarch64", "ppc64", "ppc", "mips", "mipsel", "mips64", "mips64el", "avr", "tricore"];
/// Architectures all of whose machines have PCI, or are in another table.
const WITHOUT_QUESTION: [&str; 7] = ["x86_64", "i386", "s390x", "alpha", "hppa", "loongarch64", "sparc64"];

/// Whether QEMU has to be asked about a machine: it takes a moment, which the usual ones are spared.
pub fn is_to_be_asked_about(machine: Option<&[u8]>, system: &str) -> bool {
    // Debian has a QEMU for that machine alone.
    let system = system.strip_suffix("-microvm").unwrap_or(system);
    let is_known = |machine: &[u8]| {
        KNOWN.iter().any(|(architecture, beginnings)| {
            *architecture == system && beginnings.iter().any(|beginning| machine.starts_with(beginning.as_bytes()))
        })
    };
    let has_good_name = |machine: &[u8]| !machine.is_empty() && !machine.contains(&b',');
    !WITHOUT_QUESTION.contains(&system)
        && match machine {
            Some(machine) => has_good_name(machine) && !is_known(machine),
            None => !DEFAULTS.contains(&system),
        }
}

/// The questions about the machine of a line with so many cards on board, of which the first with an answer counts: some machines
/// are not made without what they boot, some not with more cards than they have. `zeroes` is a file that stands in for a firmware
/// where QEMU has no qtest.
pub fn questions(line: &Line, cards: usize, zeroes: Option<&str>) -> Vec<Vec<OsString>> {
    let owned = |words: [&str; 2]| words.map(OsString::from).to_vec();
    let own = Some(firmware(line)).filter(|words| !words.is_empty()).map(|words| ("tcg", words));
    let bios = zeroes.map(|path| ("tcg", owned(["-bios", path])));
    let flashes = ["16M", "32M"].map(|size| {
        let flash = format!("if=pflash,format=raw,file.driver=null-co,file.size={size},file.read-zeroes=on");
        ("tcg", owned(["-drive", &flash]))
    });
    let ways = [("tcg", Vec::new())].into_iter().chain(own).chain([("qtest", Vec::new())]).chain(bios).chain(flashes);
    let ways: Vec<(&str, Vec<OsString>)> = ways.collect();
    let counts = if cards > 1 { vec![cards, 1] } else { vec![cards] };
    let tries = counts.into_iter().flat_map(|count| ways.iter().map(move |(accel, more)| (count, accel, more)));
    tries
        .map(|(count, accel, more)| {
            question(line.machine.as_deref(), accel, count)
                .into_iter()
                .map(OsString::from)
                .chain(more.iter().cloned())
                .collect()
        })
        .collect()
}

/// The words of a line for its kernel and its firmware.
fn firmware(line: &Line) -> Vec<OsString> {
    let words = line.needs.files.iter().filter_map(|file| match file.kind {
        Kind::Kernel => Some(["-kernel".into(), OsStr::from_bytes(&file.path).to_owned()]),
        Kind::Firmware if file.shown.starts_with("-bios ") => {
            Some(["-bios".into(), OsStr::from_bytes(&file.path).to_owned()])
        }
        _ => None,
    });
    words.flatten().collect()
}

/// The words of a question about a machine with so many `-net nic`s. With `tcg` it is made as for a guest; with `qtest`
/// QEMU does not look for what it would boot: some machines are made with a firmware only.
pub fn question(machine: Option<&[u8]>, accel: &str, cards: usize) -> Vec<String> {
    let machine = machine.map(String::from_utf8_lossy);
    let mut words: Vec<String> = machine.iter().flat_map(|machine| ["-M", machine].map(str::to_owned)).collect();
    let rest = ["-accel", accel, "-nodefaults", "-display", "none", "-S", "-qmp", "stdio"];
    words.extend(rest.map(str::to_owned));
    for number in 0..cards {
        let netdev = format!("hubport,id=card{number},hubid={number}");
        words.extend(["-netdev".to_owned(), netdev, "-net".to_owned(), format!("nic,netdev=card{number}")]);
    }
    words
}

/// What its monitor is told.
pub const COMMANDS: &str = r#"{"execute":"qmp_capabilities"}
{"execute":"human-monitor-command","arguments":{"command-line":"info qtree"}}
{"execute":"human-monitor-command","arguments":{"command-line":"info network"}}
{"execute":"quit"}
"#;

impl Board {
    /// Reads what QEMU's monitor said; `None` if that is no answer.
    pub fn read(said: &str) -> Option<Self> {
        let answers = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut texts = answers.filter_map(|answer| answer.get("return")?.as_str().map(str::to_owned));
        let (tree, network) = (texts.next()?, texts.next()?);
        let mut buses: Vec<String> = Vec::new();
        // Below each `bus: NAME` stands its type.
        for (line, next) in tree.lines().zip(tree.lines().skip(1)) {
            let kind = next.trim().strip_prefix("type ").filter(|_| line.trim_start().starts_with("bus: "));
            buses.extend(kind.filter(|kind| !buses.iter().any(|known| known == kind)).map(str::to_owned));
        }
        // ` \ card0: lan9118.0: index=0,type=nic,...`: what is behind a port of a hub.
        let cards = (0..).map_while(|number| {
            let port = format!("\\ card{number}: ");
            let card = network.lines().find_map(|line| line.trim_start().strip_prefix(&port))?;
            let (name, rest) = card.split_once(": ")?;
            rest.contains("type=nic").then(|| name.rsplit_once('.').map_or(name, |(model, _)| model).to_owned())
        });
        (!buses.is_empty()).then(|| Self { cards: cards.collect(), buses })
    }

    fn has(&self, bus: &str) -> bool {
        self.buses.iter().any(|known| known == bus)
    }

    /// Whether any card for PCI fits.
    pub fn has_pci(&self) -> bool {
        self.has("PCI") || self.has("PCIE")
    }

    /// Whether virtio's card fits that needs no PCI.
    pub fn has_virtio(&self) -> bool {
        self.has("virtio-mmio-bus")
    }

    /// Whether a card for USB may fit: the tree does not tell which speeds its ports have.
    pub fn may_have_usb(&self) -> bool {
        self.has("usb-bus")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_machines_are_not_asked_about() {
        for (machine, system, is_asked) in [
            (None, "x86_64", false),
            (Some("anything"), "x86_64", false),
            (Some("virt"), "aarch64", false),
            (Some("virt-9.2"), "arm", false),
            (None, "aarch64", false),
            (Some("pseries-7.2"), "ppc64", false),
            (None, "ppc64", false),
            (None, "s390x", false),
            (Some("mps2-an385"), "arm", true),
            (Some("sifive_u"), "riscv64", true),
            (None, "riscv64", true),
            (None, "microblaze", true),
            (Some("virt"), "a-new-one", true),
            (Some(""), "arm", false),
            (Some("a,b"), "arm", false),
        ] {
            assert_eq!(is_to_be_asked_about(machine.map(str::as_bytes), system), is_asked, "{machine:?} {system}");
        }
    }

    #[test]
    fn an_answer_is_read() {
        let said = r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}
{"return": {}}
{"return": "bus: main-system-bus\r\n  type System\r\n  dev: lan9118, id \"\"\r\n    netdev = \"card0\"\r\n  dev: x\r\n    bus: ssi\r\n      type SSI\r\n    bus: ssi2\r\n      type SSI\r\n"}
{"return": "hub 1\r\n \\ card1\r\nhub 0\r\n \\ card0: lan9118.0: index=0,type=nic,model=lan9118,macaddr=52:54:00:12:34:56\r\n"}
{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {}}
"#;
        let board = Board::read(said).unwrap();
        let list = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        assert_eq!((&board.buses, &board.cards), (&list(&["System", "SSI"]), &list(&["lan9118"])));
        assert!(!board.has_pci() && !board.has_virtio() && !board.may_have_usb());
        // Without a model, as cards on board may have it; and with several.
        let with = |network: &str| Board::read(&said.replace("hub 1\\r\\n \\\\ card1\\r\\n", network)).unwrap().cards;
        assert_eq!(with(r" \\ card1: cadence_gem.1: index=0,type=nic,\r\n"), ["lan9118", "cadence_gem"]);
        for nonsense in ["", "QEMU emulator version 7.2", "{\"return\": \"x\"}", "{\"return\":\"\"}\n{\"return\":\"\"}"]
        {
            assert_eq!(Board::read(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_question_names_the_machine_and_its_cards() {
        let words = question(Some(b"sifive_u"), "tcg", 2).join(" ");
        assert!(words.starts_with("-M sifive_u -accel tcg -nodefaults "), "{words}");
        assert!(words.ends_with("-netdev hubport,id=card1,hubid=1 -net nic,netdev=card1"), "{words}");
        assert!(question(None, "qtest", 1)[0] == "-accel");
    }
}
