//! A host in namespaces of its own, with what is compared.

use crate::tests::support::Lab;
use nix::mount::{MsFlags, mount};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// Where Debian has it, and its QEMU looks for it.
pub const QEMU_HELPER: &str = "/usr/lib/qemu/qemu-bridge-helper";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Anybody but root.
const USER: u32 = 65534;

pub struct Host {
    pub lab: Lab,
    /// The floor, which is also what is executed in QEMU's place.
    pub floor: PathBuf,
    pub shim: PathBuf,
    pub kvm_bridge: PathBuf,
    /// Our helper, setuid, with a shim beside it; if it is built.
    pub helper: Option<PathBuf>,
    pub folder: PathBuf,
}

impl Host {
    /// With br0, for guests to join, and an eth0 without an address.
    pub fn new(target: &Path) -> Option<Self> {
        let lab = Lab::new()?;
        lab.add_bridge("br0");
        // A folder that every user can enter.
        let folder = PathBuf::from("/run/bench");
        let programs = target.join("release");
        for part in ["bin", "user", "other"] {
            fs::create_dir_all(folder.join(part)).expect("make a folder");
        }
        let copy = |from: &Path, to: &str, mode: u32| {
            let to = folder.join(to);
            fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
            fs::set_permissions(&to, fs::Permissions::from_mode(mode)).expect("set a mode");
            to
        };
        let floor = copy(&target.join("floor"), "floor", 0o755);
        let shim = copy(&programs.join("qemu-kvm"), "bin/qemu-kvm", 0o755);
        let kvm_bridge = copy(&programs.join("kvm-bridge"), "bin/kvm-bridge", 0o755);
        copy(&shim, "user/qemu-kvm", 0o755);
        copy(&shim, "other/qemu-kvm", 0o755);
        let built = Some(programs.join("kvm-bridge-helper")).filter(|helper| helper.exists());
        let helper = built.map(|built| copy(&built, "user/kvm-bridge-helper", 0o4755));
        let theirs = copy(Path::new(QEMU_HELPER), "qemu-bridge-helper", 0o4755);
        mount(Some(&theirs), QEMU_HELPER, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("mount the helper");
        fs::create_dir_all("/etc/qemu").expect("make /etc/qemu");
        fs::write("/etc/qemu/bridge.conf", "allow br0\n").expect("write the rules");
        let ifup = folder.join("ifup");
        fs::write(&ifup, "#!/bin/sh\nexec ip link set \"$1\" master br0 up\n").expect("write a script");
        fs::set_permissions(&ifup, fs::Permissions::from_mode(0o755)).expect("set a mode");
        // A QEMU by one of its usual names, to be searched for.
        fs::create_dir_all(folder.join("path")).expect("make a folder");
        symlink(&floor, folder.join("path/kvm")).expect("make a link");
        users_may_make_taps();
        lab.settle();
        Some(Self { lab, floor, shim, kvm_bridge, helper, folder })
    }

    /// A program with these words, in a small environment.
    pub fn command(&self, program: impl AsRef<Path>, words: &str) -> Command {
        let mut command = Command::new(program.as_ref());
        command.args(words.split_whitespace()).env_clear().env("PATH", PATH).env("HOME", "/run/home");
        command.env("KVM_BRIDGE_QEMU", &self.floor);
        command
    }

    pub fn shim(&self, words: &str) -> Command {
        self.command(&self.shim, words)
    }

    /// A line as typed into `sh`, at whose end the floor is executed in QEMU's place.
    pub fn sh(&self, line: &str) -> Command {
        let mut command = self.command("/bin/sh", "");
        command
            .arg("-ec")
            .arg(format!("{{ {line}; }} >/dev/null; exec {} -netdev tap,id=n,ifname=tap0", self.floor.display()));
        command
    }

    /// For a user who is not root; their files are not kept.
    pub fn as_user(&self, mut command: Command) -> Command {
        command.uid(USER).gid(USER).env("HOME", "/run/bench/home");
        command
    }

    /// Runs a command that has to succeed, and is not measured.
    pub fn run(&self, mut command: Command) {
        let output = command.stdin(Stdio::null()).output().expect("run a command");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// /dev/net/tun as distributions have it: for everybody.
fn users_may_make_taps() {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    mount(Some("tmpfs"), "/dev/net", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mount a /dev/net");
    let mode = Mode::from_bits_truncate(0o666);
    mknod("/dev/net/tun", SFlag::S_IFCHR, mode, makedev(10, 200)).expect("make /dev/net/tun");
    fs::set_permissions("/dev/net/tun", fs::Permissions::from_mode(0o666)).expect("set a mode");
    fs::create_dir_all("/run/bench/home").expect("make a home");
    nix::unistd::chown("/run/bench/home", Some(USER.into()), Some(USER.into())).expect("give it away");
}
