//! Makes the network that a command line asks for, and hands over what QEMU is to inherit.
//!
//! A bridge that was there before us is joined without a word to anybody. Where a bridge is missing or ours, its lock is
//! held from looking at it to having joined it: a maker holds it alone, those who join share it, and the reaper takes it
//! alone before it takes the bridge away.

mod claims;
pub mod down;
mod made;
pub mod up;

use crate::argv::{Backend, Line};
use crate::config::Config;
use crate::error::{Error, Result, reason};
use crate::host::Host;
use crate::keeper::networkd::taps;
use crate::lease::{Lease, Store, VmKey};
use crate::mac::Mac;
use crate::net::observe::unreadable;
use crate::net::rtnl::Netlink;
use crate::plan::plan;
use crate::reaper;
use crate::request::{Nic, Queues, Vhost};
use crate::sys::{process, tap};
use crate::unprivileged;
use claims::observe_locked;
use made::Made;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// What QEMU inherits. While this lives the TAPs do, and the addresses are nobody else's.
#[derive(Debug)]
pub struct Applied {
    pub(crate) lease: Lease,
    /// For each network card the queues of its TAP.
    pub(crate) taps: Vec<Vec<OwnedFd>>,
    /// For each /dev/vhost-net once for each queue, or never.
    pub(crate) vhosts: Vec<Vec<File>>,
    /// What people should know of: sentences.
    pub news: Vec<String>,
}

impl Applied {
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
        Self { lease, taps: up(self.taps), vhosts: up(self.vhosts), news: self.news }
    }

    /// Lets all of it live on through exec.
    pub fn pass_on(&self) -> Result<()> {
        process::inherit(&self.lease.lock)?;
        self.taps.iter().flatten().try_for_each(process::inherit)?;
        self.vhosts.iter().flatten().try_for_each(process::inherit)
    }
}

/// Brings the network of a line up. If anything fails, what this made is taken back first.
pub fn bring_up(line: &Line, config: &Config) -> Result<Applied> {
    if !process::can_change_network() {
        if !process::is_root() {
            return unprivileged::bring_up(line, config);
        }
        let what =
            format!("--bridge {}: this needs the right to change the network, CAP_NET_ADMIN", line.nics[0].bridge);
        return Err(Error::new(what, "Run it as root: sudo qemu-kvm --bridge ..."));
    }
    if let Some(nic) = line.nics.iter().find(|nic| nic.announce && !process::can_watch()) {
        let what = format!("--bridge {}: announce=on needs the right to watch interfaces, CAP_NET_RAW", nic.bridge);
        return Err(Error::new(what, "Run it as root, or leave announce= out."));
    }
    process::hold_standard_places()?;
    let mut netlink = Netlink::open().map_err(unreadable)?;
    unprivileged::check_making(&mut netlink, &line.nics)?;
    reaper::ensure_all()?;
    let (mut devices, mut vhosts) = (Vec::new(), Vec::new());
    for nic in &line.nics {
        let of = |error: Error| error.of(format_args!("--bridge {}", nic.bridge));
        let device = |_| tap::open_device().map_err(of);
        devices.push((0..queues_of(nic)).map(device).collect::<Result<Vec<File>>>()?);
        vhosts.push(open_vhosts(nic).map_err(of)?);
    }
    let (host, claims) = observe_locked(&mut netlink, &line.nics, config)?;
    let plan = plan(&line.nics, config, &host)?;
    let vm = VmKey::of(&line.vm);
    let lease = take_lease(&mut netlink, &vm, &line.nics, &host)?;
    let announced = line.nics.iter().zip(&lease.macs).filter(|(nic, _)| nic.announce);
    let announced = announced.map(|(nic, mac)| (nic.bridge.clone(), *mac)).collect();
    let mut made = Made { netlink, ours: Vec::new(), set_up: Vec::new(), news: Vec::new(), announced };
    match made.all(&plan, &host, &claims, devices, &vm, &lease) {
        Ok(taps) => {
            for (journal, _) in made.ours.iter().filter(|(journal, _)| journal.keep) {
                made.news.extend(up::add_configured(&mut made.netlink, &journal.bridge, journal.index, config));
            }
            // Of a bridge that is ours it was told, as far as it had its uplink.
            made.news.extend(taps::word());
            Ok(Applied { lease, taps, vhosts, news: made.news })
        }
        Err(error) => {
            made.take_back();
            Err(error)
        }
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
fn queues_of(nic: &Nic) -> u16 {
    match nic.queues {
        Some(Queues::Number(number)) => number,
        _ => 1,
    }
}

/// Takes the addresses of a VM on bridges that were looked at.
pub(crate) fn take_lease(netlink: &mut Netlink, vm: &VmKey, nics: &[Nic], host: &Host) -> Result<Lease> {
    let given: Vec<Option<Mac>> = nics.iter().map(|nic| nic.mac).collect();
    let bridges: Vec<u32> = nics.iter().filter_map(|nic| Some(host.link(&nic.bridge)?.index)).collect();
    // A bridge that does not answer is no reason to have no address.
    let is_in_use = |mac| bridges.iter().any(|bridge| netlink.fdb_has(*bridge, mac).unwrap_or_default());
    Store::open()?.take(vm, &given, is_in_use)
}
