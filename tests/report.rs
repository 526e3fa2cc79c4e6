//! What strangers and monitoring get: `doctor --report`, the host's log, `status --prometheus`.

use crate::support::{Lab, wait_for};
use serde_json::Value;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixDatagram;

/// What has been written into the host's log.
pub(crate) fn read(log: &UnixDatagram) -> Vec<String> {
    let mut entries = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match log.recv(&mut buffer) {
            Ok(length) => entries.push(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return entries,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The log that a host with systemd has.
pub(crate) fn journal() -> UnixDatagram {
    fs::create_dir_all("/run/systemd/journal").expect("a folder");
    let log = UnixDatagram::bind("/run/systemd/journal/socket").expect("a socket");
    log.set_nonblocking(true).expect("a socket that does not block");
    log
}

/// The MESSAGE_ID of what docs/logs.md calls so.
pub(crate) fn id(event: &str) -> String {
    let page = include_str!("../docs/logs.md");
    let row = page.lines().find(|line| line.starts_with(&format!("| {event} |"))).expect("an event of the page");
    row.split('`').nth(1).expect("an ID").to_owned()
}

#[test]
fn the_hosts_log_has_what_becomes_of_a_bridge() {
    let Some(lab) = Lab::with_address() else { return };
    let log = journal();
    let guest = lab.shim("--bridge br0 -name alice").boot();
    let said = read(&log);
    assert_eq!(said.len(), 1, "{said:?}");
    for part in [
        "PRIORITY=6\n",
        "SYSLOG_IDENTIFIER=kvm-bridge\n",
        &format!("MESSAGE_ID={}\n", id("bridge created")),
        "KVM_BRIDGE=br0\n",
        "made br0 on the shared uplink eth0",
    ] {
        assert!(said[0].contains(part), "{part} in {said:?}");
    }
    // A second guest changes nothing about it.
    let second = lab.shim("--bridge br0 -name bob").boot();
    assert_eq!(read(&log), Vec::<String>::new());
    second.kill();
    guest.kill();
    lab.waits_until_gone("br0");
    let said = wait_for("the bridge's end to be told", 5, || Some(read(&log)).filter(|said| !said.is_empty()));
    assert!(said[0].contains(&id("bridge removed")) && said[0].contains("removed br0") && said.len() == 1, "{said:?}");
}

#[test]
fn a_report_names_nobody() {
    let Some(lab) = Lab::with_address() else { return };
    let log = journal();
    lab.ip("link add name secretnet address 52:54:00:0c:34:56 type bridge");
    lab.ip("link set dev secretnet alias acme7");
    lab.ip("link property add dev secretnet altname enx52540c3456");
    let mut guest =
        lab.shim("--bridge br0 -name customer -smbios type=11,value=hunter2 -pidfile /tmp/carol.pid").boot();
    let mac = guest.qemu().macs()[0].clone();
    fs::create_dir_all("/etc/kvm-bridge").expect("a folder");
    fs::write("/etc/kvm-bridge/config.toml", "# a comment\n[bridge.br0]\nmtu = 1400 # a comment\n[bridge.dmz9]\n")
        .expect("write a file");
    fs::write("/etc/kvm-bridge/bridge.conf", "allow br0 user ldapuser\n").expect("write a file");
    let said = lab.kvm_bridge("doctor br0 --quick --report").run().succeeds();
    let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.out));
    for gone in [
        "customer",
        "hunter2",
        "carol",
        "secretnet",
        "acme7",
        "enx5254",
        "52:54:",
        "10.77.0",
        "a comment",
        "dmz9",
        "ldapuser",
        mac.as_str(),
    ] {
        assert!(!said.out.contains(gone), "{gone} in {}", said.out);
    }
    // One thing has one name everywhere.
    let port = &report["bridges"][0]["ports"][1];
    assert_eq!((&port["vm"], &report["bridges"][0]["name"]), (&"vm-1".into(), &"br0".into()), "{report:#}");
    assert!(port["mac"].as_str().is_some_and(|mac| mac.starts_with("02:00:00:00:")), "{port}");
    let words = report["guests"][0]["words"].as_array().expect("words").iter().filter_map(Value::as_str);
    let words = words.collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("-smbios type=value-")
            && words.contains(&format!("mac={}", port["mac"].as_str().expect("a MAC"))),
        "{words}"
    );
    for field in ["versions", "managers", "checks", "journals", "log", "files", "network", "name_servers"] {
        assert!(!report[field].is_null(), "{field}: {report:#}");
    }
    assert_eq!(report["journals"][0]["bridge"], "br0");
    let config = report["files"]["/etc/kvm-bridge/config.toml"].as_str().expect("the configuration");
    assert!(config.starts_with("[bridge.br0]\nmtu = 1400\n[bridge.interface-"), "{config}");
    let links = report["network"]["ip -j -details link show"].as_array().expect("links");
    assert!(
        links.iter().any(|link| link["ifname"].as_str().is_some_and(|name| name.starts_with("interface-"))),
        "{links:?}"
    );

    // It is written where nothing is, and to nothing that a link leads to.
    let file = lab.dir.path().join("report.json");
    let write =
        |path: &std::path::Path| lab.kvm_bridge(&format!("doctor br0 --quick --report={}", path.display())).run();
    write(&file).succeeds();
    let written: Value = serde_json::from_str(&fs::read_to_string(&file).expect("the file")).expect("JSON");
    assert_eq!((&written["report"], file.metadata().expect("the file").mode() & 0o777), (&1.into(), 0o600));
    let link = lab.dir.path().join("link");
    symlink(lab.dir.path().join("victim"), &link).expect("a link");
    for there in [&file, &link] {
        let said = write(there).exits_with(125).err;
        assert!(said.contains(" exists") && said.contains("a new file"), "{said}");
    }
    assert!(!lab.dir.path().join("victim").exists());
    fs::remove_file("/etc/kvm-bridge/config.toml").expect("delete a file");
    fs::remove_file("/etc/kvm-bridge/bridge.conf").expect("delete a file");
    drop(log);
}

#[test]
fn metrics_are_of_every_port() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let _guest = lab.shim("--bridge br0 -name alice").boot();
    let said = lab.kvm_bridge("status --prometheus").run().succeeds().out;
    let wanted = "kvm_bridge_port_receive_bytes_total{bridge=\"br0\",port=\"kvb0\",vm=\"alice\"} 0\n";
    assert!(said.contains(wanted), "{said}");
    // The format: comments with name and text, else a name with labels and a number.
    for line in said.lines() {
        let is_sample = || {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            name.starts_with("kvm_bridge_") && name.ends_with('}') && value.parse::<u64>().is_ok()
        };
        assert!(
            line.starts_with("# HELP kvm_bridge_") || line.starts_with("# TYPE kvm_bridge_") || is_sample(),
            "{line}"
        );
    }
}
