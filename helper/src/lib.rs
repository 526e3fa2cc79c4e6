//! `kvm-bridge-helper`: the one privileged program of kvm-bridge, a drop-in for `qemu-bridge-helper`.
//!
//! It attaches one new TAP to one bridge that is there and that the access rules ([`acl`]) allow its caller, sends the
//! TAP's descriptor over a socket of the caller's, and ends.
//!
//! # Theory of operation
//!
//! It is executed with a file capability (`cap_net_admin=p`) or setuid root, by anybody, with anything on its command
//! line, in its environment and open. So the order is ([`run`]):
//!
//! 1. It becomes its caller ([`privilege`]): the caller's user and groups, no capability in effect, CAP_NET_ADMIN alone
//!    within reach, never more by any exec, nobody's to trace, no environment, `/` as its folder. Only then does it read
//!    anything.
//! 2. It reads its command line ([`options`]), closes all descriptors but the standard ones and the socket.
//! 3. It looks whether the network namespace is that of its own user namespace, and reads the rules, as the caller, whose
//!    rights on those files are the admin's means to give rules to groups.
//! 4. It takes CAP_NET_ADMIN into effect, makes the TAP, marks it, counts those of the same user, attaches it and looks
//!    whether that is so ([`network`]), and gives the capability up for good.
//! 5. It sends the descriptor.
//!
//! Nothing has to be undone when it is killed: the TAP is not persistent, and goes with the last descriptor. There is no
//! file of its own, no lock and no state: the quota of TAPs is counted among those that the kernel has.
//!
//! It takes no path and no name of a user from its caller, only the name of a bridge, of at most 15 bytes, and the number
//! of a descriptor.
//!
//! # Why no seccomp filter and no landlock
//!
//! They would be the larger part of the program. What it still may do after step 1 is one thing, to change the network for
//! some dozen system calls; a filter has to let exactly those pass (`ioctl` on /dev/net/tun, `sendto` on rtnetlink), and
//! can't look into the requests, which lie in memory. Without the capability it can do no more than its caller, who runs
//! it; with no_new_privs no exec gives a second right. Landlock would restrict which files it opens: these are the files of
//! rules and what they include, the names of users and groups, the namespaces of its own process in /proc, /dev/net/tun, and
//! /dev/null where a standard file is closed; all as the caller, none named by the caller.

pub mod access;
pub mod acl;
pub mod container;
pub mod entry;
pub mod failure;
pub mod files;
pub mod known;
pub mod netlink;
pub mod network;
pub mod options;
pub mod privilege;
pub mod properties;
pub mod run;
mod sys;

pub use run::main;

/// What the program calls itself, in messages and in the aliases of TAPs.
pub const NAME: &str = "kvm-bridge-helper";
