//! The lease that NetworkManager had, kept on the bridge by our own process: what its server refuses.

use crate::support::managers::{Managed, Manager, Mode};
use crate::support::wait_for;

#[test]
fn a_server_that_refuses_is_asked_for_another_address() {
    let Some(host) = Managed::new(Manager::NetworkManager, Mode::Dhcp) else { return };
    host.wait_at_most(std::time::Duration::from_secs(60));
    let guest = host.shim("--bridge br0").boot();
    host.waits_for_renewals(1, 20);
    // It has forgotten all, and has other addresses to give.
    host.lan.serve_others();
    let address = wait_for("another address", 40, || {
        let addresses = host.addresses("br0");
        addresses
            .iter()
            .find_map(|address| address.strip_suffix("/24").filter(|ip| ip.starts_with("10.77.0.2")).map(str::to_owned))
    });
    assert!(host.lan.dhcp_log().contains("DHCPNAK"), "{}", host.lan.dhcp_log());
    host.is_on_as("br0", &address);
    assert!(host.lan.reaches(&address));
    // It goes on being renewed, by who comes after a kill too.
    host.reaper_of("br0").kill();
    host.kvm_bridge("recover").run().succeeds();
    let before = host.acknowledged_as(&address);
    wait_for("a renewal of that", 20, || (host.acknowledged_as(&address) > before).then_some(()));
    host.is_on_as("br0", &address);
    guest.terminate();
    host.waits_until_gone("br0");
    wait_for("the host on eth0", 20, || {
        host.default_routes().first().filter(|route| route["dev"] == "eth0").map(|_| ())
    });
    host.is_content();
    host.is_on_as("eth0", &address);
    host.ends_here();
    host.becomes_as_before();
}

#[test]
fn a_server_that_is_gone_keeps_nothing_from_going_back() {
    let Some(host) = Managed::new(Manager::NetworkManager, Mode::Dhcp) else { return };
    let guest = host.shim("--bridge br0").boot();
    host.waits_for_renewals(1, 20);
    host.lan.close();
    guest.terminate();
    host.waits_until_gone("br0");
    wait_for("the reaper's end", 40, || host.reapers().is_empty().then_some(()));
    // The lease is not over.
    host.is_on("eth0");
    assert!(host.lan.reaches(&host.address));
    // NetworkManager goes on asking, and is heard in the end.
    assert!(host.lan.serve_short_leases());
    host.waits_for_renewals(2, 75);
    host.becomes_as_before();
    host.is_on("eth0");
}
