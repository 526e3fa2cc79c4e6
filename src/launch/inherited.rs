//! What QEMU inherits: descriptors, and the lock that holds its addresses.

use crate::netlink::Netlink;
use crate::output::errno::reason;
use crate::sys::{process, tap};
use crate::vm::{Lease, Store, VmKey};
use model::argv::Backend;
use model::argv::scan::Line;
use model::error::{Error, Result};
use model::host::Host;
use model::mac::Mac;
use model::request::{Nic, Queues, Vhost};
use model::text::shell::quote;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// While this lives the TAPs do, and the addresses are nobody else's.
#[derive(Debug)]
pub struct Inherited {
    pub(crate) lease: Lease,
    /// For each network card the queues of its TAP.
    pub(crate) taps: Vec<Vec<OwnedFd>>,
    /// For each /dev/vhost-net once for each queue, or never.
    pub(crate) vhosts: Vec<Vec<File>>,
    /// The host's ports that lead to the guest: nobody else has them while it runs.
    pub(crate) ports: Vec<OwnedFd>,
    /// What people should know of: sentences.
    pub news: Vec<String>,
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
        &self.lease.macs
    }

    /// Moves all of it to numbers that no caller gives.
    pub fn out_of_the_way(self) -> Self {
        fn up<T: Into<OwnedFd> + From<OwnedFd>>(files: Vec<Vec<T>>) -> Vec<Vec<T>> {
            let up = |file: T| T::from(process::move_up(file.into()));
            files.into_iter().map(|files| files.into_iter().map(up).collect()).collect()
        }
        let lease = Lease { lock: process::move_up(self.lease.lock.into()).into(), ..self.lease };
        let ports = self.ports.into_iter().map(process::move_up).collect();
        Self { lease, taps: up(self.taps), vhosts: up(self.vhosts), ports, news: self.news }
    }

    /// Lets all of it live on through exec.
    pub fn pass_on(&self) -> Result<()> {
        process::inherit(&self.lease.lock)?;
        self.taps.iter().flatten().chain(&self.ports).try_for_each(process::inherit)?;
        self.vhosts.iter().flatten().try_for_each(process::inherit)
    }
}

/// Opens /dev/vhost-net for each queue of a settled network card, or for none.
pub(crate) fn open_vhosts(nic: &Nic) -> Result<Vec<File>> {
    let opened: std::io::Result<Vec<File>> = match nic.vhost {
        Some(Vhost::On | Vhost::Auto) => (0..queues_of(nic)).map(|_| tap::open_vhost()).collect(),
        _ => return Ok(Vec::new()),
    };
    match opened {
        // The kernel has no vhost, or does not let us in: QEMU moves the frames.
        Err(error) if nic.vhost == Some(Vhost::Auto) && error.raw_os_error() != Some(libc::EMFILE) => Ok(Vec::new()),
        Err(error) => {
            let what = format!("cannot open {}: {}", tap::VHOST, reason(&error));
            let is_full = error.raw_os_error() == Some(libc::EMFILE);
            let load = "Load the kernel's module, modprobe vhost_net, or give vhost=off.";
            Err(Error::new(what, if is_full { tap::FILES } else { load }))
        }
        opened => Ok(opened.unwrap_or_default()),
    }
}

/// How many queues a settled network card has.
pub(crate) fn queues_of(nic: &Nic) -> u16 {
    match nic.queues {
        Some(Queues::Number(number)) => number,
        _ => 1,
    }
}

/// What is to be said of a lease: that guests which nothing tells apart share their addresses, once, to the second one; and
/// that a guest moves in whose addresses are not known here.
pub(crate) fn lease_news(line: &Line, vm: &VmKey, lease: &Lease, is_kept: bool) -> Option<String> {
    if lease.is_new && !is_kept {
        let macs: Vec<String> = lease.macs.iter().map(Mac::to_string).collect();
        return Some(format!(
            "the MAC address of {} can't be kept, where nothing can be written: it is {} for this run\n  To have it the same \
             each time: mac={}",
            vm.display(),
            macs.join(", "),
            macs[0]
        ));
    }
    if line.run.is_incoming && lease.is_new {
        let name = vm.display();
        return Some(format!(
            "the MAC address of {name} is not known here: the guest that moves in keeps its own, and loses it with its next \
             reset\n  Before it moves, on the host that it leaves: kvm-bridge mac export {} | ssh HERE kvm-bridge mac import",
            quote(name)
        ));
    }
    (vm.is_unnamed() && lease.slot == 1).then(|| {
        "another guest without a name is running: such guests get their MAC addresses by the order in which they start\n  \
         To give each its own for ever, add a name: -name NAME"
            .to_owned()
    })
}

/// Takes the addresses of a VM on bridges that were looked at, and tells whether they are kept.
pub(crate) fn take_lease(netlink: &mut Netlink, vm: &VmKey, line: &Line, host: &Host) -> Result<(Lease, bool)> {
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
