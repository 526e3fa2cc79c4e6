//! Ordinary users of the laboratory's host, and the privileged helpers that they call: QEMU's and ours.

use super::command::{Cmd, Ended, fake_qemu};
use super::lab::Lab;
use super::{have, namespaces, programs, skip};
use nix::sys::socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair};
use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Alice is in the group kvm, bob is not.
pub const ALICE: &str = "--reuid 1000 --regid 1000 --groups 1000,104";
pub const BOB: &str = "--reuid 1001 --regid 1001 --groups 1001";

const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/run/alice:/bin/sh\nbob:x:1001:1001::/run/bob:/bin/sh\n";
const GROUP: &str = "root:x:0:\nkvm:x:104:alice\nalice:x:1000:\nbob:x:1001:\n";

/// Where Debian's helper is.
pub const QEMUS: &str = "/usr/lib/qemu/qemu-bridge-helper";
/// Where programs of the laboratory are that users may run: on a file system of its own, without nosuid.
const BIN: &str = "/run/bin";

/// How a helper is given its right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Capability,
    Setuid,
    None,
}

/// A helper that is installed in the laboratory.
#[derive(Clone, Debug)]
pub struct Helper {
    pub path: PathBuf,
    pub is_ours: bool,
}

impl Helper {
    /// The name of the first TAP that it makes.
    pub fn first_tap(&self) -> &'static str {
        if self.is_ours { "kvb0" } else { "tap0" }
    }
}

/// Our helper, as it was built. It is a package of its own: with one test chosen by name cargo does not build it.
pub fn our_helper() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_kvm-bridge")).with_file_name("kvm-bridge-helper");
    let built = fs::metadata(&path).and_then(|file| file.modified());
    let built = built.unwrap_or_else(|_| panic!("{} is not built: cargo build -p kvm-bridge-helper", path.display()));
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("helper/src");
    for folder in [sources.clone(), sources.join("acl")] {
        for file in fs::read_dir(folder).expect("the sources").flatten() {
            let changed = file.metadata().and_then(|file| file.modified()).expect("a time");
            let is_test = file.file_name() == "tests.rs";
            assert!(
                is_test || changed <= built,
                "the helper is older than its sources: cargo build -p kvm-bridge-helper"
            );
        }
    }
    path
}

/// Every helper that the contract is tested with: `HELPER_UNDER_TEST` names one; else ours, and QEMU's where it is.
pub fn helpers() -> Vec<(PathBuf, bool)> {
    if let Some(path) = std::env::var_os("HELPER_UNDER_TEST") {
        let path = PathBuf::from(path);
        let is_ours = path.file_name().is_some_and(|name| name == "kvm-bridge-helper");
        return vec![(path, is_ours)];
    }
    let mut helpers = vec![(our_helper(), true)];
    if Path::new(QEMUS).exists() {
        helpers.push((QEMUS.into(), false));
    } else {
        skip(&format!("{QEMUS} is not installed"));
    }
    helpers
}

impl Lab {
    /// A host with users, who may make TAPs as on usual distributions: /dev/net/tun is everybody's.
    pub fn with_users(self) -> Option<Self> {
        if !have("setpriv") || !have("setcap") {
            return None;
        }
        for (path, text) in [("/etc/passwd", PASSWD), ("/etc/group", GROUP)] {
            let _ = fs::remove_file(path);
            fs::write(path, text).expect("write the accounts");
        }
        for (user, id) in [("alice", 1000), ("bob", 1001)] {
            let home = format!("/run/{user}");
            fs::create_dir(&home).expect("make a home");
            chown(&home, Some(id), Some(id)).expect("give it away");
        }
        namespaces::hide("/dev/net").expect("hide /dev/net");
        assert!(self.tun_has_mode(0o666));
        fs::create_dir(BIN).expect("make a folder");
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o777)).expect("let users write");
        Some(self)
    }

    /// Gives /dev/net/tun this mode.
    pub fn tun_has_mode(&self, mode: u32) -> bool {
        if !Path::new("/dev/net/tun").exists() {
            let made = Command::new("mknod").args(["/dev/net/tun", "c", "10", "200"]).status();
            assert!(made.is_ok_and(|status| status.success()));
        }
        fs::set_permissions("/dev/net/tun", fs::Permissions::from_mode(mode)).is_ok()
    }

    /// A copy of a program where users may run it, with or without a right.
    #[track_caller]
    pub fn install(&self, program: &Path, right: Right) -> PathBuf {
        let path = Path::new(BIN).join(program.file_name().expect("a name"));
        let _ = fs::remove_file(&path);
        // By another process: what this one has open for writing, a child of another test may still have.
        programs::copy(program, &path);
        let mode = if right == Right::Setuid { 0o4755 } else { 0o755 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set the mode");
        if right == Right::Capability {
            let given = Command::new("setcap").arg("cap_net_admin=p").arg(&path).status();
            assert!(given.is_ok_and(|status| status.success()), "setcap");
        }
        path
    }

    /// QEMU's helper raises nothing by itself: a file capability of its has to be in effect.
    #[track_caller]
    pub fn install_helper(&self, program: &Path, is_ours: bool, right: Right) -> Helper {
        let path = self.install(program, right);
        if right == Right::Capability && !is_ours {
            let given = Command::new("setcap").arg("cap_net_admin=ep").arg(&path).status();
            assert!(given.is_ok_and(|status| status.success()), "setcap");
        }
        Helper { path, is_ours }
    }

    pub fn our_helper(&self) -> Helper {
        self.install_helper(&our_helper(), true, Right::Capability)
    }

    /// Writes QEMU's rules.
    pub fn allow(&self, text: &str) {
        write_rules("/etc/qemu/bridge.conf", text);
    }

    /// Writes our rules.
    pub fn allow_more(&self, text: &str) {
        write_rules("/etc/kvm-bridge/bridge.conf", text);
    }

    /// A program run by a user.
    pub fn as_user(&self, user: &str, program: impl AsRef<Path>) -> Cmd<'_> {
        let home = if user == ALICE { "/run/alice" } else { "/run/bob" };
        self.program(program).through(&format!("setpriv {user}")).env("HOME", home)
    }

    /// Calls a helper as QEMU does, as alice.
    #[track_caller]
    pub fn call(&self, helper: &Helper, words: &str) -> Called {
        self.call_by(self.as_user(ALICE, &helper.path).words(words))
    }

    /// Calls a helper with the socket as its standard input, which `--fd=0` names.
    #[track_caller]
    pub fn call_by(&self, cmd: Cmd) -> Called {
        let (ours, theirs) = socket_pair(SockType::Stream);
        let ended = cmd.stdin(theirs).run();
        Called { received: receive(&ours), ended }
    }

    /// What the kernel and the LAN say of a TAP: the name, whether it has vnet headers, and whether frames cross it.
    #[track_caller]
    pub fn try_tap(&self, tap: OwnedFd) -> super::record::Record {
        let netdev = "-netdev tap,id=bridge0,fd=0 -device e1000,netdev=bridge0,mac=02:00:5e:00:00:01";
        let ended = self.program(fake_qemu()).words(netdev).stdin(tap).then("arp:10.77.0.1").run();
        ended.succeeds().qemu().clone()
    }
}

/// Rules as root writes them, whatever the umask.
pub fn write_rules(path: &str, text: &str) {
    fs::create_dir_all(Path::new(path).parent().expect("a folder")).expect("make the folder");
    fs::write(path, text).expect("write the rules");
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("set the mode");
}

pub fn socket_pair(kind: SockType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).expect("make a pair of sockets")
}

/// The bytes that came, and the descriptors with them.
pub struct Received {
    pub bytes: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

/// What has been sent; does not wait.
pub fn receive(socket: &OwnedFd) -> Received {
    let mut buffer = [0; 16];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!([i32; 8]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let Ok(message) = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) else {
        return Received { bytes: Vec::new(), descriptors: Vec::new() };
    };
    let mut descriptors = Vec::new();
    for part in message.cmsgs().expect("control messages") {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            // SAFETY: the kernel has just made them for this process.
            #[allow(unsafe_code)]
            descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    let size = message.bytes;
    Received { bytes: buffer[..size].to_vec(), descriptors }
}

/// How a call of a helper went.
pub struct Called {
    pub received: Received,
    pub ended: Ended,
}

impl Called {
    /// One byte and one descriptor, status 0 and not a word.
    #[track_caller]
    pub fn gives_a_tap(mut self) -> OwnedFd {
        let Ended { status, err, out, .. } = &self.ended;
        assert_eq!(status.code(), Some(0), "{out}{err}");
        assert_eq!((out.as_str(), err.as_str()), ("", ""));
        assert_eq!(self.received.bytes, [0]);
        assert_eq!(self.received.descriptors.len(), 1);
        self.received.descriptors.remove(0)
    }

    /// Nothing sent, status 1, and a reason; which is returned.
    #[track_caller]
    pub fn refusal(self) -> String {
        let Ended { status, err, out, .. } = &self.ended;
        assert_eq!(status.code(), Some(1), "{out}{err}");
        assert!(self.received.bytes.is_empty() && self.received.descriptors.is_empty());
        assert!(!err.is_empty());
        err.clone()
    }
}
