//! The integration tests: each works on a host of its own, made of namespaces (see `support`).

// In a test these are how it fails.
#![allow(clippy::expect_used, clippy::panic)]

mod support;

mod announce;
mod bad_input;
mod clients;
mod completions;
mod completions_oddities;
mod concurrency;
mod corpus;
mod docs;
mod doctor;
mod dry_run;
mod ends;
mod finding_qemu;
mod guests;
mod helper;
mod helper_attacked;
mod hostile;
mod hostile_taps;
mod install;
mod ip;
mod joining;
mod json;
mod laboratory;
mod late;
mod libvirt;
mod licences;
mod lives;
mod locks;
mod macs;
mod making;
mod managers_permanent;
mod managers_shared;
mod nat;
mod nat_parts;
mod no_address;
mod option_table;
mod pass_through;
mod reaper;
mod rewriting;
mod rooms;
mod sharing;
mod sharing_doctor;
mod sharing_follows;
mod sharing_kills;
mod shipped;
mod status;
mod sweeps;
mod tap;
mod unprivileged;
mod up_down;
mod uplink_answers;
