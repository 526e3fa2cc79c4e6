//! The integration tests: each works on a host of its own, made of namespaces (see `support`).

// In a test these are how it fails.
#![allow(clippy::expect_used, clippy::panic)]

mod support;

mod bad_input;
mod concurrency;
mod dry_run;
mod ends;
mod finding_qemu;
mod guests;
mod joining;
mod laboratory;
mod macs;
mod making;
mod managers;
mod pass_through;
mod reaper;
mod rewriting;
mod shipped;
mod takeover;
mod takeover_kills;
mod tap;
