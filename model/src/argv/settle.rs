//! What is left open on the line, decided by the machine that the guest will have.
#![forbid(unsafe_code)]

use crate::argv::Line;
use crate::argv::board::{Board, is_to_be_asked_about};
use crate::argv::devices::is_pci;
use crate::argv::rewrite::is_virtio;
use crate::argv::scan::UserDevice;
use crate::error::{Error, Result};
use crate::request::{Nic, Queues, Vhost};

/// The device that the guest sees where nothing else is asked for; every Linux since 2.4 has its driver.
pub const DEFAULT_MODEL: &str = "e1000";
/// The card for a machine with virtio and no PCI.
const VIRTIO: &str = "virtio-net-device";
/// More queues than this are only for who asks for them by number.
const MAX_AUTO_QUEUES: u32 = 16;

/// The machines that have no place for a PCI card: the beginning of the QEMU's architecture and of the machine's name,
/// the card that fits, and why the usual one does not.
const OTHER_CARDS: [(&str, &str, &str, &str); 9] = [
    ("", "microvm", VIRTIO, "no PCI"),
    ("s390x", "", "virtio-net-ccw", "channels in place of PCI"),
    ("x86_64", "isapc", "ne2k_isa", "ISA in place of PCI"),
    ("i386", "isapc", "ne2k_isa", "ISA in place of PCI"),
    ("m68k", "virt", VIRTIO, "no PCI"),
    ("arm", "vexpress-", VIRTIO, "no PCI"),
    ("aarch64", "vexpress-", VIRTIO, "no PCI"),
    ("arm", "raspi", "usb-net", "no PCI"),
    ("aarch64", "raspi", "usb-net", "no PCI"),
];

/// Decides on the model, the queues and vhost of each network card. `configured` is the configuration's model, `system`
/// is the end of QEMU's full name, qemu-system-SYSTEM. `ask` asks that QEMU what the machine has, if it is to have so many
/// cards on board; of the usual machines it is not asked. Returns what people should know of: sentences.
pub fn settle(
    line: &mut Line,
    configured: Option<&str>,
    system: &str,
    ask: impl FnOnce(&Line, usize) -> Option<Board>,
) -> Result<Vec<String>> {
    line.system = Some(system.to_owned());
    let other = other_card(line.machine.as_deref(), system);
    let mut notices = line.lost.clone();
    if let Some(netdev) = line.needs.netdevs.first() {
        let netdev = String::from_utf8_lossy(netdev);
        let bridge = line.nics.first().map(|nic| nic.bridge.to_string()).unwrap_or_default();
        let what = format!("a device is on the netdev '{netdev}', which no option defines");
        return Err(Error::new(what, format!("To put it on the bridge: --bridge {bridge},id={netdev}")));
    }
    if line.lone_cards > 0 {
        notices.push(
            "a network card of -net nic is connected to nothing: to put it on a bridge, give it a netdev= and --bridge the \
             same id="
                .to_owned(),
        );
    }
    let mut places = match other {
        Some(_) => None,
        None => Places::of(line, system, ask)?,
    };
    for nic in &mut line.nics {
        let own = nic.id.as_ref().and_then(|id| line.devices_on.get(id.as_bytes()));
        // The card of the user's has the last word.
        notices.extend(own.into_iter().flat_map(|own| overruled(nic, own)));
        nic.mac = own.and_then(|own| own.mac).or(nic.mac);
        let own = own.map(|own| String::from_utf8_lossy(&own.driver).into_owned());
        let mut tell = |why: &str, card: &str| {
            let word = format!("this machine has {why}: its network card on {} is {card}", nic.bridge);
            if !notices.contains(&word) {
                notices.push(word);
            }
        };
        let place = match (&own, &mut places) {
            (None, Some(places)) => places.take(nic)?,
            _ => None,
        };
        nic.is_on_board = matches!(place, Some(Place::OnBoard(_)));
        if let (None, Some(model), Some((card, why))) = (&own, &nic.model, &other) {
            if is_pci(model) == Some(true) && has_never_pci(line.machine.as_deref(), system) {
                let what = format!("--bridge {}: model={model}: this machine has {why}", nic.bridge);
                return Err(Error::new(what, format!("Leave model= out, for {card}.")));
            }
        }
        let card = match (own.clone().or(nic.model.take()), place, &other) {
            (Some(card), ..) => card,
            (None, Some(Place::OnBoard(card)), _) => {
                tell("no PCI", &format!("the {card} on board"));
                card
            }
            (None, Some(Place::Virtio), _) => {
                tell("no PCI", VIRTIO);
                VIRTIO.to_owned()
            }
            (None, None, Some((card, why))) => {
                tell(why, card);
                (*card).to_owned()
            }
            (None, None, None) => configured.unwrap_or(DEFAULT_MODEL).to_owned(),
        };
        nic.mac = nic.mac.or_else(|| line.devices.global(&names_of(&card), "mac")?.parse().ok());
        let settled = settle_queues(nic, &card, own.is_some(), line.cpus).and_then(|()| settle_vhost(nic, &card));
        settled.map_err(|error| error.of_request(&nic.bridge))?;
        nic.model = Some(card);
    }
    Ok(notices)
}

/// What is asked for and comes to nothing, as the line's own card says otherwise: sentences.
fn overruled(nic: &Nic, own: &UserDevice) -> Vec<String> {
    let driver = String::from_utf8_lossy(&own.driver);
    let card = if driver.is_empty() { "network card".to_owned() } else { format!("network card {driver}") };
    let start = |key: &str| format!("{key} of --bridge {} comes to nothing: the line's own {card}", nic.bridge);
    let mut all = Vec::new();
    if let (Some(asked), Some(has)) = (nic.mac, own.mac.filter(|has| nic.mac != Some(*has))) {
        all.push(format!("{} has the address {has}", start(&format!("mac={asked}"))));
    }
    let is_it = |model: &String| names_of(&driver).contains(&model.as_str()) || names_of(model).contains(&&*driver);
    if let Some(model) = nic.model.as_ref().filter(|model| !is_it(model) && own.model.as_ref() != Some(model)) {
        all.push(format!("{} is what the guest sees", start(&format!("model={model}"))));
    }
    if let Some(Queues::Number(number @ 2..)) = nic.queues {
        let key = start(&format!("queues={number}"));
        match is_virtio(&driver) {
            true if own.has_mq => {}
            true => all.push(format!("{key} has one queue; to use them, it needs mq=on,vectors={}", 2 * number + 2)),
            false => all.push(format!("{key} has one queue")),
        }
    }
    all
}

/// Where a card goes on a machine without PCI.
enum Place {
    /// It is there already, and of this model.
    OnBoard(String),
    /// virtio's that needs no PCI fits.
    Virtio,
}

/// What a machine without PCI has for our cards, as its QEMU tells.
struct Places {
    machine: String,
    board: Board,
    /// How many of the cards on board are taken: by `-nic` and `-net nic` of the line first.
    taken: usize,
}

impl Places {
    /// Of the usual machines, and where the line has a card for each of ours, there is no question.
    fn of(line: &Line, system: &str, ask: impl FnOnce(&Line, usize) -> Option<Board>) -> Result<Option<Self>> {
        if !is_to_be_asked_about(line.machine.as_deref(), system) {
            return Ok(None);
        }
        let has_own = |id: &Option<String>| id.as_ref().is_some_and(|id| line.devices_on.contains_key(id.as_bytes()));
        let open: Vec<&Nic> = line.nics.iter().filter(|nic| !has_own(&nic.id)).collect();
        if open.is_empty() {
            return Ok(None);
        }
        let taken = line.devices.cards;
        let machine = match line.machine.as_deref().map(String::from_utf8_lossy) {
            Some(machine) => format!("the machine {machine}"),
            None => "this QEMU's default machine".to_owned(),
        };
        match (ask(line, taken + open.len()), open.iter().find(|nic| nic.model.is_none())) {
            (Some(board), _) => Ok((!board.has_pci()).then_some(Self { machine, board, taken })),
            // Who names a model knows the machine.
            (None, None) => Ok(None),
            (None, Some(nic)) => {
                let what = format!("this QEMU does not tell which network cards {machine} can have");
                let remedy = format!(
                    "Say it: --bridge {0},model=e1000 if it has PCI, or --bridge {0},id=lan -net nic,netdev=lan for a card on \
                     board.",
                    nic.bridge
                );
                Err(Error::new(what, remedy))
            }
        }
    }

    /// The place for the next card. Where a model is asked for, only that one on board is looked for, and none is needed.
    fn take(&mut self, nic: &Nic) -> Result<Option<Place>> {
        let fits = |card: &&String| nic.model.as_ref().is_none_or(|model| model == *card);
        if let Some(card) = self.board.cards.get(self.taken).filter(fits) {
            self.taken += 1;
            return Ok(Some(Place::OnBoard(card.clone())));
        }
        match &nic.model {
            Some(model) => self.check_bus(nic, model).map(|()| None),
            None if self.board.has_virtio() => Ok(Some(Place::Virtio)),
            None => Err(self.has_none(nic)),
        }
    }

    /// Refuses a model for a bus that the machine does not have. Of one that nobody knows QEMU has the last word.
    fn check_bus(&self, nic: &Nic, model: &str) -> Result<()> {
        let bus = match model {
            VIRTIO if !self.board.has_virtio() => "virtio bus",
            "usb-net" if !self.board.may_have_usb() => "USB",
            _ if is_pci(model) == Some(true) => "PCI",
            _ => return Ok(()),
        };
        let what = format!("--bridge {}: model={model}: {} has no {bus}", nic.bridge, self.machine);
        let remedy = match self.board.cards.get(self.taken) {
            Some(card) => format!("Leave model= out, for the {card} that it has on board."),
            None if self.board.has_virtio() => format!("Leave model= out, for {VIRTIO}."),
            None if self.board.may_have_usb() => "Its USB may take one: model=usb-net.".to_owned(),
            None => "It has no place for another network card: choose another machine, -M help lists them.".to_owned(),
        };
        Err(Error::new(what, remedy))
    }

    fn has_none(&self, nic: &Nic) -> Error {
        let (machine, cards) = (&self.machine, self.board.cards.len());
        let what = match cards {
            0 => format!("{machine} has no place for a network card: neither PCI, nor virtio, nor one on board"),
            1 => format!("{machine} has one network card, which is on board, and the line wants more"),
            _ => format!("{machine} has {cards} network cards, which are on board, and the line wants more"),
        };
        let remedy = match cards {
            0 => "Choose another machine: -M help lists them.",
            _ => "Leave out a --bridge, or a card of the line's own; replace=user takes the place of a user-mode one.",
        };
        let usb = match self.board.may_have_usb() {
            true => format!(" Its USB may take one: --bridge {},model=usb-net", nic.bridge),
            false => String::new(),
        };
        Error::new(what, format!("{remedy}{usb}"))
    }
}

/// The names by which `-global` speaks of a network card.
fn names_of(card: &str) -> Vec<&str> {
    let more: &[&str] = match card {
        "virtio-net" | "virtio-net-pci" => &["virtio-net-pci", "virtio-net-pci-base", "virtio-net-device"],
        "e1000" | "e1000-82540em" => &["e1000", "e1000-base"],
        card if card.starts_with("e1000-") => &["e1000-base"],
        "virtio-net-ccw" => &["virtio-net-device"],
        _ => &[],
    };
    std::iter::once(card).chain(more.iter().copied()).collect()
}

/// The card for a machine that the usual one does not fit, and why.
fn other_card(machine: Option<&[u8]>, system: &str) -> Option<(&'static str, &'static str)> {
    // Debian has a QEMU for this machine alone.
    let (system, usual) = match system.strip_suffix("-microvm") {
        Some(system) => (system, "microvm"),
        None => (system, ""),
    };
    let machine = machine.map_or(usual.into(), String::from_utf8_lossy);
    let found = OTHER_CARDS.iter().find(|(architecture, beginning, ..)| {
        let fits = if architecture.is_empty() { true } else { system == *architecture };
        fits && machine.starts_with(beginning)
    });
    found.map(|(.., card, why)| (*card, *why))
}

/// Whether that machine has no PCI in any version and with any option of its own.
fn has_never_pci(machine: Option<&[u8]>, system: &str) -> bool {
    let begins = |beginning: &[u8]| machine.is_some_and(|machine| machine.starts_with(beginning));
    begins(b"isapc") || begins(b"vexpress-") || system == "m68k" && begins(b"virt")
}

fn settle_queues(nic: &mut Nic, card: &str, is_own: bool, cpus: u32) -> Result<()> {
    let can = is_virtio(card);
    let number = match nic.queues {
        None => 1,
        Some(Queues::Auto) if can => cpus.clamp(1, MAX_AUTO_QUEUES) as u16,
        Some(Queues::Auto) => 1,
        // Of a device of their own people know better.
        Some(Queues::Number(number)) if number == 1 || can || is_own => number,
        Some(Queues::Number(number)) => {
            let what = format!("queues={number}: the network card {card} has one queue");
            return Err(Error::new(what, "Leave queues= out, or give model=virtio-net-pci."));
        }
    };
    nic.queues = Some(Queues::Number(number));
    Ok(())
}

fn settle_vhost(nic: &mut Nic, card: &str) -> Result<()> {
    nic.vhost = Some(match nic.vhost {
        Some(Vhost::On) if !is_virtio(card) => {
            let what = format!("vhost=on: the kernel cannot serve the network card {card}, which is not virtio's");
            return Err(Error::new(what, "Leave vhost= out, or give model=virtio-net-pci."));
        }
        Some(Vhost::On) => Vhost::On,
        Some(Vhost::Auto) | None if is_virtio(card) => Vhost::Auto,
        _ => Vhost::Off,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::argv::scan;
    use std::ffi::OsString;

    fn settled(text: &str, system: &str) -> Result<(Line, Vec<String>)> {
        let words: Vec<OsString> = text.split_whitespace().map(Into::into).collect();
        let mut line = scan(&words, || Ok(Vec::new())).unwrap();
        let notices = settle(&mut line, Some("virtio-net-pci"), system, |_, _| None)?;
        Ok((line, notices))
    }

    /// The models of the cards of a machine that QEMU was asked about, in capitals where they are on board; and what was said.
    fn on(board: (&[&str], &[&str]), text: &str, system: &str) -> Result<(Vec<String>, Vec<String>)> {
        let list = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect();
        let words: Vec<OsString> = text.split_whitespace().map(Into::into).collect();
        let mut line = scan(&words, || Ok(Vec::new())).unwrap();
        let ask = |_: &Line, cards: usize| {
            let all: Vec<String> = list(board.1);
            Some(Board { buses: list(board.0), cards: all.into_iter().take(cards).collect() })
        };
        let notices = settle(&mut line, Some("virtio-net-pci"), system, ask)?;
        let shown = |nic: Nic| {
            let model = nic.model.unwrap_or_default();
            if nic.is_on_board { model.to_uppercase() } else { model }
        };
        Ok((line.nics.into_iter().map(shown).collect(), notices))
    }

    #[test]
    fn a_machine_without_pci_has_its_card_on_board() {
        let (lan, gem): (&[&str], &[&str]) = (&["lan9118"], &["cadence_gem", "cadence_gem"]);
        let bare: &[&str] = &["System", "SSI"];
        for (board, text, models) in [
            ((bare, lan), "--bridge br0", "LAN9118"),
            ((bare, lan), "--bridge br0,id=x", "LAN9118"),
            ((bare, gem), "--bridge br0 --bridge br1", "CADENCE_GEM CADENCE_GEM"),
            // A card of the line's own comes first.
            ((bare, gem), "--bridge br0 -nic user", "CADENCE_GEM"),
            ((bare, lan), "--bridge br0,model=lan9118", "LAN9118"),
            ((bare, lan), "--bridge br0,model=a-new-one", "a-new-one"),
            ((bare, lan), "--bridge br0,id=x -net nic,netdev=x", ""),
            ((&["usb-bus"], lan), "--bridge br0 --bridge br1,model=usb-net", "LAN9118 usb-net"),
            ((&["virtio-mmio-bus"], &[]), "--bridge br0", "virtio-net-device"),
            ((&["virtio-mmio-bus"], lan), "--bridge br0 --bridge br1", "LAN9118 virtio-net-device"),
            ((&["PCI"], lan), "--bridge br0", "virtio-net-pci"),
            ((&["PCIE"], lan), "--bridge br0", "virtio-net-pci"),
        ] {
            let (is, notices) = on(board, &format!("-M board {text}"), "arm").unwrap();
            assert_eq!(is.join(" "), models, "{text}");
            // What people ask for themselves, or have anyway, is not told.
            let is_told = models != "virtio-net-pci" && !text.contains("br0,model=") && !models.is_empty();
            assert_eq!(!notices.is_empty(), is_told, "{text}: {notices:?}");
        }
        assert_eq!(
            on((bare, lan), "-M board --bridge br0", "arm").unwrap().1,
            ["this machine has no PCI: its network card on br0 is the lan9118 on board"]
        );
        for (cards, text, says) in [
            (lan, "-M board --bridge br0 --bridge br1", "the machine board has one network card, which is on board"),
            (lan, "-M board --bridge br0 -nic user", "the machine board has one network card, which is on board"),
            (&[], "-M board --bridge br0", "the machine board has no place for a network card"),
            (&[], "--bridge br0", "this QEMU's default machine has no place for a network card"),
        ] {
            let said = on((bare, cards), text, "riscv64").unwrap_err().to_string();
            assert!(said.contains(says) && !said.contains("usb-net"), "{text}: {said}");
        }
        // A card for a bus that there is not.
        for (board, model, says) in [
            ((bare, lan), "e1000", "has no PCI\n  Leave model= out, for the lan9118 that it has on board."),
            ((bare, lan), "virtio-net-pci", "has no PCI"),
            ((bare, lan), "igb", "has no PCI"),
            ((bare, lan), "usb-net", "has no USB"),
            ((bare, lan), "virtio-net-device", "has no virtio bus"),
            ((&["virtio-mmio-bus"], &[][..]), "e1000e", "Leave model= out, for virtio-net-device."),
            ((bare, &[]), "e1000", "choose another machine"),
        ] {
            let said = on(board, &format!("-M board --bridge br0,model={model}"), "arm").unwrap_err().to_string();
            assert!(said.starts_with("--bridge br0: model=") && said.contains(says), "{model}: {said}");
        }
        for (machine, system) in [("vexpress-a9", "arm"), ("isapc", "i386"), ("virt", "m68k")] {
            let said = settled(&format!("-M {machine} --bridge br0,model=e1000"), system).unwrap_err().to_string();
            assert!(said.contains("PCI\n  Leave model= out, for "), "{machine}: {said}");
        }
        let usb = on((&["usb-bus"], lan), "-M board --bridge br0 --bridge br1", "arm").unwrap_err();
        assert!(usb.remedy().to_string().contains("--bridge br1,model=usb-net"), "{usb}");
    }

    #[test]
    fn qemu_is_asked_only_about_machines_that_nobody_knows() {
        for (text, system, count) in [
            ("-M virt --bridge br0", "aarch64", None),
            ("-M q35 --bridge br0", "x86_64", None),
            ("-M vexpress-a9 --bridge br0", "arm", None),
            ("-M board --bridge br0,model=e1000", "arm", Some(1)),
            ("-M board --bridge br0 -device usb-net,netdev=x", "arm", None),
            ("-M board --bridge br0", "arm", Some(1)),
            ("-M board --bridge br0 --bridge br0,model=e1000 -nic user -net nic -net user", "arm", Some(4)),
        ] {
            let words: Vec<OsString> = text.split_whitespace().map(Into::into).collect();
            let mut line = scan(&words, || Ok(Vec::new())).unwrap();
            let mut asked = None;
            let ask = |_: &Line, cards: usize| {
                asked = Some(cards);
                None
            };
            let settled = settle(&mut line, None, system, ask);
            assert_eq!(asked, count, "{text}");
            // Where QEMU does not tell, no card is taken for granted.
            let is_silent = count.is_some() && line.nics.iter().any(|nic| nic.model.is_none());
            assert_eq!(settled.is_err(), is_silent, "{text}: {settled:?}");
        }
    }

    fn nic(text: &str) -> Nic {
        settled(text, "x86_64").unwrap().0.nics.remove(0)
    }

    #[test]
    fn the_card_fits_the_machine() {
        for (text, system, model, says) in [
            ("", "x86_64", "virtio-net-pci", false),
            ("-M q35", "x86_64", "virtio-net-pci", false),
            ("-M microvm,x-option-roms=off", "x86_64", "virtio-net-device", true),
            ("", "x86_64-microvm", "virtio-net-device", true),
            ("-M q35", "x86_64-microvm", "virtio-net-pci", false),
            ("-M pc -machine type=microvm", "i386", "virtio-net-device", true),
            ("-M isapc", "i386", "ne2k_isa", true),
            ("", "s390x", "virtio-net-ccw", true),
            ("-M s390-ccw-virtio", "s390x", "virtio-net-ccw", true),
            ("-M virt", "m68k", "virtio-net-device", true),
            ("-M virt", "aarch64", "virtio-net-pci", false),
            ("-M vexpress-a15", "arm", "virtio-net-device", true),
        ] {
            let (line, notices) = settled(&format!("--bridge br0 {text}"), system).unwrap();
            assert_eq!(
                (line.nics[0].model.as_deref(), notices.len()),
                (Some(model), usize::from(says)),
                "{system} {text}"
            );
        }
        let (line, notices) = settled("--bridge br0,model=e1000 -M microvm", "x86_64").unwrap();
        assert_eq!((line.nics[0].model.as_deref(), notices.len()), (Some("e1000"), 0));
    }

    #[test]
    fn what_a_line_by_hand_has_left_is_for_our_cards() {
        // The id, the model of the card, and its address.
        let of = |text: &str| {
            let (line, _) = settled(text, "x86_64").unwrap();
            let nic = &line.nics[0];
            let mac = nic.mac.map(|mac| mac.to_string()).unwrap_or_default();
            (nic.id.clone().unwrap_or_default(), nic.model.clone().unwrap_or_default(), mac)
        };
        let mac = "02:00:00:00:00:07";
        for (text, id, model, is) in [
            ("--bridge br0 -device e1000,netdev=net0", "net0", "e1000", ""),
            (r#"--bridge br0 -device {"driver":"e1000","netdev":"net0"}"#, "net0", "e1000", ""),
            (
                "-device e1000,netdev=net0 --bridge br0 -netdev user,id=net1 -device e1000,netdev=net1",
                "net0",
                "e1000",
                "",
            ),
            ("--bridge br0 -net nic,netdev=net0,model=rtl8139", "net0", "rtl8139", ""),
            ("--bridge br0 -object filter-dump,id=f,netdev=net0,file=x", "net0", "virtio-net-pci", ""),
            ("--bridge br0 -netdev hubport,hubid=0,id=p,netdev=net0", "net0", "", ""),
            ("--bridge br0 -net nic", "bridge0", "", ""),
            ("--bridge br0 -net nic,model=e1000,macaddr=2:0:0:0:0:7", "bridge0", "e1000", mac),
            ("--bridge br0,id=lan -net nic,model=virtio", "lan", "virtio-net", ""),
            ("--bridge br0 -net nic -net user", "", "virtio-net-pci", ""),
            ("--bridge br0,model=e1000 -global e1000.mac=2:0:0:0:0:7", "", "e1000", mac),
            ("--bridge br0 -global virtio-net-pci.mac=2:0:0:0:0:7", "", "virtio-net-pci", mac),
            ("--bridge br0 -global driver=virtio-net-pci,property=mac,value=2:0:0:0:0:7", "", "virtio-net-pci", mac),
            ("--bridge br0 -global e1000.mac=2:0:0:0:0:7", "", "virtio-net-pci", ""),
            (
                "--bridge br0,mac=2:0:0:0:0:8 -global virtio-net-pci.mac=2:0:0:0:0:7",
                "",
                "virtio-net-pci",
                "02:00:00:00:00:08",
            ),
            ("--bridge br0 -device e1000,netdev=n,id=v -set device.v.mac=2:0:0:0:0:7", "n", "e1000", mac),
        ] {
            assert_eq!(of(text), (id.to_owned(), model.to_owned(), is.to_owned()), "{text}");
        }
        for (text, says) in [
            ("--bridge br0,id=lan -device e1000,netdev=net0", "--bridge br0,id=net0"),
            ("--bridge br0 --bridge br1 -device e1000,netdev=net0", "--bridge br0,id=net0"),
            ("--bridge br0 -device e1000,netdev=net0 -device e1000,netdev=net1", "--bridge br0,id=net0"),
        ] {
            assert!(settled(text, "x86_64").unwrap_err().remedy().to_string().contains(says), "{text}");
        }
        assert!(settled("--bridge br0 -net nic -net nic", "x86_64").unwrap().1[0].contains("connected to nothing"));
        let both = "--bridge br0 --bridge br1 -device e1000,netdev=a -device e1000,netdev=b";
        let ids: Vec<_> = settled(both, "x86_64").unwrap().0.nics.into_iter().filter_map(|nic| nic.id).collect();
        assert_eq!(ids, ["a", "b"]);
    }

    #[test]
    fn what_the_lines_own_card_overrules_is_told() {
        let notices = |text: &str| settled(text, "x86_64").unwrap().1.join("\n");
        let card = "-device e1000,netdev=n,mac=2:0:0:0:0:9";
        let said = notices(&format!("--bridge br0,id=n,mac=2:0:0:0:0:8,model=igb,queues=2 {card}"));
        for part in
            ["mac=02:00:00:00:00:08 of --bridge br0", "address 02:00:00:00:00:09", "model=igb of", "queues=2 of"]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
        let replaced =
            notices(&format!("-netdev user,id=n {card} --bridge br0,replace=user,mac=2:0:0:0:0:8,model=igb"));
        assert!(replaced.contains("mac=02:00:00:00:00:08") && replaced.contains("model=igb"), "{replaced}");
        let mq = notices("--bridge br0,id=n,queues=4 -device virtio-net-pci,netdev=n");
        assert!(mq.contains("mq=on,vectors=10"), "{mq}");
        for agreed in [
            "--bridge br0,id=n,mac=2:0:0:0:0:9,model=e1000 -device e1000,netdev=n,mac=2:0:0:0:0:9",
            "--bridge br0,id=n,mac=2:0:0:0:0:9 -device e1000,netdev=n",
            "--bridge br0,id=n,queues=4 -device virtio-net-pci,netdev=n,mq=on,vectors=10",
            "--bridge br0,id=n,model=virtio-net-pci -device virtio-net,netdev=n",
            "--bridge br0,model=igb,mac=2:0:0:0:0:9 -net nic",
            "--bridge br0,model=igb,mac=2:0:0:0:0:9",
        ] {
            assert_eq!(notices(agreed), "", "{agreed}");
        }
    }

    #[test]
    fn queues_are_a_matter_of_virtio() {
        let queues = |text: &str| nic(text).queues;
        assert_eq!(queues("--bridge br0"), Some(Queues::Number(1)));
        assert_eq!(queues("--bridge br0,queues=4"), Some(Queues::Number(4)));
        assert_eq!(queues("--bridge br0,queues=auto -smp 3"), Some(Queues::Number(3)));
        assert_eq!(queues("--bridge br0,queues=auto -smp 300"), Some(Queues::Number(16)));
        assert_eq!(queues("--bridge br0,queues=auto,model=e1000 -smp 3"), Some(Queues::Number(1)));
        assert_eq!(queues("--bridge br0,queues=2,id=x -device igb,netdev=x"), Some(Queues::Number(2)));
        assert!(settled("--bridge br0,queues=2,model=e1000", "x86_64").is_err());
    }

    #[test]
    fn so_is_vhost() {
        let vhost = |text: &str| nic(text).vhost;
        assert_eq!(vhost("--bridge br0"), Some(Vhost::Auto));
        assert_eq!(vhost("--bridge br0,model=e1000"), Some(Vhost::Off));
        assert_eq!(vhost("--bridge br0,vhost=on"), Some(Vhost::On));
        assert_eq!(vhost("--bridge br0,vhost=off"), Some(Vhost::Off));
        assert_eq!(vhost("--bridge br0,id=x -device e1000,netdev=x"), Some(Vhost::Off));
        assert!(settled("--bridge br0,vhost=on,model=e1000", "x86_64").is_err());
    }
}
