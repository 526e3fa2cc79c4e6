//! Carries out a network of the host's own, as `model::nat` has it: the host's address, forwarding, rules, dnsmasq.
//!
//! Who makes a bridge does, in this order, each of it as often as wanted:
//!
//! 1. [`programs::check`]: dnsmasq and nft are there, and new enough. Before anything is changed.
//! 2. [`gateway::taken`] and `model::nat::subnet::choose`, before the bridge is made; what was chosen goes into the journal.
//! 3. [`gateway::reserve`] for each `forward=`: the port is free, and nobody else takes it.
//! 4. [`rules::apply`]; then [`gateway::give`], which gives the bridge its addresses: from here guests are behind our rules.
//! 5. [`forwarding::lend`], again whenever links or the host's forwarding change, and [`rules::unblock`] for what
//!    `model::nat::firewall::blocked` finds, again whenever a firewall was loaded anew.
//! 6. The reaper, and nobody else: [`server::Server::start`]. It is killed with its thread.
//!
//! And back, in this order: `Server` is dropped, [`forwarding::take_back`], [`rules::block_again`], [`rules::remove`],
//! [`server::tidy`]; addresses and settings of the bridge go with it.

pub mod forwarding;
pub mod gateway;
pub mod programs;
pub mod rules;
pub mod server;
