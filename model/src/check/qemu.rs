//! QEMU's own arguments: do front ends and back ends find each other, and does the kernel do what it is meant to?

use crate::argv::Line;
use crate::argv::inspect::{QemuLine, asks_by_kernel, ip_of};
use crate::argv::rewrite::ids;
use crate::argv::settle::DEFAULT_MODEL;
use crate::check::{Check, Topic};
use crate::text;
use crate::text::shell::quote;
use std::net::IpAddr;

const PAIR: Topic = Topic(
    "pair",
    "A network card is a pair: -device is what the guest sees, -netdev where its frames go; netdev= and id= join them.",
);

/// `ours` are the ids of the netdevs that `--bridge` makes, each with the model of its card.
pub fn checks(line: &QemuLine, ours: &[(String, String)]) -> Vec<Check> {
    let mut checks = pairs(line, ours);
    checks.extend(command_line(line));
    checks
}

/// The ids of the netdevs that `--bridge` makes, each with the model of its card, which is this where it is not said.
pub fn ours(line: &Line, model: Option<&str>) -> Vec<(String, String)> {
    let models = line.nics.iter().map(|nic| nic.model.as_deref().or(model).unwrap_or(DEFAULT_MODEL).to_owned());
    ids(line).unwrap_or_default().into_iter().zip(models).collect()
}

/// The models of all network cards.
pub fn models(line: &QemuLine, ours: &[(String, String)]) -> Vec<String> {
    let is_used = |id: &String| line.devices.iter().any(|device| device.netdev.as_ref() == Some(id));
    let own = line.devices.iter().map(|device| &device.driver);
    own.chain(ours.iter().filter(|(id, _)| !is_used(id)).map(|(_, model)| model)).cloned().collect()
}

fn pairs(line: &QemuLine, ours: &[(String, String)]) -> Vec<Check> {
    let mut checks = Vec::new();
    let count = |id: &str| line.devices.iter().filter(|device| device.netdev.as_deref() == Some(id)).count();
    let twice = |name: &str, fix: &str| PAIR.failure(format!("two -devices name the netdev {name}"), fix);
    for netdev in &line.netdevs {
        let (id, name) = (&netdev.id, text::one_line(&netdev.id));
        checks.push(match count(id) {
            0 => PAIR.failure(
                format!("no -device names the netdev {name}: the guest has no card on it"),
                format!("-device {}", quote(format!("e1000,netdev={id}"))),
            ),
            1 => PAIR.ok(format!("the netdev {name} has its device")),
            _ => twice(&name, "Give each -device a -netdev of its own"),
        });
    }
    for device in &line.devices {
        let driver = text::one_line(&device.driver);
        let is_there =
            |id: &String| line.netdevs.iter().any(|netdev| netdev.id == *id) || ours.iter().any(|(own, _)| own == id);
        match &device.netdev {
            None => {
                let observed = format!("-device {driver} names no netdev: its cable ends nowhere");
                let id = line.netdevs.first().map_or("network0", |netdev| netdev.id.as_str());
                let fix = format!("-device {}", quote(format!("{},netdev={id}", device.driver)));
                checks.push(PAIR.failure(observed, fix));
            }
            Some(id) if !is_there(id) => checks.push(PAIR.failure(
                format!("-device {driver} names the netdev {}, which is not there", text::one_line(id)),
                format!("--bridge {}", quote(format!("br0,id={id}"))),
            )),
            Some(_) => {}
        }
    }
    for (id, model) in ours {
        checks.push(match count(id) {
            0 => PAIR.ok(format!("--bridge gives the guest a card, {model} on {id}")),
            1 => PAIR.ok(format!("the netdev {id} of --bridge has a device of yours")),
            _ => twice(id, "Give each -device a netdev of its own: --bridge br0,id="),
        });
    }
    if checks.is_empty() && !line.has_net {
        let observed = match line.has_none {
            true => "the guest has no network card: that is asked for with none",
            false => "there is no network card on the command line: QEMU adds one on a network of its own",
        };
        checks.push(PAIR.warning(observed, "--bridge br0"));
    }
    checks
}

/// Several words in quotes, as people write them where they can.
fn as_text(text: &str) -> String {
    let is_special = |c: char| matches!(c, '\u{22}' | '$' | '`' | '\\' | '!') || text::is_obeyed(c);
    if text.contains(is_special) { quote(text) } else { format!("\"{text}\"") }
}

fn command_line(line: &QemuLine) -> Vec<Check> {
    const IP: Topic =
        Topic("append-ip", "The kernel asks for an address, or has one, only where ip= says so; else userland has to.");
    const CONSOLE: Topic = Topic(
        "append-console",
        "Without console= what the kernel says goes to a screen that a terminal does not show.",
    );
    const KERNEL: Topic = Topic("kernel", "QEMU refuses -append where it does not boot the kernel itself.");
    let append = match (&line.append, &line.kernel) {
        (None, None) => return Vec::new(),
        (None, Some(_)) => return vec![IP.warning("there is no -append", "-append \"ip=dhcp console=ttyS0\"")],
        (Some(_), None) => return vec![KERNEL.failure("there is -append and no -kernel", "-kernel bzImage")],
        (Some(append), Some(_)) => append,
    };
    let with = |more: &str| format!("-append {}", as_text(&format!("{append} {more}")));
    let ip = match ip_of(append) {
        None => IP.warning("-append has no ip=", with("ip=dhcp")),
        Some(value @ ("off" | "none" | "")) => {
            let words = append.split_whitespace().map(|word| if word.starts_with("ip=") { "ip=dhcp" } else { word });
            let fix = format!("-append {}", as_text(&words.collect::<Vec<_>>().join(" ")));
            IP.warning(format!("-append switches it off: ip={value}"), fix)
        }
        Some(value) if asks_by_kernel(append) => IP.ok(format!("-append has ip={}", text::one_line(value))),
        Some(value) if value.split(':').next().is_some_and(|ip| ip.parse::<IpAddr>().is_ok()) => {
            IP.ok(format!("-append gives the guest an address: ip={}", text::one_line(value)))
        }
        Some(value) => IP.warning(
            format!("-append has ip={}, which asks for no address by DHCP", text::one_line(value)),
            with("ip=dhcp"),
        ),
    };
    let console = append.split_whitespace().rev().find_map(|word| word.strip_prefix("console="));
    let console = match (line.has_serial_console, console) {
        (_, Some(console)) => CONSOLE.ok(format!("-append has console={}", text::one_line(console))),
        (false, None) => CONSOLE.ok("-append has no console=: the kernel speaks to the screen"),
        (true, None) => {
            CONSOLE.warning("the console is this terminal, and -append has no console=", with("console=ttyS0"))
        }
    };
    vec![ip, console]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    fn verdicts(text: &str, name: &str) -> Vec<(Verdict, Option<String>)> {
        let line = QemuLine::read(&text.split_whitespace().map(Into::into).collect::<Vec<_>>());
        let found = checks(&line, &[]).into_iter().filter(|check| check.name == name);
        found.map(|check| (check.verdict, check.fix)).collect()
    }

    #[test]
    fn front_and_back_ends_have_to_find_each_other() {
        let worst = |text: &str| {
            verdicts(text, "pair").into_iter().max().map(|(verdict, fix)| (verdict, fix.unwrap_or_default()))
        };
        let failure = |fix: &str| Some((Verdict::Failure, fix.to_owned()));
        assert_eq!(
            worst("-netdev tap,id=network0,ifname=tap0 -device e1000,netdev=network0"),
            Some((Verdict::Ok, String::new()))
        );
        assert_eq!(worst("-nic tap,ifname=tap0"), Some((Verdict::Ok, String::new())));
        assert_eq!(worst("-netdev tap,id=network0"), failure("-device e1000,netdev=network0"));
        assert_eq!(worst("-device e1000,netdev=network0"), failure("--bridge br0,id=network0"));
        assert_eq!(worst("-netdev tap,id=n -device e1000,netdev=n -device e1000"), failure("-device e1000,netdev=n"));
        assert_eq!(
            worst("-netdev user,id=n -device e1000,netdev=n -device e1000,netdev=n"),
            failure("Give each -device a -netdev of its own")
        );
        assert_eq!(worst("-m 64"), Some((Verdict::Warning, "--bridge br0".to_owned())));
    }

    #[test]
    fn the_kernels_command_line_is_read_as_the_kernel_does() {
        for (append, asks) in [
            ("ip=dhcp", true),
            ("quiet ip=on", true),
            ("ip=::::guest:eth0:dhcp", true),
            ("ip=10.0.0.2::10.0.0.1:255.255.255.0:guest:eth0:off", false),
            ("ip=off", false),
            ("skip=dhcp", false),
        ] {
            assert_eq!(asks_by_kernel(append), asks, "{append}");
        }
    }
}
