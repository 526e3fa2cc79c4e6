//! The two rooms of the laboratory: a network namespace and a mount namespace of the test's own thread.
//!
//! Children inherit them. The rest of the machine keeps its network, its /run, its /var/lib, its /var/cache and its /etc.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::thread::{JoinHandle, spawn};

/// Entered by the thread that made it, left again on drop.
pub struct Namespaces {
    net_before: File,
    mnt_before: File,
    cwd_before: PathBuf,
    /// Names the network namespace, as /proc/PID/ns/net does.
    pub net_inode: u64,
}

impl Namespaces {
    pub fn enter() -> io::Result<Self> {
        let net_before = File::open("/proc/thread-self/ns/net")?;
        let mnt_before = File::open("/proc/thread-self/ns/mnt")?;
        let cwd_before = std::env::current_dir()?;
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        for folder in ["/run", "/var/lib", "/var/cache"] {
            mount_fs("tmpfs", Path::new(folder))?;
        }
        mount_fs("sysfs", Path::new("/sys"))?;
        own_etc()?;
        fs::create_dir_all("/run/netns")?;
        let net_inode = fs::metadata("/proc/thread-self/ns/net")?.ino();
        Ok(Self { net_before, mnt_before, cwd_before, net_inode })
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // Matters only where the harness runs every test on one thread.
        let _ = setns(&self.net_before, CloneFlags::CLONE_NEWNET);
        let _ = setns(&self.mnt_before, CloneFlags::CLONE_NEWNS);
        let _ = std::env::set_current_dir(&self.cwd_before);
    }
}

/// A thread in the network namespace of this name.
pub fn within<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let namespace = File::open(Path::new("/run/netns").join(name)).expect("open the namespace");
    spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
        work()
    })
}

pub fn mount_fs(kind: &str, at: &Path) -> io::Result<()> {
    Ok(mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)?)
}

/// An /etc that can be written: with copies of the files in the real one, and links to its folders, but for the configuration of
/// bridges.
fn own_etc() -> io::Result<()> {
    let real = Path::new("/run/etc");
    fs::create_dir(real)?;
    mount(Some("/etc"), real, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    mount_fs("tmpfs", Path::new("/etc"))?;
    for entry in fs::read_dir(real)? {
        let name = entry?.file_name();
        if name != "kvm-bridge" && name != "qemu" {
            let (from, to) = (real.join(&name), Path::new("/etc").join(&name));
            // Through a link a test would write into the machine's own.
            if fs::symlink_metadata(&from)?.is_file() { fs::copy(&from, &to).map(drop)? } else { symlink(&from, &to)? }
        }
    }
    Ok(())
}

/// Makes what is there read-only, for this mount namespace.
pub fn read_only(folder: &str) -> io::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(Some(folder), folder, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(mount(Some(folder), folder, None::<&str>, flags, None::<&str>)?)
}

/// For a test that needs a device node or folder of its own: an empty tmpfs there.
pub fn hide(folder: &str) -> io::Result<()> {
    mount_fs("tmpfs", Path::new(folder))?;
    // Such a file system is for everybody to write.
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))
}

pub fn show_again(folder: &str) -> io::Result<()> {
    Ok(umount2(folder, MntFlags::MNT_DETACH)?)
}
