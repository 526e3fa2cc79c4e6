//! TAP interfaces, which the kernel makes through /dev/net/tun only (Documentation/networking/tuntap.rst).

use crate::output::errno::reason;
use crate::sys::process;
use kvm_bridge_helper::container;
use model::error::{Error, Phrase, Result};
use model::ifname::IfName;
use nix::unistd::Uid;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

/// The device that TAPs are made with.
pub const DEVICE: &str = "/dev/net/tun";

/// What to do where no more files can be opened.
pub const FILES: &str = "The limit on open files is reached: raise it with ulimit -n, or ask for fewer queues.";

/// TUNGETFEATURES, TUNSETIFF, TUNSETOWNER and the like of linux/if_tun.h. TUNSETIFF's type says int and means struct ifreq.
mod ioctl {
    #![allow(missing_docs)]
    nix::ioctl_read!(tun_get_features, b'T', 207, libc::c_uint);
    nix::ioctl_none_bad!(tun_get_dev_netns, nix::request_code_none!(b'T', 227));
    nix::ioctl_read!(tun_get_iff, b'T', 210, libc::c_uint);
    nix::ioctl_write_int_bad!(tun_set_owner, nix::request_code_write!(b'T', 204, size_of::<libc::c_int>()));
    nix::ioctl_write_int_bad!(tun_set_persist, nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()));
    nix::ioctl_write_ptr_bad!(tun_set_iff, nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()), libc::ifreq);
}

/// Opens /dev/net/tun, which tells early whether TAPs can be had at all.
pub fn open_device() -> Result<File> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| {
        let remedy = match error.kind() {
            _ if error.raw_os_error() == Some(libc::EMFILE) => FILES.into(),
            io::ErrorKind::NotFound if container::is_container() => format!("{}.", container::REMEDY).into(),
            io::ErrorKind::PermissionDenied => {
                Phrase::from("Run it as root, or let users in").run(format!("sudo chmod 666 {DEVICE}"))
            }
            _ => Phrase::from("Load the kernel's module").run_as_root("modprobe tun"),
        };
        Error::new(format!("cannot open {DEVICE}: {}", reason(&error)), remedy)
    })
}

/// The device through which the kernel itself moves frames between a TAP and a virtio card.
pub const VHOST: &str = "/dev/vhost-net";

/// Opens /dev/vhost-net, for one queue.
pub fn open_vhost() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(VHOST)
}

/// How a TAP is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Form {
    /// Whether it has several queues, or may have.
    pub is_multi_queue: bool,
    /// Whether it has no vnet headers, though the kernel has them.
    pub lacks_vnet_headers: bool,
}

/// Makes a TAP, or opens a persistent one, and returns its descriptors, one for each device, and its name. Without a name
/// the kernel takes the first free `kvbN`. It goes when the last copy of the descriptors is closed, unless it is
/// persistent.
pub fn open(devices: Vec<File>, name: Option<&IfName>, form: Form) -> io::Result<(Vec<OwnedFd>, IfName)> {
    let (mut queues, mut chosen) = (Vec::new(), name.cloned());
    for device in devices {
        chosen = Some(open_queue(&device, chosen.as_ref(), form)?);
        queues.push(device.into());
    }
    chosen.map(|chosen| (queues, chosen)).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// The same with one queue.
pub fn open_one(device: File, name: Option<&IfName>) -> io::Result<(OwnedFd, IfName)> {
    let chosen = open_queue(&device, name, Form::default())?;
    Ok((device.into(), chosen))
}

/// Makes a TAP that this user may attach to. It goes with the descriptor until `stay` is called: whoever is killed in
/// between leaves nothing.
pub fn make_for(name: &IfName, owner: Uid) -> Result<io::Result<OwnedFd>> {
    let device = open_device()?;
    Ok(open_one(device, Some(name)).and_then(|(tap, _)| {
        // SAFETY: the argument is the user's number itself.
        unsafe { ioctl::tun_set_owner(tap.as_raw_fd(), owner.as_raw() as libc::c_int) }?;
        Ok(tap)
    }))
}

/// From here on a TAP outlives its descriptor.
pub fn stay(tap: &OwnedFd) -> io::Result<()> {
    // SAFETY: the argument is a truth value.
    unsafe { ioctl::tun_set_persist(tap.as_raw_fd(), 1) }?;
    Ok(())
}

/// Makes one queue of a device, and tells the TAP's name.
fn open_queue(device: &File, name: Option<&IfName>, form: Form) -> io::Result<IfName> {
    let mut features = 0;
    // SAFETY: the kernel writes one unsigned int.
    unsafe { ioctl::tun_get_features(device.as_raw_fd(), &mut features) }?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
    if !form.lacks_vnet_headers {
        flags |= features as i32 & libc::IFF_VNET_HDR;
    }
    if form.is_multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut request = ifreq(name.map_or("kvb%d", IfName::as_str));
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the kernel reads the ifreq and writes the name that it chose into it.
    unsafe { ioctl::tun_set_iff(device.as_raw_fd(), &raw mut request) }?;
    IfName::new(&String::from_utf8_lossy(&name_in(&request))).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// A request about a link of this name, with nothing else in it.
pub(super) fn ifreq(name: &str) -> libc::ifreq {
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // Its final NUL stays.
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request
}

fn name_in(request: &libc::ifreq) -> Vec<u8> {
    request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect()
}

/// The index of the TAP behind a descriptor, which was called so a moment ago: what is done to it is done by its index, whoever
/// has its name by then.
pub fn index_of(tap: &OwnedFd, name: &IfName) -> io::Result<u32> {
    let index = nix::net::if_::if_nametoindex(name.as_str())?;
    if name_of(tap)? == *name { Ok(index) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// The name of the TAP behind a descriptor, in the namespace that it was made in.
pub fn name_of(tap: &OwnedFd) -> io::Result<IfName> {
    let mut request = ifreq("");
    // SAFETY: the kernel writes one ifreq; the request's type says unsigned int and means that.
    unsafe { ioctl::tun_get_iff(tap.as_raw_fd(), (&raw mut request).cast()) }?;
    Ok(IfName::seen(String::from_utf8_lossy(&name_in(&request)).into_owned()))
}

/// The TAPs that a process has open, each with its descriptors; `process` is its folder in /proc. `None` if that is not found out
/// until `end`: its owner decides how many descriptors it has. The kernel tells in the `iff:` line of a descriptor's fdinfo. No
/// other descriptor's is read: that of an epoll is kept from whoever reads it for as long as its owner likes.
pub fn held_by(process: &Path, end: Instant) -> Option<BTreeMap<IfName, Vec<i32>>> {
    let mut taps: BTreeMap<IfName, Vec<i32>> = BTreeMap::new();
    for file in std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        if Instant::now() >= end {
            return None;
        }
        if !std::fs::read_link(file.path()).is_ok_and(|link| link.ends_with("tun")) {
            continue;
        }
        let info = std::fs::read_to_string(process.join("fdinfo").join(file.file_name())).unwrap_or_default();
        let name = info.lines().find_map(|line| line.strip_prefix("iff:\t"));
        let fd = file.file_name().to_str().and_then(|fd| fd.parse().ok());
        if let (Some(name), Some(fd)) = (name, fd.filter(|fd| is_here(process, *fd))) {
            taps.entry(IfName::seen(name.to_owned())).or_default().push(fd);
        }
    }
    Some(taps)
}

/// Whether a TAP that another process has open is one of this network namespace: of the same name anybody can have one in their
/// own. Who may not look at the descriptor takes it for one.
fn is_here(process: &Path, descriptor: i32) -> bool {
    let pid = process.file_name().and_then(|name| name.to_str()?.parse().ok()).and_then(rustix::process::Pid::from_raw);
    let open = |pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    let Some(Ok(pidfd)) = pid.map(open) else { return false };
    let flags = rustix::process::PidfdGetfdFlags::empty();
    let copy = match rustix::process::pidfd_getfd(&pidfd, descriptor, flags) {
        Ok(copy) => copy,
        Err(error) => return !process::is_root() && error == rustix::io::Errno::PERM,
    };
    // SAFETY: the kernel returns a new descriptor, which nobody else knows of.
    let namespace = unsafe { ioctl::tun_get_dev_netns(copy.as_raw_fd()) }.map(crate::sys::files::own);
    if !process::is_root() && namespace.as_ref().is_err_and(|error| *error == nix::Error::EPERM) {
        return true;
    }
    let namespace = namespace.ok().and_then(|namespace| File::from(namespace).metadata().ok());
    namespace.is_some_and(|namespace| process::own_network() == Some((namespace.dev(), namespace.ino())))
}
