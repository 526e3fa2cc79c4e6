//! Messages between processes of one user, with descriptors in them (SCM_RIGHTS of unix(7)). A message comes whole or not at all,
//! and the end of the other side is heard.
#![forbid(unsafe_code)]

use crate::sys::files::if_there;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg, socket_with, socketpair,
};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest message.
const LONGEST: usize = 16 * 1024;
/// The most descriptors of one, which the kernel allows: SCM_MAX_FD.
const MOST: usize = 253;

/// Two ends of one way.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Listens where processes can connect to.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket()?;
    let (short, _folder) = shortened(path)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(short)?)?;
    rustix::net::listen(&socket, 128)?;
    Ok(socket)
}

/// Connects to who listens there; `None` where nobody does.
pub fn connect(path: &Path) -> io::Result<Option<OwnedFd>> {
    let socket = socket()?;
    let Some((short, _folder)) = if_there(shortened(path))? else { return Ok(None) };
    match rustix::net::connect(&socket, &SocketAddrUnix::new(short)?) {
        Ok(()) => Ok(Some(socket)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The same place by a path that fits into an address, which has 107 bytes (unix(7)), while the folder is open.
pub fn shortened(path: &Path) -> io::Result<(PathBuf, File)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(folder)?;
    Ok((Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name), folder))
}

fn socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// The next who has connected.
pub fn accept(listener: &impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(listener, SocketFlags::CLOEXEC)?)
}

/// The process that listens where this is connected to.
pub fn listener_of(socket: &impl AsFd) -> io::Result<i32> {
    Ok(rustix::net::sockopt::socket_peercred(socket)?.pid.as_raw_nonzero().get())
}

/// Sends a message, and waits for room where there is none.
pub fn send(socket: &impl AsFd, text: &[u8], files: &[BorrowedFd]) -> io::Result<()> {
    send_with(socket, text, files, SendFlags::empty())
}

/// The same without waiting.
pub fn send_now(socket: &impl AsFd, text: &[u8], files: &[BorrowedFd]) -> io::Result<()> {
    send_with(socket, text, files, SendFlags::DONTWAIT)
}

fn send_with(socket: &impl AsFd, text: &[u8], files: &[BorrowedFd], flags: SendFlags) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut with = SendAncillaryBuffer::new(&mut space);
    let is_too_much = text.len() > LONGEST || files.len() > MOST;
    if is_too_much || !files.is_empty() && !with.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(text)], &mut with, flags | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for a message, for `time` at the most; `None` where the other side has ended.
pub fn receive(socket: &impl AsFd, time: Duration) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    rustix::net::sockopt::set_socket_timeout(socket, rustix::net::sockopt::Timeout::Recv, Some(time))?;
    let mut text = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let (length, files) = take(socket, &mut text, &mut space, RecvFlags::empty())?;
    text.truncate(length);
    Ok(if text.is_empty() { None } else { Some((text, files)) })
}

/// What has come through a socket by now: how long it is, and the descriptors that came with it, two at the most.
pub fn received(socket: &impl AsFd, place: &mut [u8]) -> Option<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    take(socket, place, &mut space, RecvFlags::DONTWAIT).ok()
}

fn take(
    socket: &impl AsFd,
    place: &mut [u8],
    space: &mut [MaybeUninit<u8>],
    flags: RecvFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut with = RecvAncillaryBuffer::new(space);
    let mut parts = [IoSliceMut::new(place)];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let message = rustix::io::retry_on_intr(|| recvmsg(socket, &mut parts, &mut with, flags))?;
    let files = with.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    Ok((message.bytes, files.flatten().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_message_comes_with_its_descriptors_and_an_end_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        // Longer than an address.
        let path = folder.path().join("x".repeat(200)).join("socket");
        assert!(connect(&path).unwrap().is_none());
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        assert!(connect(&path).unwrap().is_none());
        let listener = listen(&path).unwrap();
        let client = connect(&path).unwrap().unwrap();
        let server = accept(&listener).unwrap();
        let (mut out, into) = crate::sys::files::pipe().unwrap();
        send(&server, b"a", &[into.as_fd()]).unwrap();
        send(&server, b"bc", &[]).unwrap();
        drop((into, server));
        let time = Duration::from_secs(5);
        let (text, mut files) = receive(&client, time).unwrap().unwrap();
        assert_eq!((text.as_slice(), files.len()), (b"a".as_slice(), 1));
        File::from(files.remove(0)).write_all(b"x").unwrap();
        let mut said = String::new();
        out.read_to_string(&mut said).unwrap();
        assert_eq!(said, "x");
        assert_eq!(receive(&client, time).unwrap().unwrap().0, b"bc");
        assert!(receive(&client, time).unwrap().is_none());
        drop(listener);
        assert!(connect(&path).unwrap().is_none());
    }
}
