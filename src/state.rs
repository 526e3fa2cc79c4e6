//! What outlives a process but for MAC addresses: journals, configuration, the DHCP leases of guests, the host's log.
//! It may not touch the network.

pub mod config;
pub mod dhcp_leases;
pub mod events;
pub mod journal;
pub mod networks;
