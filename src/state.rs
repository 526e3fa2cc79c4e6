//! What outlives a process but for MAC addresses: journals, configuration, the DHCP leases of guests.
//! It may not touch the network.

pub mod config;
pub mod dhcp_leases;
pub mod journal;
pub mod networks;
