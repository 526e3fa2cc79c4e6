//! From being executed to the descriptor on its way: the whole on one screen.
#![forbid(unsafe_code)]

use crate::NAME;
use crate::access;
use crate::container;
use crate::failure::{Failure, reason};
use crate::network::{self, Task};
use crate::options::Options;
use crate::privilege;
use crate::sys;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::ffi::{OsString, c_int};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd};

/// The whole program: `words` are argv. But for `--version`, exit status 0 is a promise that a descriptor was sent: without
/// one, QEMU would take its own standard input for the TAP.
pub fn main(words: Vec<OsString>) -> c_int {
    match run(words) {
        Ok(()) => 0,
        Err(Failure { what, remedy }) => {
            let rest = if remedy.is_empty() { String::new() } else { format!("\n  {remedy}") };
            // In one piece, between the lines of others. If nobody can be told, nobody is.
            let text = format!("{NAME}: {what}{rest}\n");
            let _ = io::stderr().write_all(text.as_bytes());
            1
        }
    }
}

fn run(words: Vec<OsString>) -> Result<(), Failure> {
    let is_confined = nix::sys::prctl::get_no_new_privs() == Ok(true);
    let (caller, reserve) = privilege::drop_to_caller()
        .map_err(|error| Failure::new(format!("cannot give rights up: {}", reason(&error)), "Please report this."))?;
    hold_standard_places()?;
    if words.len() == 2 && words[1] == "--version" {
        return print_version();
    }
    let options = Options::parse(words.into_iter().skip(1)).map_err(|why| Failure::new(why, ""))?;
    close_strays(options.fd)?;
    let socket = socket(options.fd)?;
    // Before the rules: in a user namespace of the caller's own these are nobody's, which is not what is wrong.
    network::check_namespace()?;
    let grant = access::check(&options.bridge, &caller).map_err(in_its_namespace)?;
    let reserve = reserve.ok_or_else(|| without_right(is_confined))?;
    let task = Task { bridge: &options.bridge, use_vnet: options.use_vnet, uid: caller.uid, mac: options.mac, grant };
    let tap = network::attach(&task, reserve)?;
    hand_over(socket, &tap)
}

fn print_version() -> Result<(), Failure> {
    let text = format!("{NAME} {}\n", env!("CARGO_PKG_VERSION"));
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::new(format!("cannot write: {}", reason(&error)), ""))
}

/// Opens /dev/null in the places of standard files that the caller has closed: else the TAP would get one of their
/// numbers, and a message would be a frame.
fn hold_standard_places() -> Result<(), Failure> {
    while let Some(closed) = (0..3).find(|number| sys::descriptor(*number).is_err()) {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        match null.map(IntoRawFd::into_raw_fd) {
            // The lowest number that is free.
            Ok(number) if number == closed => {}
            _ => return Err(Failure::new("cannot open /dev/null", "A usual /dev is needed.")),
        }
    }
    Ok(())
}

/// Closes what the caller has left open but the standard files and the socket (CVE-2016-8649).
fn close_strays(socket: RawFd) -> Result<(), Failure> {
    let ranges = [(3, socket.saturating_sub(1)), (socket.saturating_add(1).max(3), RawFd::MAX)];
    for (first, last) in ranges.into_iter().filter(|(first, last)| first <= last) {
        sys::close_range(first, last).map_err(|error| {
            Failure::new(format!("cannot close what is open: {}", reason(&error)), "Linux 5.9 or later is needed.")
        })?;
    }
    Ok(())
}

/// The caller's socket, on which descriptors can be sent.
fn socket(number: RawFd) -> Result<BorrowedFd<'static>, Failure> {
    let socket = sys::descriptor(number).and_then(|socket| Ok((socket, sys::socket_domain(socket)?)));
    match socket {
        Ok((socket, nix::libc::AF_UNIX)) => Ok(socket),
        Ok(_) => Err(Failure::new(format!("--fd={number} is no Unix socket"), crate::options::USAGE)),
        Err(error) => Err(Failure::new(format!("--fd={number}: {}", reason(&error)), crate::options::USAGE)),
    }
}

/// A refusal by the rules, which in a user namespace of the caller's own the host's admin did not write for it.
fn in_its_namespace(failure: Failure) -> Failure {
    match container::is_user_namespace() && !container::is_container() {
        true => Failure::new(format!("{}, in this user namespace", failure.what), OUTSIDE),
        false => failure,
    }
}

const OUTSIDE: &str = "Run QEMU outside of this user namespace: the host's rules are for the host's network.";

fn without_right(is_confined: bool) -> Failure {
    if is_confined {
        return Failure::new(
            "the program that called has given up all ways to more rights (no_new_privs)",
            "Run QEMU outside of that sandbox, or with NoNewPrivileges=no in its systemd unit.",
        );
    }
    let is_container = container::is_container();
    let lacks = "this program lacks the right to change the network";
    if sys::is_net_admin_out_of_reach() {
        let remedy = if is_container { container::REMEDY } else { "See CapabilityBoundingSet= of the systemd unit." };
        return Failure::new(format!("{lacks}: no program here may have CAP_NET_ADMIN"), remedy);
    }
    if container::is_user_namespace() && !is_container {
        return Failure::new(
            format!("{lacks}: in a user namespace the capability of its file does not count"),
            OUTSIDE,
        );
    }
    Failure::new(
        format!(
            "{lacks}: its file capability cap_net_admin is lost, or its file system is mounted nosuid, or a debugger is \
             attached"
        ),
        match is_container {
            true => "As root of the container: kvm-bridge install",
            false => "Ask your admin for: sudo kvm-bridge install",
        },
    )
}

/// One byte, and with it the descriptor.
fn hand_over(socket: BorrowedFd, tap: &File) -> Result<(), Failure> {
    let descriptors = [tap.as_raw_fd()];
    let message = ControlMessage::ScmRights(&descriptors);
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&[0])], &[message], MsgFlags::MSG_NOSIGNAL, None) {
            Ok(1) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Ok(_) => return Err(Failure::new("the TAP was not sent", "Please report this.")),
            Err(error) => {
                let what = format!("cannot send the TAP: {}", reason(&error.into()));
                return Err(Failure::new(what, "The program that called has to read from its socket."));
            }
        }
    }
}
