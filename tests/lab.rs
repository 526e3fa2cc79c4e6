//! The laboratory tested itself: a test that cannot fail proves nothing.

use crate::support::{Lab, processes, wait_for};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Whether the laboratory fails a test that does this.
fn is_objected_to(deed: impl FnOnce(&Lab)) -> bool {
    let Some(lab) = Lab::new() else { return true };
    lab.baseline();
    lab.wait_at_most(Duration::from_millis(300));
    catch_unwind(AssertUnwindSafe(move || {
        deed(&lab);
        drop(lab);
    }))
    .is_err()
}

#[test]
fn an_idle_host_stays_as_it_was() {
    assert!(!is_objected_to(|_| {}));
}

#[test]
fn a_link_that_stays_is_objected_to() {
    assert!(is_objected_to(|lab| lab.ip("link add br0 type bridge")));
}

#[test]
fn a_lost_address_is_objected_to() {
    let Some(lab) = Lab::with_address() else { return };
    lab.baseline();
    lab.wait_at_most(Duration::from_millis(300));
    let objected = catch_unwind(AssertUnwindSafe(move || {
        lab.ip("addr del 10.77.0.2/24 dev eth0");
        drop(lab);
    }));
    assert!(objected.is_err());
}

#[test]
fn a_process_that_stays_is_objected_to_and_ended() {
    let mut pid = 0;
    assert!(is_objected_to(|lab| pid = std::mem::ManuallyDrop::new(lab.shim("").boot()).pid()));
    wait_for("its end", 2, || (!processes::is_alive(pid)).then_some(()));
}

#[test]
fn a_file_that_stays_in_run_is_objected_to() {
    assert!(is_objected_to(|lab| {
        std::fs::create_dir_all(lab.run_dir()).expect("make the folder");
        std::fs::write(lab.run_dir().join("br0.json"), "{}").expect("write the file");
    }));
}

#[test]
fn the_real_host_is_out_of_reach() {
    let Some(lab) = Lab::new() else { return };
    let links = lab.ip_json("link");
    let names: Vec<_> = links.as_array().expect("a list").iter().map(|link| link["ifname"].clone()).collect();
    assert_eq!(names, ["lo", "eth0"]);
    assert!(lab.lan.reaches("10.77.0.1"));
    assert!(std::fs::read_dir("/var/lib").expect("a folder").next().is_none());
    assert!(std::fs::read_to_string("/etc/passwd").is_ok());
}
