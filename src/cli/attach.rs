//! `kvm-bridge attach`.

use crate::cli::guest::{Guest, Search};
use crate::launch::inherited::Inherited;
use crate::monitor::cards::Card;
use crate::monitor::{Failure, Monitor};
use crate::netlink::Netlink;
use crate::network::bring_up::bring_up;
use crate::network::links::unreadable;
use crate::state::config;
use crate::sys::tap_users::own_processes;
use crate::sys::{place, process, tap};
use crate::vm::{Store, VmId};
use clap::Args;
use model::argv;
use model::argv::inspect::QemuLine;
use model::argv::rewrite;
use model::argv::rewrite::Netdev;
use model::argv::scan::Run;
use model::argv::{Line, scan};
use model::error::{Error, Result};
use model::inventory::Process;
use model::mac::Mac;
use model::report;
use model::request::Nic;
use model::text;
use model::text::shell::quote;
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::path::Path;

/// The arguments of `kvm-bridge attach`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Attach {
    /// The VM, as for 'kvm-bridge ip'
    #[arg(id = "guest", value_name = "VM")]
    vm: String,
    /// The bridge, and keys as for 'qemu-kvm --bridge'
    #[arg(long, value_name = "BRIDGE[,KEY=VALUE]")]
    bridge: String,
    /// Also print what to add to the command line of the VM's next start
    #[arg(long)]
    save: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge attach alice --bridge br0
  kvm-bridge attach alice --bridge br1,model=virtio-net-pci --save
The guest has to run with a QMP socket: qemu-kvm --bridge br0,monitor=on ..., or with one of your own.
A q35 machine also needs a free port: -device pcie-root-port,id=hot0,chassis=1";

/// What a network is called, with a number behind it, where nobody says.
const NAME: &str = "bridge";

/// A guest that is talked with.
pub(super) struct Talk {
    pub(super) guests: Vec<Guest>,
    pub(super) process: Process,
    pub(super) monitor: Monitor,
}

impl Talk {
    /// Finds a guest of the calling user's and the socket of its QEMU. One that libvirt has started is libvirt's to change: `virsh` is
    /// the command for that.
    pub(super) fn begin(search: &Search, virsh: impl FnOnce(&str) -> String) -> Result<Self> {
        let name = search.name();
        let (guests, process) = match search.find_in_time(None) {
            Ok((_, guests)) => {
                let process = guests.iter().find_map(|guest| guest.port.process.clone()).filter(Process::is_qemu);
                // That of a guest in a network of the user's own is outside.
                let process = process.or_else(|| own_processes().find(|process| is_of(process, &guests)));
                let unseen = || {
                    let what = format!("no QEMU of {name} is to be seen");
                    Error::new(what, "Run this as the user who has started it.")
                };
                (guests, process.ok_or_else(unseen)?)
            }
            Err(error) => (Vec::new(), without_card(search.vm).ok_or(error)?),
        };
        // What another user's process says of itself is that user's word, which moves nothing of the caller's.
        if process.uid != nix::unistd::geteuid().as_raw() {
            let whose =
                guests.iter().find_map(|guest| guest.port.user.clone()).unwrap_or_else(|| "another user".into());
            let what = format!("{name} is a guest of {}", text::one_line(&whose));
            let remedy =
                format!("Run it as that user: sudo -u {} {} ...", quote(&whose), search.command_for(search.vm));
            return Err(Error::new(what, remedy));
        }
        let line = QemuLine::read(process.words.get(1..).unwrap_or_default());
        if line.is_libvirts {
            return Err(Error::new(format!("{name} is a guest of libvirt"), format!("Use: {}", virsh(&name))));
        }
        let Some(socket) = line.monitors.first() else {
            let what = format!("the QEMU of {name} has no QMP socket");
            let bridge = guests.first().map_or("BR", Guest::bridge_name);
            let remedy = format!(
                "Start it with one: --bridge {},monitor=on, or -qmp unix:PATH,server=on,wait=off",
                quote(bridge)
            );
            return Err(Error::new(what, remedy));
        };
        let socket = Path::new("/proc").join(process.pid.to_string()).join("cwd").join(socket);
        let monitor = Monitor::connect(&socket, process.pid)?;
        let mut talk = Self { guests, process, monitor };
        talk.clear(&line);
        Ok(talk)
    }

    /// Removes the networks without a card that an `attach` has left which was killed: those of its names that are not on the command
    /// line. Nobody else is in the midst of it: a monitor talks with one program at a time.
    fn clear(&mut self, line: &QemuLine) {
        let left = self.monitor.networks_without_card().unwrap_or_default();
        let is_ours = |id: &&String| id.strip_prefix(NAME).is_some_and(|number| number.parse::<u32>().is_ok());
        for id in left.iter().filter(is_ours).filter(|id| !line.netdevs.iter().any(|netdev| netdev.id == **id)) {
            if self.monitor.execute("netdev_del", json!({ "id": id })).is_ok() {
                crate::output::say(
                    "kvm-bridge",
                    format_args!("removed {id}, which an attach that was killed has left"),
                );
            }
        }
    }

    /// Whether a card is behind one of the guest's ports.
    fn is_known(&self, card: &Card) -> bool {
        self.guests.iter().any(|guest| guest.has(card))
    }
}

/// The one QEMU of the calling user's on this host (a container has others) that has this name or number.
fn without_card(vm: &str) -> Option<Process> {
    let is_here = |pid: i32| process::network_of(&Path::new("/proc").join(pid.to_string())) == process::own_network();
    let is_called = |process: &Process| {
        let name = || QemuLine::read(process.words.get(1..).unwrap_or_default()).name;
        process.is_qemu() && (process.pid.to_string() == vm || name().as_deref() == Some(vm)) && is_here(process.pid)
    };
    let mut found = own_processes().filter(is_called);
    let first = found.next();
    first.filter(|_| found.next().is_none())
}

/// Whether a process is the QEMU of a guest, by an address that no other has.
fn is_of(process: &Process, guests: &[Guest]) -> bool {
    let line = || QemuLine::read(process.words.get(1..).unwrap_or_default());
    let has = |mac: Mac| guests.iter().any(|guest| guest.port.mac == Some(mac));
    process.is_qemu() && line().devices.iter().any(|device| device.mac.is_some_and(has))
}

impl Attach {
    pub(super) fn run(self) -> Result<String> {
        let rest = format!(" --bridge {}", quote(&self.bridge));
        let search = Search { vm: &self.vm, command: ["attach", &rest], is_to_be_sure: false };
        let mut talk = Talk::begin(&search, |name| {
            let bridge = self.bridge.split(',').next().unwrap_or_default();
            format!("virsh attach-interface {} bridge {} --live", quote(name), quote(bridge))
        })?;
        let store = Store::open()?;
        let cards = talk.monitor.cards()?;
        let own: Vec<Mac> = cards.iter().filter(|card| talk.is_known(card)).map(|card| card.mac).collect();
        let (records, _) = store.list()?;
        let known = own.iter().find_map(|mac| {
            records.iter().find_map(|record| Some((VmId::from(record.vm.clone()), record.slot_of(*mac)?)))
        });
        let mut line = self.line(&talk.process)?;
        if let Some((vm, _)) = &known {
            line.vm = vm.identity();
        }
        let config = config::load()?;
        argv::settle::settle(&mut line, config.model.as_deref(), &system(&talk.process), |_, _| None)?;
        argv::rewrite::ids(&line)?;
        let slot = known.map_or(0, |(_, slot)| slot);
        // Beside the run that has the slot, as one that moves in.
        line.run = Run { is_incoming: true, slot: Some(slot) };
        let place = match line.nics[0].mac {
            Some(_) => None,
            None => {
                let key = crate::vm::id_of(&line.vm).text;
                let kept = records.iter().find(|record| record.vm == key);
                let kept = kept.and_then(|record| record.slots.get(slot)).map(Vec::as_slice).unwrap_or_default();
                let place = next_place(kept, &own);
                line.nics[0].mac = Some(store.get(&key, slot, Some(place))?.2);
                Some(place)
            }
        };
        let applied = bring_up(&line, &config, |_| Ok(()))?;
        let (netdev, bus) = plug(&mut talk, &line, &applied).map_err(|error| error.of(search.name()))?;
        let tap = applied.taps.first().and_then(|queues| tap::name_of(queues.first()?).ok());
        let nic = &line.nics[0];
        let mac = netdev.mac;
        // At its place on the line it gets this address by itself.
        let has_it = place == Some(own.len()) || place.is_none();
        let save = format!("--bridge {}{}", self.bridge, if has_it { String::new() } else { format!(",mac={mac}") });
        let model = nic.model.clone().unwrap_or_default();
        if self.json {
            return Ok(report::json(&json!({
                "vm": search.name(), "bridge": nic.bridge.as_str(), "port": tap.as_ref().map(|tap| tap.as_str()),
                "mac": mac, "model": model, "id": netdev.id, "bus": bus, "save": save,
            })));
        }
        let tap = tap.map(|tap| format!(", {tap}")).unwrap_or_default();
        let mut text = format!("{} has a new network card on {}: {model}, {mac}{tap}\n", search.name(), nic.bridge);
        for notice in &applied.notices {
            crate::output::say("kvm-bridge", notice);
        }
        if self.save {
            text += &format!("To have it at the next start, add behind the others: {}\n", quote_words(&save));
        }
        Ok(text)
    }

    /// The command line of the QEMU, as far as it goes, with the new card and no other of ours.
    fn line(&self, process: &Process) -> Result<Line> {
        let mut words = process.words.get(1..).unwrap_or_default().to_vec();
        words.extend(["--bridge".into(), self.bridge.clone().into()]);
        let mut line = scan(&words, || Ok(Vec::new()))?;
        let nic = line.nics.pop();
        let Some(mut nic) = nic else {
            let what = "the command line of its QEMU is not understood";
            return Err(Error::new(what, "Please report this, with what 'ps' shows of it."));
        };
        let refused = [
            ("forward", !nic.forwards.is_empty()),
            ("announce", nic.announce),
            ("monitor", nic.has_monitor),
            ("replace", nic.replaces_user),
            ("vm", nic.vm.is_some()),
            ("slot", nic.slot.is_some()),
        ];
        if let Some((key, _)) = refused.into_iter().find(|(_, is_given)| *is_given) {
            let what = format!("--bridge {}: {key}= is for the start of a guest", nic.bridge);
            return Err(Error::new(what, format!("Leave {key}= out.")));
        }
        if place::user_network().is_some() {
            check_in_user_network(&mut nic)?;
        }
        line.nics = vec![nic];
        Ok(line)
    }
}

/// In a network of the user's own all is as on a host, where no other can be made.
fn check_in_user_network(nic: &mut Nic) -> Result<()> {
    let mut netlink = Netlink::open().map_err(unreadable)?;
    if netlink.link(&nic.bridge).map_err(unreadable)?.is_none() {
        let what = format!("the guest is in a network of your own that has no bridge {}", nic.bridge);
        return Err(Error::new(what, "Its new card can be on the same bridge only."));
    }
    nic.uplink = None;
    Ok(())
}

/// Which card of a VM is the next: the first whose address is not in use, behind those that have an address of another kind.
fn next_place(kept: &[Option<Mac>], own: &[Mac]) -> usize {
    let foreign = own.iter().filter(|mac| !kept.contains(&Some(**mac))).count();
    let is_free = |place: &usize| kept.get(*place).copied().flatten().is_none_or(|mac| !own.contains(&mac));
    (foreign..).find(is_free).unwrap_or(foreign)
}

/// What a QEMU emulates, by the name of its program.
fn system(process: &Process) -> String {
    let path = std::fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.strip_prefix("qemu-system-").unwrap_or("x86_64").to_owned()
}

/// Gives the QEMU the TAP, and the guest a card on it. If that fails nothing of it stays there.
fn plug(talk: &mut Talk, line: &Line, applied: &Inherited) -> Result<(Netdev, Option<String>)> {
    let known = talk.monitor.shown()?;
    let id = line.nics[0].id.clone();
    // Nor one that the line has used: its device may be gone, and is no part of this.
    let is_free = |id: &String| !known.contains(id.as_str()) && !line.devices_on.contains_key(id.as_bytes());
    let mut free = (0..).map(|number| format!("{NAME}{number}")).filter(is_free);
    let Some(id) = id.or_else(|| free.next()) else { return Err(Error::new("no id is free", "Give id=.")) };
    let netdevs = argv::netdevs(line, vec![id], applied.backends(), applied.macs());
    let Some(netdev) = netdevs.into_iter().next().filter(|netdev| matches!(netdev.card, rewrite::Card::Device(_)))
    else {
        return Err(Error::new("this machine takes no network card while it runs", "Start it with the card."));
    };
    if known.contains(&netdev.mac.to_string()) {
        let what = format!("the guest has a network card {} already", netdev.mac);
        return Err(Error::new(what, "Try again, or give another mac=."));
    }
    let files = applied.taps.first().map(Vec::as_slice).unwrap_or_default();
    let vhosts: Vec<OwnedFd> =
        applied.vhosts.iter().flatten().filter_map(|file| Some(file.try_clone().ok()?.into())).collect();
    let names = |kind: &str, count: usize| (0..count).map(|at| format!("{}-{kind}{at}", netdev.id)).collect::<Vec<_>>();
    let (queues, vhost) = (names("tap", files.len()), names("vhost", vhosts.len()));
    let given = queues.iter().zip(files).chain(vhost.iter().zip(&vhosts));
    let mut arguments = json!({ "type": "tap", "id": netdev.id });
    let many = if queues.len() == 1 { "" } else { "s" };
    arguments[format!("fd{many}")] = queues.join(":").into();
    if !vhost.is_empty() {
        arguments["vhost"] = true.into();
        arguments[format!("vhostfd{many}")] = vhost.join(":").into();
    }
    // From here on a ^C would leave a part of it in the guest.
    process::ignore_requests_to_end();
    let gave: std::result::Result<(), Failure> =
        given.into_iter().try_for_each(|(name, file)| talk.monitor.give(name, file));
    if let Err(failure) = gave.and_then(|()| talk.monitor.execute("netdev_add", arguments).map(|_| ())) {
        // Those that it has not taken.
        for name in queues.iter().chain(&vhost) {
            let _ = talk.monitor.execute("closefd", json!({ "fdname": name }));
        }
        return Err(failure.of("cannot add the network"));
    }
    let added = talk.monitor.add_card(device(&netdev)).and_then(|bus| match talk.monitor.shown() {
        Ok(cards) if cards.contains(&netdev.mac.to_string()) => Ok(bus),
        other => {
            Err(other.err().unwrap_or_else(|| Error::new("the card was added and is not there", "Please report this.")))
        }
    });
    match added {
        Ok(bus) => Ok((netdev, bus)),
        Err(error) => {
            let _ = talk.monitor.execute("netdev_del", json!({ "id": netdev.id }));
            Err(error)
        }
    }
}

/// The card, as device_add wants it.
fn device(netdev: &Netdev) -> Value {
    let mut device: Value = netdev.device(true).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    device["id"] = netdev.id.clone().into();
    device
}

/// Words for a shell.
fn quote_words(words: &str) -> String {
    words.split_once(' ').map_or_else(|| quote(words), |(option, value)| format!("{option} {}", quote(value)))
}
