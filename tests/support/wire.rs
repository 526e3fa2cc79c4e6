//! Frames as they are on the wire, sent and counted at an interface, in whatever namespace that is.

use super::namespaces::within;
use super::wait_for;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Of our own, which nobody else takes for anything: IEEE 802's local experimental EtherType 1.
pub const ETHER_TYPE: u16 = 0x88b5;

/// How a frame passed an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    In,
    /// In, for somebody else, who is not to get it from this stack.
    Past,
    Out,
}

/// A frame that was heard; its VLAN tag apart, as the kernel has it.
struct Heard {
    way: Way,
    tag: Option<u16>,
    frame: Vec<u8>,
}

/// Frames at one interface; those are kept that were heard.
pub struct Wire {
    socket: OwnedFd,
    heard: RefCell<Vec<Heard>>,
    is_of_stack: bool,
}

impl Wire {
    /// All that passes an interface of this thread's namespace, as its driver gives and takes it: before filters of what comes
    /// in, behind those of what goes out.
    pub fn at(interface: &str) -> Self {
        Self::open(interface, libc::ETH_P_ALL as u16)
    }

    /// What the stack of this thread's namespace itself gets by an interface: behind all filters.
    pub fn stack_at(interface: &str) -> Self {
        Self::open(interface, ETHER_TYPE)
    }

    /// All that passes an interface of a namespace with a name.
    pub fn in_namespace(name: &str, interface: &str) -> Self {
        let interface = interface.to_owned();
        within(name, move || Self::at(&interface)).join().expect("open a socket there")
    }

    #[allow(unsafe_code)]
    fn open(interface: &str, protocol: u16) -> Self {
        let index = nix::net::if_::if_nametoindex(interface).expect("the interface is there");
        // SAFETY: plain system calls; a sockaddr_ll of zeroes is valid, and what they read lives until the end.
        let socket = unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            let socket = OwnedFd::from_raw_fd(checked(libc::socket(libc::AF_PACKET, kind, 0)).expect("a socket"));
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as libc::c_ushort;
            address.sll_protocol = protocol.to_be();
            address.sll_ifindex = index as libc::c_int;
            let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            checked(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size)).expect("bind it");
            socket
        };
        let on: libc::c_int = 1;
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: it reads the number.
        let done = unsafe {
            let (fd, of) = (socket.as_raw_fd(), libc::SOL_PACKET);
            libc::setsockopt(fd, of, libc::PACKET_AUXDATA, (&raw const on).cast(), size)
        };
        checked(done).expect("have tags told");
        Self { socket, heard: RefCell::default(), is_of_stack: protocol == ETHER_TYPE }
    }

    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        let sent = nix::sys::socket::send(self.socket.as_raw_fd(), frame, nix::sys::socket::MsgFlags::empty());
        assert_eq!(sent, Ok(frame.len()), "send a frame");
    }

    /// How often a frame with this label has come in so far; to a stack, for that stack.
    pub fn came(&self, label: &str) -> usize {
        self.with_label(label)
            .iter()
            .filter(|(way, _)| *way == Way::In || !self.is_of_stack && *way == Way::Past)
            .count()
    }

    /// How often it went out.
    pub fn went(&self, label: &str) -> usize {
        self.with_label(label).iter().filter(|(way, _)| *way == Way::Out).count()
    }

    /// The VLAN tags with which it came in.
    pub fn tags(&self, label: &str) -> Vec<Option<u16>> {
        self.with_label(label).iter().filter(|(way, _)| *way != Way::Out).map(|(_, tag)| *tag).collect()
    }

    /// What was heard from an address so far.
    pub fn from(&self, mac: &str) -> Vec<Vec<u8>> {
        self.read();
        let sender = bytes(mac);
        let heard = self.heard.borrow();
        heard.iter().map(|heard| &heard.frame).filter(|frame| frame[6..12] == sender).cloned().collect()
    }

    /// Whether this frame has passed so far, with or without what a card fills it up with.
    pub fn has(&self, frame: &[u8]) -> bool {
        self.read();
        // The kernel keeps a frame's first tag beside it.
        let untagged = match frame[12..16] {
            [0x81 | 0x88, 0x00 | 0xa8, high, low] => {
                Some((u16::from_be_bytes([high, low]), [&frame[..12], &frame[16..]].concat()))
            }
            _ => None,
        };
        let is_it = |heard: &Heard| match &untagged {
            Some((tag, rest)) => heard.tag == Some(*tag) && heard.frame.starts_with(rest),
            None => heard.frame.starts_with(frame),
        };
        self.heard.borrow().iter().any(is_it)
    }

    /// From whom frames of an EtherType have come, each once.
    pub fn of_type(&self, ether_type: u16) -> BTreeSet<String> {
        self.read();
        let text = |mac: &[u8]| mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
        let heard = self.heard.borrow();
        let its = heard.iter().filter(|heard| heard.frame.get(12..14) == Some(&ether_type.to_be_bytes()));
        its.map(|heard| text(&heard.frame[6..12])).collect()
    }

    #[track_caller]
    pub fn waits_for(&self, label: &str) {
        wait_for(&format!("the frame {label}"), 10, || (self.came(label) > 0).then_some(()));
    }

    fn with_label(&self, label: &str) -> Vec<(Way, Option<u16>)> {
        self.read();
        // A tag within a tag is left in the frame.
        let is_tagged = |frame: &[u8]| matches!(frame[12..14], [0x81, 0x00] | [0x88, 0xa8]);
        let is_it = |frame: &[u8]| {
            frame.len() > 18 && frame[if is_tagged(frame) { 18 } else { 14 }..].starts_with(&text(label))
        };
        let heard = self.heard.borrow();
        heard.iter().filter(|heard| is_it(&heard.frame)).map(|heard| (heard.way, heard.tag)).collect()
    }

    #[allow(unsafe_code)]
    fn read(&self) {
        let mut buffer = vec![0_u8; 70_000];
        loop {
            // SAFETY: plain system call; the kernel writes no more than the lengths say, and the control message that it writes
            // is a tpacket_auxdata, whose fields are numbers.
            let (length, kind, tag) = unsafe {
                let mut address: libc::sockaddr_ll = std::mem::zeroed();
                let mut data = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
                let mut control = [0_u64; 16];
                let mut message: libc::msghdr = std::mem::zeroed();
                message.msg_name = (&raw mut address).cast();
                message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
                message.msg_iov = &raw mut data;
                message.msg_iovlen = 1;
                message.msg_control = control.as_mut_ptr().cast();
                message.msg_controllen = size_of_val(&control) as _;
                let length = libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0);
                let header = libc::CMSG_FIRSTHDR(&raw const message);
                let mut tag = None;
                if length >= 0 && !header.is_null() && (*header).cmsg_type == libc::PACKET_AUXDATA {
                    let told: libc::tpacket_auxdata = std::ptr::read_unaligned(libc::CMSG_DATA(header).cast());
                    tag = (told.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some(told.tp_vlan_tci);
                }
                (length, address.sll_pkttype, tag)
            };
            if length < 0 {
                match io::Error::last_os_error().raw_os_error() {
                    // The interface went down.
                    Some(libc::ENETDOWN) => continue,
                    _ => return,
                }
            }
            let way = match kind {
                libc::PACKET_OUTGOING => Way::Out,
                libc::PACKET_OTHERHOST => Way::Past,
                _ => Way::In,
            };
            self.heard.borrow_mut().push(Heard { way, tag, frame: buffer[..length as usize].to_vec() });
        }
    }
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A frame of our EtherType with a label, as long as the shortest.
pub fn frame(to: &str, from: &str, label: &str) -> Vec<u8> {
    let mut frame = [bytes(to), bytes(from)].concat();
    frame.extend(ETHER_TYPE.to_be_bytes());
    frame.extend(text(label));
    frame.resize(60.max(frame.len()), 0);
    frame
}

/// The same, with an 802.1Q tag.
pub fn tagged(to: &str, from: &str, vlan: u16, label: &str) -> Vec<u8> {
    let mut frame = frame(to, from, label);
    frame.splice(12..12, [0x8100_u16.to_be_bytes(), vlan.to_be_bytes()].concat());
    frame
}

/// A label with its length first, so that none is the start of another.
fn text(label: &str) -> Vec<u8> {
    [&[label.len() as u8], label.as_bytes()].concat()
}

pub fn bytes(mac: &str) -> [u8; 6] {
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
    bytes.try_into().expect("six bytes")
}
