//! The README and docs/ are true: every block of commands in them is run, each on a host of its own.
//!
//! A block is indented by four blanks, or fenced. A comment before it says what else it is:
//!
//! - `<!-- transcript -->`: commands behind `$` or `#`, and what they print; `...` stands for anything; `alice$` and `bob$`
//!   are users with no rights; `<!-- transcript: goes on -->` is on the host of the transcript before;
//! - `<!-- file: config.toml -->`: a configuration, which has to be accepted;
//! - `<!-- drawing -->`, `<!-- output -->`: nothing to run; `<!-- output: NAME -->` is compared with a real run by the
//!   test that makes it, as in `tests/no_address.rs`;
//! - `<!-- run by tests/managers_permanent.rs -->`: commands that this file runs, by their heading and number under it;
//! - `<!-- not run: REASON -->`: commands that can't be run here; few, and each with its reason.
//!
//! The host has an `eth0` with its default route, an `eth1`, and a LAN with a DHCP server. QEMU is a stand-in that ends at
//! once, but for a guest with an initramfs, which is real. Nothing is in `/usr/local` yet.

use crate::support::command::fake_qemu;
use crate::support::files::path;
use crate::support::namespaces::hide;
use crate::support::processes::Process;
use crate::support::programs;
use crate::support::user::{ALICE, BOB, Right, our_helper};
use crate::support::{Lab, wait_for};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// More blocks than these are not left out; a longer list is a decision.
const MOST_NOT_RUN: usize = 15;

#[derive(Debug)]
pub(crate) struct Block {
    line: usize,
    pub(crate) mark: String,
    /// The heading that it is under, and which of the blocks there it is, from 1.
    pub(crate) place: (String, usize),
    pub(crate) text: String,
}

/// The blocks of a page, without their indentation.
pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut place = (String::new(), 0);
    let (mut mark, mut open, mut fence) = (String::new(), false, false);
    for (number, line) in page.lines().enumerate() {
        let content = if fence { Some(line) } else { line.strip_prefix("    ") };
        if let Some(language) = line.strip_prefix("```") {
            fence = !fence;
            if fence {
                let drawing = !matches!(language, "" | "sh" | "console") && mark.is_empty();
                let mark = if drawing { "drawing".to_owned() } else { std::mem::take(&mut mark) };
                place.1 += 1;
                blocks.push(Block { line: number + 1, mark, place: place.clone(), text: String::new() });
            }
            open = fence;
        } else if let (Some(content), true) = (content, open || fence) {
            let block = blocks.last_mut().expect("an open block");
            block.text += content;
            block.text.push('\n');
        } else if let Some(content) = content {
            place.1 += 1;
            let (mark, text) = (std::mem::take(&mut mark), format!("{content}\n"));
            blocks.push(Block { line: number + 1, mark, place: place.clone(), text });
            open = true;
        } else if line.trim().is_empty() {
            if let (true, Some(block)) = (open, blocks.last_mut()) {
                block.text.push('\n');
            }
        } else {
            open = false;
            if let Some((_, heading)) = line.split_once("# ").filter(|_| line.starts_with('#')) {
                place = (heading.to_owned(), 0);
            }
            let comment = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->"));
            comment.unwrap_or_default().clone_into(&mut mark);
        }
    }
    blocks
}

/// The commands of a block: lines that belong together are one, comments are none.
fn commands(text: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        match commands.last_mut() {
            Some(command) if goes_on => {
                command.push('\n');
                command.push_str(line);
            }
            _ => commands.push(line.to_owned()),
        }
        goes_on = line.ends_with('\\');
    }
    commands
}

/// Who types: the prompt, and what `setpriv` makes a user of.
const PROMPTS: [(&str, Option<&str>); 4] = [("$ ", None), ("# ", None), ("alice$ ", Some(ALICE)), ("bob$ ", Some(BOB))];

/// A command of a transcript, who typed it, and what it prints.
struct Step {
    user: Option<&'static str>,
    command: String,
    said: Vec<String>,
}

fn transcript(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for line in text.trim_end().lines() {
        let command = PROMPTS.iter().find_map(|(prompt, user)| Some((line.strip_prefix(prompt)?, *user)));
        match (command, steps.last_mut()) {
            (Some((command, user)), _) => steps.push(Step { user, command: command.to_owned(), said: Vec::new() }),
            (None, Some(step)) if goes_on => {
                step.command.push('\n');
                step.command.push_str(line);
            }
            (None, Some(step)) => step.said.push(line.to_owned()),
            (None, None) => panic!("a transcript begins with a command: {line}"),
        }
        goes_on = (command.is_some() || goes_on) && line.ends_with('\\');
    }
    steps
}

/// What differs from run to run is made the same: MAC addresses, and those of the DHCP server.
fn plain(line: &str) -> String {
    let is_mac = |word: &str| word.len() == 17 && word.split(':').all(|part| part.len() == 2) && word.contains(':');
    let words = line.trim_end().split(' ').map(|word| {
        let core = word.trim_matches(['(', ')', ',', '"', '\'']);
        let end = core.rsplit('=').next().unwrap_or(core);
        if is_mac(end) {
            word.replace(end, "MAC")
        } else if core.starts_with("10.77.0.1") && core.trim_end_matches("/24").len() == 11 {
            word.replace(core, "ADDRESS")
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Whether a line is what the page says, `...` being anything.
fn fits(line: &str, said: &str) -> bool {
    let mut parts = said.split("...");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    if parts.is_empty() {
        return rest.is_empty();
    }
    for part in &parts[..parts.len() - 1] {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(parts[parts.len() - 1])
}

/// Whether an output is what the page says; a line of `...` is any number of lines.
fn is_as_said(output: &[String], said: &[String]) -> bool {
    match (output, said) {
        (_, [dots]) if dots == "..." => true,
        (_, [dots, said @ ..]) if dots == "..." => (0..=output.len()).any(|at| is_as_said(&output[at..], said)),
        ([line, output @ ..], [text, said @ ..]) => fits(line, text) && is_as_said(output, said),
        (output, said) => output.is_empty() && said.is_empty(),
    }
}

/// A host as a reader may have one.
struct Host {
    lab: Lab,
    home: PathBuf,
}

impl Host {
    fn new() -> Option<Self> {
        let lab = Lab::with_address().and_then(Lab::with_users)?;
        lab.ip("link add eth1 type veth peer name cable");
        // Two links have the same IPv6 routes, and the kernel's order of them is not always the same.
        for link in ["cable", "eth1"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1").expect("change a setting");
        }
        lab.ip("link set cable up");
        lab.ip("link set eth1 up");
        lab.settle();
        lab.lan.serve_dhcp().then_some(())?;
        hide("/usr/local").expect("hide a folder");
        // New file systems are everybody's, these are not.
        for folder in ["/run", "/usr/local"] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("set the mode");
        }
        let home = lab.new_file("home");
        fs::create_dir_all(&home).expect("make a folder");
        let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest");
        let kernel = ["vmlinux", "vmlinuz"].map(|name| guest.join(name)).into_iter().find(|kernel| kernel.exists());
        symlink(kernel.unwrap_or_else(|| guest.join("vmlinux")), home.join("bzImage")).expect("make a link");
        symlink(guest.join("initramfs"), home.join("initramfs")).expect("make a link");
        for disk in ["disk.qcow2", "alice.qcow2", "bob.qcow2"] {
            fs::write(home.join(disk), [0; 512]).expect("write a file");
        }
        for program in [env!("CARGO_BIN_EXE_qemu-kvm"), env!("CARGO_BIN_EXE_kvm-bridge")].map(Path::new) {
            lab.install(program, Right::None);
        }
        lab.install(&our_helper(), Right::None);
        let fake = lab.install(&fake_qemu(), Right::None);
        let host = Self { lab, home };
        host.program("sudo", "exec \"$@\"");
        // A machine that cannot be reached from here, and an init that does not run here.
        // virtme-ng calls the real thing in tests/clients.
        host.program("vng", "exec qemu-kvm disk.qcow2");
        host.program("ssh", "exit 0");
        host.program("systemctl", "exit 0");
        host.program("some-script-that-calls-qemu-kvm", "exec qemu-kvm disk.qcow2");
        host.program(
            "qemu",
            &format!(
                r#"case "$*" in
            *-initrd*console=ttyS0*) exec qemu-system-x86_64 -accel tcg -no-reboot "$@" ;;
            *-daemonize*) FAKE_QEMU_THEN=daemonize,hold exec {fake} "$@" ;;
            esac
            exec {fake} "$@""#,
                fake = fake.display()
            ),
        );
        Some(host)
    }

    fn program(&self, name: &str, script: &str) {
        let path = Path::new("/run/bin").join(name);
        programs::script(path, script);
    }

    /// Runs a command as a reader would, and tells what it printed. What it made for a guest that has ended is gone then.
    fn run(&self, user: Option<&str>, command: &str) -> Vec<String> {
        let (shell, home) = match user {
            Some(user) => (self.lab.as_user(user, "sh"), "~".to_owned()),
            None => (self.lab.program("sh"), self.home.display().to_string()),
        };
        let program = shell.arg("-ec").arg(format!("cd {home}\nexec 2>&1\n{command}\nwait"));
        let program = program.env("PATH", "/run/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
        let ended = program.env("KVM_BRIDGE_QEMU", "/run/bin/qemu").start().end_within(120);
        assert!(ended.status.success(), "{command}: {:?}\n{}", ended.status, ended.out);
        if !command.contains("-daemonize") {
            let is_guest = |command: &str| command.contains("fake-qemu");
            let guests = self.lab.processes().iter().filter(|process| is_guest(&process.command)).count();
            // That of a bridge which stays has work as long as it does.
            let is_kept = |reaper: &Process| {
                let bridge = reaper.command.split(' ').nth(1).unwrap_or_default();
                let journal = fs::read_to_string(self.lab.run_dir().join(format!("{bridge}.json"))).unwrap_or_default();
                journal.contains("\"keep\": true")
            };
            let are_done = || guests > 0 || self.lab.reapers().iter().all(is_kept);
            wait_for("the reapers to be done", 15, || are_done().then_some(()));
        }
        ended.out.lines().map(|line| plain(line.trim_end_matches('\r'))).collect()
    }

    fn ends(self) {
        for process in self.lab.processes() {
            if !process.command.starts_with("kvm-bridge-reaper") {
                process.kill();
            }
        }
        self.lab.wait_at_most(std::time::Duration::from_secs(15));
    }
}

/// Runs all blocks of a page.
fn is_true(name: &str) {
    let page = fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("read {name}: {error}"));
    // A transcript's, which the next one may go on with.
    let mut open: Option<Host> = None;
    for block in blocks(&page) {
        if !matches!(block.mark.as_str(), "drawing" | "output" | "transcript: goes on") {
            open.take().into_iter().for_each(Host::ends);
        }
        let place = format!("{name}:{}", block.line);
        match block.mark.split(':').next().unwrap_or_default() {
            "drawing" | "output" => {}
            "not run" => assert!(block.mark.len() > "not run: ".len() + 10, "{place}: no reason is given"),
            "run by tests/managers_permanent.rs" => {
                let (heading, number) = &block.place;
                let test = fs::read_to_string(path("tests/managers_permanent.rs")).expect("read the test");
                let call = format!("(\"{heading}\", {number}, ");
                assert!(test.contains(&call), "{place}: the test does not run it: {call}");
            }
            "file" => {
                let Some(host) = Host::new() else { return };
                host.lab.configure(&block.text);
                host.run(
                    None,
                    "KVM_BRIDGE_QEMU= kvm-bridge mac list; qemu-kvm --bridge-dry-run --bridge x,uplink=none",
                );
                host.ends();
            }
            "transcript" => {
                let Some(host) = open.take().or_else(Host::new) else { return };
                for Step { user, command, said } in transcript(&block.text) {
                    let output = host.run(user, &command);
                    let said: Vec<String> = said.iter().map(|line| plain(line)).collect();
                    assert!(is_as_said(&output, &said), "{place}: {command}\nprints {output:#?}\nnot {said:#?}");
                }
                open = Some(host);
            }
            "" => {
                let Some(host) = Host::new() else { return };
                for command in commands(&block.text) {
                    host.run(None, &command);
                }
                host.ends();
            }
            other => panic!("{place}: nobody knows the mark '{other}'"),
        }
    }
    open.take().into_iter().for_each(Host::ends);
}

#[test]
fn the_readme_is_true() {
    is_true("README.md");
}

#[test]
fn the_pages_of_docs_are_true() {
    for page in pages() {
        is_true(&page);
    }
}

fn pages() -> Vec<String> {
    let entries = fs::read_dir(path("docs")).expect("read docs").flatten().map(|entry| entry.file_name());
    let names = entries.filter_map(|name| name.into_string().ok()).filter(|name| name.ends_with(".md"));
    let mut pages: Vec<String> = names.map(|name| format!("docs/{name}")).collect();
    pages.sort();
    pages
}

#[test]
fn few_blocks_are_not_run() {
    let all = pages().into_iter().chain(["README.md".to_owned()]);
    let page = |name: String| fs::read_to_string(path(&name)).expect("read a page");
    let not_run = all.flat_map(|name| blocks(&page(name))).filter(|block| block.mark.starts_with("not run")).count();
    assert!(not_run <= MOST_NOT_RUN, "{not_run} blocks of commands are not run");
}

#[test]
fn links_lead_to_files_that_are_there() {
    for name in pages().into_iter().chain(["README.md", "CONTRIBUTING.md"].map(str::to_owned)) {
        let page = fs::read_to_string(path(&name)).expect("read a page");
        let folder = path(&name).parent().expect("a folder").to_owned();
        for target in page.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let is_file = !target.is_empty() && !target.contains("://");
            assert!(!is_file || folder.join(target).exists(), "{name} links to {target}");
        }
    }
}

#[test]
fn output_in_the_documentation_is_compared() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(is_as_said(&lines("a\nb\nc"), &lines("a\n...\nc")) && is_as_said(&lines("a b c"), &lines("a ... c")));
    assert!(!is_as_said(&lines("a\nb"), &lines("a")) && !is_as_said(&lines("a"), &lines("b")));
    assert!(!is_as_said(&lines("a b"), &lines("a ... c")) && !is_as_said(&[], &lines("a")));
    assert_eq!(plain("leased 10.77.0.101/24 mac=52:54:00:12:34:56"), "leased ADDRESS mac=MAC");
    let page = "text\n\n    one \\\n      two\n    three\n\n    # four\n\n<!-- drawing -->\n\n    five\n";
    let found = blocks(page);
    assert_eq!(commands(&found[0].text), ["one \\\n  two", "three"]);
    assert_eq!((found.len(), found[1].mark.as_str()), (2, "drawing"));
    let steps = transcript("$ a\nb\nalice$ c");
    assert_eq!((steps[0].said[0].as_str(), steps[0].user), ("b", None));
    assert_eq!((steps[1].command.as_str(), steps[1].user), ("c", Some(ALICE)));
}
