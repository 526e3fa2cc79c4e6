//! A QEMU/KVM guest on the host's own network, in one command.
//!
//! # Theory of operation
//!
//! `qemu-kvm --bridge br0 ...` is one straight line ([`shim`]): [`argv::scan()`] finds our options among QEMU's words and
//! gives a list of [`request::Nic`]s; [`argv::settle`] decides what they leave open, by the machine that QEMU will be, of
//! which QEMU is asked if it is not among the usual ones ([`argv::board`]);
//! [`net::observe`] asks the kernel about the links that they name and gives a
//! [`host::Host`]; [`plan`] compares the two and gives the [`step`]s that are still missing, or a refusal, before
//! anything is touched; [`bring_up`] carries them out; [`argv::rewrite()`] puts QEMU's words where ours stood; and
//! [`launch`] executes the real QEMU in our place, which inherits the TAPs ([`inherited`]). [`dry_run`] turns off after the plan and prints it.
//!
//! Nothing has to be cleaned up after a guest: its TAP is not persistent and lives as long as QEMU's inherited
//! descriptor, its slot ([`lease`]) as long as an inherited lock. Only a bridge that we made stays behind, and with it
//! one process, the [`reaper`], started before the bridge is made. The [`journal`] says what was made, and is written
//! before it is. What was there before us is joined, never changed, never deleted.
//!
//! A user who is not root joins bridges that are there, and has TAPs from a [`helper`] ([`unprivileged`]): the package
//! `kvm-bridge-helper`, the only privileged program, which [`setup`] installs.
//!
//! An uplink that the host uses is shared ([`mod@share`] says how, [`net::share`] does it): the host keeps all that it has on
//! it, and no manager of its network has to be told. [`manager`] only looks who that is, for people.
//!
//! [`complete`] answers the shells' completions, for our own words and for QEMU's.
//! `kvm-bridge` looks at the same things for people: [`ports`] has what is on a bridge, [`watch`] hears what guests and
//! DHCP servers tell each other on a port, [`doctor`] has the checks, one file for a group; [`bring_up::up`] and
//! [`bring_up::down`] make and take back what is to stay. [`announce`] and
//! [`dhcp_leases`] are the reaper's ears on a guest's port.
//!
//! Pure modules forbid unsafe code and do no I/O: [`argv`], [`optstr`], [`request`], [`host`], [`plan`],
//! [`step`], [`mod@share`], [`name`], [`slips`], [`dhcp`].
//! Effects live in [`net`] (rtnetlink) and [`sys`] (ioctls, locks, processes: the only unsafe code).

pub mod announce;
pub mod argv;
pub mod bring_up;
pub mod cli;
pub mod complete;
pub mod config;
pub mod config_files;
pub mod dhcp;
pub mod dhcp_leases;
pub mod doctor;
pub mod dry_run;
pub mod error;
pub mod help;
pub mod helper;
pub mod holders;
pub mod host;
pub mod inherited;
pub mod journal;
pub mod journal_files;
pub mod kvm;
pub mod launch;
pub mod lease;
pub mod mac;
pub mod managed;
pub mod manager;
pub mod name;
pub mod net;
pub mod optstr;
pub mod out;
pub mod person;
pub mod plan;
pub mod ports;
pub mod properties;
pub mod qemu_line;
pub mod reaper;
pub mod request;
pub mod setup;
pub mod share;
pub mod shell;
pub mod shim;
pub mod slips;
pub mod step;
pub mod style;
pub mod sys;
pub mod table;
pub mod text;
pub mod unprivileged;
pub mod watch;
