//! What to write in a `--bridge` for a key of QEMU's own: of `-netdev`, `-nic` or `-net`, or a property of a network card.
//!
//! The names are those of qapi/net.json and of hw/net, from QEMU 7.2 to 10.1.
#![forbid(unsafe_code)]

use crate::slips;

/// What kind of key it is.
#[derive(Clone, Copy)]
enum Of {
    /// The address of the card.
    Address,
    /// The name of the bridge.
    Bridge,
    /// What is said by the place of the words.
    Netdev,
    /// How the TAP is opened.
    Tap,
    /// How the TAP is used, which QEMU can only be told with a TAP of its own line.
    TapUse,
    /// The vhost device.
    Vhost,
    /// Follows from `queues=`.
    Queues,
    /// The user-mode network's.
    User,
    /// Another backend's.
    OtherBackend,
    /// A property of the card.
    Card,
}

/// All of them, in groups, with blanks between.
const KEYS: [(Of, &str); 10] = [
    (Of::Address, "macaddr"),
    (Of::Bridge, "br bridge name"),
    (Of::Netdev, "type netdev"),
    (Of::Tap, "script downscript helper fd fds vhostfd vhostfds vhostforce"),
    (Of::TapUse, "sndbuf vnet_hdr poll-us"),
    (Of::Vhost, "vhostdev x-svq"),
    (Of::Queues, "mq vectors"),
    (
        Of::User,
        "hostfwd guestfwd hostname restrict host dhcpstart dns dnssearch domainname tftp tftp-server-name bootfile smb \
         smbserver ip ipv4 ipv6 ipv6-net ipv6-host ipv6-dns ipv6-prefix ipv6-prefixlen",
    ),
    (
        Of::OtherBackend,
        "listen connect mcast localaddr udp sock port group mode chardev hubid src dst srcport dstport txsession rxsession \
         txcookie rxcookie cookie64 counter pincounter offset server reconnect reconnect-ms addr.type addr.host addr.port \
         addr.path local.type local.host local.port local.path remote.type remote.host remote.port remote.path remote.str \
         start-address end-address subnet-mask nat66-prefix force-copy xsk-fds start-queue map-path",
    ),
    (
        Of::Card,
        "bootindex romfile rombar romsize addr bus acpi-index multifunction failover failover_pair_id speed duplex status \
         autonegotiation mitigation extra_mac_registers migrate_tso_props init-vet csum guest_csum gso guest_tso4 guest_tso6 \
         guest_ecn guest_ufo guest_uso4 guest_uso6 guest_announce guest_rsc_ext host_tso4 host_tso6 host_ecn host_ufo host_uso \
         host_tunnel guest_tunnel host_tunnel_csum guest_tunnel_csum rsc_interval mrg_rxbuf tx tx_queue_size rx_queue_size \
         host_mtu ctrl_vq ctrl_rx ctrl_vlan ctrl_rx_extra ctrl_mac_addr ctrl_guest_offloads rss hash ebpf-rss-fds \
         notify_on_empty indirect_desc event_idx any_layout iommu_platform packed queue_reset in_order ioeventfd ats aer \
         page-per-vq modern-pio-notify disable-legacy disable-modern virtio-pci-bus-master-bug-migration use-started \
         use-disabled-flag migrate-extra disable_vnet_hdr flr subsys_ven subsys pcie-slot iobase irq serial devno max_revision \
         loadparm iothread msos-desc attached fp_start_macaddr pcap switch_id world len-ports sriov-pf",
    ),
];

fn all() -> impl Iterator<Item = (&'static str, Of)> {
    KEYS.into_iter().flat_map(|(of, names)| names.split_whitespace().map(move |name| (name, of)))
}

/// What to write for a key of QEMU's; `None` for one that it does not have either.
pub(super) fn answer(key: &str) -> Option<String> {
    let plain = |name: &str| name.to_ascii_lowercase().replace('_', "-");
    let wanted = plain(key);
    let known = all().find(|(name, _)| plain(name) == wanted).map(|(_, of)| of);
    let experimental = if wanted.starts_with("x-") { Some(Of::Card) } else { None };
    known.or(experimental).map(|of| of.answer(key))
}

/// The same for one of QEMU's that is misspelt.
pub(super) fn answer_misspelt(key: &str) -> Option<String> {
    let near = slips::near(key, all().map(|(name, _)| name))?;
    let meant = format!("If QEMU's {near}= is meant: ");
    answer(near).map(|answer| meant + &answer)
}

impl Of {
    fn answer(self, key: &str) -> String {
        match self {
            Self::Address => "Here it is called mac=.".to_owned(),
            Self::Bridge => "The bridge's name comes first: --bridge br0,key=value.".to_owned(),
            Self::Netdev => "The netdev is made here; its id is id=.".to_owned(),
            Self::Tap => format!("Leave {key}= out: the TAP is opened and attached before QEMU runs."),
            Self::TapUse => format!(
                "Leave {key}= out; it needs a TAP that QEMU opens: kvm-bridge up br0 --tap tap0 --user NAME, then -netdev \
                 tap,id=n,ifname=tap0,script=no,downscript=no,{key}=..."
            ),
            Self::Vhost => "Leave it out: vhost=on, off or auto decides here who moves the frames.".to_owned(),
            Self::Queues => format!("{key} follows from queues=: --bridge br0,model=virtio-net-pci,queues=4."),
            Self::User => format!(
                "Leave {key}= out: it is the user-mode network's (-netdev user); on a bridge the guest has an address of its \
                 own, which 'kvm-bridge ip NAME' prints. With uplink=nat there are net= and forward=."
            ),
            Self::OtherBackend => {
                format!(
                    "Leave {key}= out: it is another backend's of -netdev, and here a TAP on the bridge is the backend."
                )
            }
            Self::Card => {
                format!("It is the network card's: --bridge br0,id=lan -device e1000,netdev=lan,{key}=...")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::KEYS as OURS;
    use std::collections::HashSet;

    #[test]
    fn each_key_has_one_answer_and_none_is_ours() {
        let mut seen = HashSet::new();
        for (name, _) in all() {
            assert!(seen.insert(name), "{name} is there twice");
            assert!(!OURS.iter().any(|(own, ..)| *own == name), "{name}");
            assert!(answer(name).is_some_and(|answer| answer.len() > 20), "{name}");
        }
    }

    #[test]
    fn a_key_is_answered_however_it_is_written() {
        for (key, says) in [
            ("poll-us", "-netdev tap,id=n,ifname=tap0,script=no,downscript=no,poll-us="),
            ("hostfwd", "user-mode network"),
            ("guest-csum", "-device e1000,netdev=lan,guest-csum="),
            ("rx_queue_size", "-device e1000,netdev=lan,rx_queue_size="),
            ("x-txburst", "network card's"),
            ("mq", "queues="),
            ("MACADDR", "mac="),
            ("vhostfd", "opened and attached before"),
            ("connect", "another backend"),
        ] {
            assert!(answer(key).is_some_and(|answer| answer.contains(says)), "{key}: {:?}", answer(key));
        }
        assert_eq!((answer("colour"), answer_misspelt("colour")), (None, None));
        assert!(answer_misspelt("hostfwdd").is_some_and(|answer| answer.starts_with("If QEMU's hostfwd= is meant: ")));
    }
}
