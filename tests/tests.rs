//! The integration tests: each works on a host of its own, made of namespaces (see `support`).

// In a test these are how it fails.
#![allow(clippy::expect_used, clippy::panic)]
// Whoever builds the programs with an older compiler need not build these.
#![allow(clippy::incompatible_msrv)]

mod support;

mod announce;
mod attach;
mod bad_input;
mod cards;
mod clients;
mod completions;
mod completions_edge_cases;
mod concurrency;
mod connect;
mod corpus;
mod create;
mod docs;
mod doctor;
mod dry_run;
mod fabric;
mod failing_calls;
mod finding_qemu;
mod guard_ip;
mod guards;
mod guests;
mod helper;
mod helper_attacked;
mod hostile;
mod hostile_taps;
mod install;
mod ip;
mod joining;
mod json;
mod lab;
mod late_uplink;
mod libvirt;
mod licences;
mod lifecycle;
mod locks;
mod macs;
mod man_pages;
mod managers_permanent;
mod managers_shared;
mod migration;
mod nat;
mod nat_parts;
mod no_address;
mod option_table;
mod ownership;
mod packaging;
mod pass_through;
mod reaper;
mod report;
mod rewriting;
mod rooms;
mod sharing;
mod sharing_doctor;
mod sharing_follows;
mod sharing_kills;
mod status;
mod tap;
mod teardown;
mod unprivileged;
mod up_down;
mod upgrade;
mod uplink_answers;
mod user_network;
mod vxlan;
mod watching;
