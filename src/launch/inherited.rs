//! What QEMU inherits: descriptors, and the lock that holds its addresses.

use crate::netlink::Netlink;
use crate::output::errno::reason;
use crate::sys::{process, tap};
use crate::vm::{MacAssignment, Store, VmId};
use model::argv::Backend;
use model::argv::scan::Line;
use model::error::{Error, Result};
use model::host::Host;
use model::mac::Mac;
use model::request::{Nic, Vhost};
use model::text::shell::quote;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// While this lives the TAPs do, and the addresses are nobody else's.
#[derive(Debug)]
pub struct Inherited {
    pub(crate) assigned: MacAssignment,
    /// For each network card the queues of its TAP.
    pub(crate) taps: Vec<Vec<OwnedFd>>,
    /// For each /dev/vhost-net once for each queue, or never.
    pub(crate) vhosts: Vec<Vec<File>>,
    /// The host's ports that lead to the guest: nobody else has them while it runs.
    pub(crate) ports: Vec<OwnedFd>,
    /// What people should know of: sentences.
    pub notices: Vec<String>,
}

impl Inherited {
    /// The descriptors, in the order of the network cards.
    pub fn backends(&self) -> Vec<Backend> {
        fn numbers(files: &[impl AsRawFd]) -> Vec<RawFd> {
            files.iter().map(AsRawFd::as_raw_fd).collect()
        }
        let cards = self.taps.iter().zip(&self.vhosts);
        cards.map(|(taps, vhosts)| Backend::Inherited { queues: numbers(taps), vhost: numbers(vhosts) }).collect()
    }

    /// The guest's addresses, in the same order.
    pub fn macs(&self) -> &[Mac] {
        &self.assigned.macs
    }

    /// Moves all of it to numbers that no caller gives.
    pub fn renumber(self) -> Self {
        fn up<T: Into<OwnedFd> + From<OwnedFd>>(files: Vec<Vec<T>>) -> Vec<Vec<T>> {
            let up = |file: T| T::from(process::move_up(file.into()));
            files.into_iter().map(|files| files.into_iter().map(up).collect()).collect()
        }
        let assigned = MacAssignment { lock: process::move_up(self.assigned.lock.into()).into(), ..self.assigned };
        let ports = self.ports.into_iter().map(process::move_up).collect();
        Self { assigned, taps: up(self.taps), vhosts: up(self.vhosts), ports, notices: self.notices }
    }

    /// Lets all of it live on through exec.
    pub fn clear_cloexec(&self) -> Result<()> {
        process::inherit(&self.assigned.lock)?;
        self.taps.iter().flatten().chain(&self.ports).try_for_each(process::inherit)?;
        self.vhosts.iter().flatten().try_for_each(process::inherit)
    }
}

/// Opens /dev/vhost-net for each queue of a settled network card, or for none.
pub(crate) fn open_vhosts(nic: &Nic) -> Result<Vec<File>> {
    if !matches!(nic.vhost, Some(Vhost::On | Vhost::Auto)) {
        return Ok(Vec::new());
    }
    let opened: std::io::Result<Vec<File>> = (0..nic.number_of_queues()).map(|_| tap::open_vhost()).collect();
    opened.or_else(|error| {
        let is_full = error.raw_os_error() == Some(libc::EMFILE);
        // The kernel has no vhost, or does not let us in: QEMU moves the frames.
        if nic.vhost == Some(Vhost::Auto) && !is_full {
            return Ok(Vec::new());
        }
        let what = format!("cannot open {}: {}", tap::VHOST, reason(&error));
        let load = "Load the kernel's module, modprobe vhost_net, or give vhost=off.";
        Err(Error::new(what, if is_full { tap::FILES } else { load }))
    })
}

/// What is to be said of the addresses of a run: that guests which nothing tells apart share their addresses, once, to the second one; and
/// that a guest moves in whose addresses are not known here.
pub(crate) fn mac_notices(line: &Line, vm: &VmId, assigned: &MacAssignment, is_kept: bool) -> Option<String> {
    if assigned.is_new && !is_kept {
        let macs: Vec<String> = assigned.macs.iter().map(Mac::to_string).collect();
        return Some(format!(
            "the MAC address of {} can't be kept, where nothing can be written: it is {} for this run\n  To have it the same \
             each time: mac={}",
            vm.display(),
            macs.join(", "),
            macs[0]
        ));
    }
    if line.run.is_incoming && assigned.is_new {
        let name = vm.display();
        return Some(format!(
            "the MAC address of {name} is not known here: the guest that moves in keeps its own, and loses it with its next \
             reset\n  Before it moves, on the host that it leaves: kvm-bridge mac export {} | ssh HERE kvm-bridge mac import",
            quote(name)
        ));
    }
    (vm.is_unnamed() && assigned.slot == 1).then(|| {
        "another guest without a name is running: such guests get their MAC addresses by the order in which they start\n  \
         To give each its own for ever, add a name: -name NAME"
            .to_owned()
    })
}

/// Takes the addresses of a VM on bridges that were looked at, and tells whether they are kept.
pub(crate) fn assign_macs(netlink: &mut Netlink, vm: &VmId, line: &Line, host: &Host) -> Result<(MacAssignment, bool)> {
    let given: Vec<Option<Mac>> = line.nics.iter().map(|nic| nic.mac).collect();
    let bridges: Vec<u32> = line.nics.iter().filter_map(|nic| Some(host.link(&nic.bridge)?.index)).collect();
    // A bridge that does not answer is no reason to have no address.
    let is_in_use = |mac| bridges.iter().any(|bridge| netlink.fdb_has(*bridge, mac).unwrap_or_default());
    let store = Store::open()?;
    // A guest that only joins a bridge, or brings its addresses, needs nothing to be written.
    let is_joined = bridges.len() == line.nics.len();
    let can_do_without = is_joined || !given.contains(&None);
    let without = || Ok((store.without_keeping(vm, line.run, &given)?, false));
    if can_do_without && store.is_read_only() {
        return without();
    }
    match store.take(vm, line.run, &given, is_in_use) {
        // The disk is full, or the folder is closed.
        Err(error) if can_do_without && store.is_unwritable() => without().map_err(|_: Error| error),
        taken => Ok((taken?, true)),
    }
}
