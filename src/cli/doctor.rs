//! `kvm-bridge doctor`.

mod report;

use crate::doctor::{Incoming, Query, examine};
use crate::network::user_network;
use crate::output;
use clap::Args;
use model::check::{Check, Verdict};
use model::error::{Error, Result};
use model::ifname::IfName;
use model::layout::{Style, Tone};
use model::mac::Mac;
use model::report::json;
use model::text;
use serde_json::json;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The arguments of `kvm-bridge doctor`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Doctor {
    /// Check only this bridge, which need not exist yet
    bridge: Option<String>,
    /// Check the privileges of this user
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// How long to watch a guest whose address is not known [default: 10, or 3 if it never sent a frame]
    #[arg(long, value_name = "SECONDS", value_parser = crate::cli::seconds, allow_negative_numbers = true)]
    watch: Option<u32>,
    /// Also check what a guest needs that is to move here from another host
    #[arg(long, value_name = "VM")]
    incoming: Option<String>,
    /// With --incoming, the MAC address that the guest has there
    #[arg(long, value_name = "MAC", requires = "incoming")]
    mac: Option<Mac>,
    /// Do not ask for DHCP servers and do not watch guests: send nothing, wait for nothing
    #[arg(long)]
    quick: bool,
    /// Print JSON, with all checks
    #[arg(long)]
    json: bool,
    /// Print a report for a bug report, without names, addresses and values of this host; with FILE also write it there
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, conflicts_with_all = ["user", "words"])]
    #[expect(clippy::option_option, reason = "clap's type for an option whose value may be missing")]
    report: Option<Option<PathBuf>>,
    /// The arguments of qemu-kvm
    #[arg(last = true, value_name = "ARGS")]
    words: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge doctor
  kvm-bridge doctor br0 -- --bridge br0 -kernel bzImage -append \"ip=dhcp console=ttyS0\" -nographic
  kvm-bridge doctor br0 --user alice --verbose
  kvm-bridge doctor br0 --report=report.json     shows it, then writes it
  kvm-bridge doctor br0 --incoming alice --mac 52:54:00:12:34:57 -- -name alice -machine pc-q35-7.2
  kvm-bridge doctor --json | jq -r '.checks[] | select(.verdict == \"failure\").fix'
The command changes nothing. It asks for DHCP servers on each bridge as a guest would, for four
seconds. If the host does not know the address of a guest, it asks the guest (by ARP, on the guest's
port), and watches the guest if that does not answer. --quick omits both. Run it as root to get all
checks. Exit status: 0 no failure, 1 failures found, 125 the checks could not run.";

/// A failure was found.
const FOUND: u8 = 1;

impl Doctor {
    /// The one bridge that is meant; a launch is looked at from outside.
    pub(super) fn bridge(&self) -> Option<&str> {
        self.bridge.as_deref().filter(|_| self.words.is_empty() && self.user.is_none())
    }

    /// The checks of the user's own networks, unless something else is asked about.
    fn elsewhere(&self) -> Vec<Check> {
        if self.bridge.is_some() || !self.words.is_empty() || self.user.is_some() {
            return Vec::new();
        }
        let seconds = self.watch.unwrap_or_default();
        let watch = self.watch.map(|seconds| format!("--watch={seconds}"));
        let words = ["doctor", "--json"].into_iter().chain(self.quick.then_some("--quick")).chain(watch.as_deref());
        let said = user_network::each(&words.collect::<Vec<_>>(), Duration::from_secs(seconds.into()));
        let checks = said.iter().flat_map(|there| there.json("checks"));
        checks.filter_map(|check| serde_json::from_value(check).ok()).collect()
    }

    pub(super) fn run(self) -> Result<(String, ExitCode)> {
        if self.incoming.is_some() && self.bridge.is_none() && self.words.is_empty() {
            let what = "--incoming: which bridge the guest is to be on is not said";
            return Err(Error::new(
                what,
                "Name it, or the arguments of its QEMU here: kvm-bridge doctor br0 --incoming VM -- ...",
            ));
        }
        let elsewhere = self.elsewhere();
        let none = self.quick.then_some(Duration::ZERO);
        let query = Query {
            bridge: self.bridge.as_deref().map(IfName::new).transpose()?,
            words: (!self.words.is_empty()).then_some(self.words),
            user: self.user,
            watch: self.watch.map(|seconds| Duration::from_secs(seconds.into())).filter(|_| !self.quick).or(none),
            asks: !self.quick,
            incoming: self.incoming.map(|vm| Incoming { vm, mac: self.mac }),
        };
        let mut checks = examine(&query)?;
        // The machine is the same there.
        let others: Vec<Check> = elsewhere.into_iter().filter(|check| !checks.contains(check)).collect();
        checks.extend(others);
        if let Some(file) = &self.report {
            let report = report::report(&query, &checks)?;
            return report::show(&report, file.as_deref()).map(|text| (text, ExitCode::SUCCESS));
        }
        let count = |verdict: Verdict| checks.iter().filter(|check| check.verdict == verdict).count();
        let (failures, warnings) = (count(Verdict::Failure), count(Verdict::Warning));
        let status = if failures > 0 { ExitCode::from(FOUND) } else { ExitCode::SUCCESS };
        if self.json {
            return Ok((json(&json!({ "failures": failures, "warnings": warnings, "checks": checks })), status));
        }
        let style = output::style();
        // Of a bridge that is named it is told whether it is there.
        let is_asked = |check: &Check| query.bridge.is_some() && check.name == "bridge";
        let is_shown = |check: &&Check| output::tells_steps() || check.verdict != Verdict::Ok || is_asked(check);
        let mut text: String = checks.iter().filter(is_shown).map(|check| tell(check, style)).collect();
        let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let well = plural(count(Verdict::Ok), "check");
        let hint = if output::tells_steps() { "" } else { "; --verbose shows them" };
        let _ = match (failures, warnings) {
            (0, 0) => {
                writeln!(text, "{}", style.paint(Tone::Good, format!("No problems found: {well} passed{hint}.")))
            }
            _ => writeln!(
                text,
                "{}, {}, and {well} passed{hint}.",
                plural(failures, "failure"),
                plural(warnings, "warning")
            ),
        };
        Ok((text, status))
    }
}

fn tell(check: &Check, style: Style) -> String {
    let tone = match check.verdict {
        Verdict::Ok => Tone::Good,
        Verdict::Warning => Tone::Warning,
        Verdict::Failure => Tone::Bad,
    };
    let verdict = style.paint(tone, format!("{:<7}", check.verdict.name()));
    let subject = check.subject.as_ref().map(|subject| format!(" of {}", text::one_line(subject))).unwrap_or_default();
    let mut text = format!(
        "{verdict}  {}{subject}: {}\n",
        style.paint(Tone::Title, &check.name),
        text::lines(&check.observed).replace('\n', "\n         ")
    );
    let _ = writeln!(text, "         {}", style.paint(Tone::Quiet, &check.why));
    if let Some(fix) = &check.fix {
        let _ = writeln!(text, "         fix: {}", text::lines(fix).replace('\n', "\n         "));
    }
    if let Some(commands) = &check.permanent_setup {
        let _ = writeln!(text, "         permanent setup:{}", commands.replace('\n', "\n         "));
    }
    text
}
