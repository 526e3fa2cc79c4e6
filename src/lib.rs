//! A QEMU/KVM guest on the host's own network, in one command.
//!
//! # Theory of operation
//!
//! `qemu-kvm --bridge br0 ...` is one straight line ([`shim`]): [`model::argv::scan()`] finds our options among QEMU's words and
//! gives a list of [`model::request::Nic`]s; [`model::argv::settle`] decides what they leave open, by the machine that QEMU
//! will be, of which QEMU is asked if it is not among the usual ones ([`launch::board`]); [`network::observe`] asks the
//! kernel about the links that they name and gives a [`model::host::Host`]; [`model::plan`] compares the two and gives the
//! [`model::step`]s that are still missing, or a refusal, before anything is touched; [`network::bring_up`] carries them out;
//! [`model::argv::rewrite()`] puts QEMU's words where ours stood; and [`launch`] executes the real QEMU in our place, which
//! inherits the TAPs ([`launch::inherited`]). [`shim::dry_run`] turns off after the plan and prints it.
//!
//! Nothing has to be cleaned up after a guest: its TAP is not persistent and lives as long as QEMU's inherited
//! descriptor, its slot ([`vm`]) as long as an inherited lock. Only a bridge that we made stays behind, and with it
//! one process, the [`network::reaper`], started before the bridge is made. The [`model::journal`] says what was made, and is
//! written before it is ([`state::journal`]). What was there before us is joined, never changed, never deleted.
//!
//! A user who is not root joins bridges that are there, and has TAPs from a [`network::helper`] ([`network::rootless`]): the
//! package `kvm-bridge-helper`, the only privileged program, which [`install`] installs.
//!
//! An uplink that the host uses is shared ([`mod@model::share`] says how, [`network::uplink::share`] does it): the host keeps all that
//! it has on it, and no manager of its network has to be told. [`network::managed`] only looks who that is, for people.
//!
//! `kvm-bridge` ([`cli`]) looks at the same things for people: [`network::inventory`] has what is on a bridge, [`capture`]
//! hears what guests and DHCP servers tell each other on a port, [`doctor`] has the checks, one file for a group;
//! [`network::up`] and [`network::down`] make and take back what is to stay. [`network::announce`] and
//! [`state::dhcp_leases`] are the reaper's ears on a guest's port. [`complete`] answers the shells' completions.
//!
//! docs/rooms.md has the rooms by their floors, and a test keeps it true.

pub mod capture;
pub mod cli;
pub mod complete;
pub mod doctor;
pub mod install;
pub mod launch;
pub mod monitor;
pub mod netlink;
pub mod network;
pub mod output;
pub mod properties;
pub mod shim;
pub mod state;
pub mod sys;
pub mod vm;
