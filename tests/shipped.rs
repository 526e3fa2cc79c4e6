//! What is shipped beside the programs, completions and man pages, is in step with them.

use crate::support::command::Running;
use crate::support::{Lab, have, skip, wait_for};
use kvm_bridge::request::KEYS;
use kvm_bridge::{config, error, help, journal, launch, lease};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{PipeWriter, Write, pipe};
use std::path::{Path, PathBuf};
use std::process::Command;

const BASH: &str = "completions/kvm-bridge.bash";
const ZSH: &str = "completions/_kvm-bridge";
const FISH: &str = "completions/kvm-bridge.fish";
const SHIM_PAGE: &str = "man/qemu-kvm-bridge.1";
const PAGE: &str = "man/kvm-bridge.1";
const HELPER_PAGE: &str = "man/kvm-bridge-helper.8";
/// Where distributions put bash-completion.
const BASH_COMPLETION: &str = "/usr/share/bash-completion/bash_completion";

type Words = BTreeSet<String>;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("read {name}: {error}"))
}

fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Words {
    words.into_iter().map(str::to_owned).collect()
}

/// The runs of letters, digits, dashes and underscores.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && !"-_".contains(c)).filter(|token| !token.is_empty())
}

fn long_options(text: &str) -> Words {
    let is_option = |token: &&str| token.strip_prefix("--").is_some_and(|name| name.starts_with(char::is_alphabetic));
    words(tokens(text).filter(is_option))
}

// What the programs have.

fn options_of_the_shim() -> Words {
    long_options(&help::shim())
}

/// One command of kvm-bridge, by the words that lead to it.
struct Entry {
    path: String,
    subcommands: Words,
    options: Words,
}

fn entries() -> Vec<Entry> {
    fn walk(command: &clap::Command, path: &str, entries: &mut Vec<Entry>) {
        let path =
            if path.is_empty() { command.get_name().to_owned() } else { format!("{path} {}", command.get_name()) };
        let options = command.get_arguments().filter_map(|argument| argument.get_long());
        let options = options.map(|long| format!("--{long}")).collect();
        let subcommands = words(command.get_subcommands().map(clap::Command::get_name));
        entries.push(Entry { path: path.clone(), subcommands, options });
        command.get_subcommands().for_each(|command| walk(command, &path, entries));
    }
    let mut definition = kvm_bridge::cli::definition();
    definition.build();
    let mut entries = Vec::new();
    walk(&definition, "", &mut entries);
    entries
}

fn known_options() -> Words {
    entries().into_iter().flat_map(|entry| entry.options).chain(options_of_the_shim()).collect()
}

fn keys() -> Words {
    words(KEYS.iter().map(|(key, ..)| *key))
}

// The files as text: needs no shell and no mandoc.

#[test]
fn completions_name_the_options_and_commands_that_there_are() {
    for name in [BASH, ZSH, FISH] {
        let text = read(name);
        let has = |option: &str| tokens(&text).any(|token| token == option || Some(token) == option.strip_prefix("--"));
        let commands = entries().into_iter().flat_map(|entry| entry.subcommands);
        for word in known_options().into_iter().chain(commands) {
            assert!(has(&word), "{name} lacks {word}");
        }
        let of_fish = text.lines().filter_map(|line| line.strip_prefix("complete ")?.split_once(" -l "));
        let of_fish = of_fish.filter_map(|(_, rest)| Some(format!("--{}", rest.split_whitespace().next()?)));
        let without_dashes = tokens(&text).filter(|token| token.starts_with("bridge-")).map(|name| format!("--{name}"));
        for option in long_options(&text).into_iter().chain(of_fish).chain(without_dashes) {
            assert!(known_options().contains(&option), "{name} has {option}, which does not exist");
        }
    }
}

#[test]
fn completions_name_the_keys_that_there_are() {
    for name in [BASH, ZSH, FISH] {
        let text = read(name);
        let list = match name {
            ZSH => text.split_once("keys=(\n").and_then(|(_, rest)| rest.split_once("\n    )")),
            _ => text.split_once("for key in ").and_then(|(_, rest)| rest.split_once('\n')),
        };
        let (list, _) = list.unwrap_or_else(|| panic!("{name} has no list of keys"));
        let key_of = |word: &str| word.trim().trim_matches(['\'', '"', ';']).split(':').next().map(str::to_owned);
        let found: Vec<String> = match name {
            ZSH => list.lines().filter_map(key_of).collect(),
            _ => list.split_whitespace().filter(|word| *word != "do").filter_map(key_of).collect(),
        };
        assert_eq!(found, KEYS.map(|(key, ..)| key), "{name}");
    }
}

/// A page's text with `--option` for mdoc's `Fl -option`.
fn page(name: &str) -> String {
    read(name).replace("\\-", "-").replace("Fl -", "--")
}

/// What stands behind `.It Cm` at the beginning of a line.
fn items<'a>(page: &'a str, kind: &str) -> Vec<&'a str> {
    page.lines().filter_map(|line| line.strip_prefix(kind)).collect()
}

#[test]
fn man_pages_name_the_options_keys_and_commands_that_there_are() {
    let (shim, own) = (page(SHIM_PAGE), page(PAGE));
    assert_eq!(words(items(&shim, ".It --").into_iter().filter_map(|item| tokens(item).next())), {
        let options = options_of_the_shim();
        options.iter().map(|option| option.trim_start_matches('-').to_owned()).collect::<Words>()
    });
    let forms = items(&shim, ".It Cm ").into_iter().map(|item| {
        let parts = item.split_whitespace().filter(|part| !["Ns", "Ar", "Cm"].contains(part));
        parts.collect::<String>()
    });
    assert_eq!(forms.collect::<Vec<_>>(), KEYS.map(|(key, form, _)| format!("{key}={form}")));

    let commands = items(&own, ".It Cm ").into_iter().map(|item| {
        let path = item.split_whitespace().take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
        path.collect::<Vec<_>>().join(" ")
    });
    let leaves = entries().into_iter().filter(|entry| entry.subcommands.is_empty());
    let leaves: Words = leaves.filter_map(|entry| Some(entry.path.strip_prefix("kvm-bridge ")?.to_owned())).collect();
    assert_eq!(commands.collect::<Words>(), leaves);
    for entry in entries() {
        assert!(entry.options.is_subset(&long_options(&own)), "{PAGE} lacks one of {:?}", entry.options);
    }

    for (name, page) in [(SHIM_PAGE, &shim), (PAGE, &own)] {
        for option in long_options(page) {
            assert!(known_options().contains(&option), "{name} has {option}, which does not exist");
        }
        // `br0,key=value` of examples and `Cm key=` of the text.
        let of_a_value = page.split("--bridge ").skip(1).filter_map(|rest| rest.split_whitespace().next());
        let of_a_value = of_a_value.flat_map(|value| value.split(',').skip(1)).filter_map(|part| part.split_once('='));
        let of_text = page.split("Cm ").skip(1).filter_map(|rest| rest.split_whitespace().next()?.split_once('='));
        for (key, _) in of_a_value.chain(of_text) {
            assert!(keys().contains(key), "{name} has {key}=, which does not exist");
        }
    }
}

#[test]
fn man_pages_name_the_environment_files_statuses_and_messages_that_there_are() {
    let shim = page(SHIM_PAGE);
    let sources = sources(&path("src"));
    for variable in [launch::QEMU, launch::NICS] {
        assert!(shim.contains(&format!(".It Ev {variable}\n")), "{SHIM_PAGE} lacks {variable}");
    }
    for file in [config::SYSTEM, lease::SYSTEM] {
        assert!(shim.contains(&format!(".It Pa {file}\n")), "{SHIM_PAGE} lacks {file}");
    }
    assert!(shim.contains(&format!(".It Pa {}/NETNS/BRIDGE.json\n", journal::RUN)), "{SHIM_PAGE} lacks the journal");
    for name in [SHIM_PAGE, PAGE] {
        let page = page(name);
        for status in [error::FAILED, error::CANNOT_EXECUTE, error::NOT_FOUND] {
            assert!(page.contains(&format!(".It {status}\n")), "{name} lacks the status {status}");
        }
        for variable in tokens(&page).filter(|token| token.starts_with("KVM_BRIDGE")) {
            assert!(sources.contains(&format!("\"{variable}\"")), "{name} has {variable}, which does not exist");
        }
    }
    let (_, messages) = shim.split_once(".Bl -diag\n").expect("messages");
    for message in messages.lines().filter_map(|line| line.strip_prefix(".It \"")?.strip_suffix('"')) {
        let fixed = ["FILE", "IFACE", "ADDRESS", "CLIENT"]
            .iter()
            .fold(message.to_owned(), |text, name| text.replace(name, "\0"));
        for part in fixed.split('\0').flat_map(|part| part.split(": ")) {
            assert!(sources.contains(part), "{SHIM_PAGE} has the message '{part}', which does not exist");
        }
    }
}

#[test]
fn the_unit_brings_up_and_takes_down_what_its_name_says() {
    let unit = read("kvm-bridge@.service");
    for (key, command) in [("ExecStart", "up"), ("ExecStop", "down")] {
        assert!(unit.contains(&format!("\n{key}=/usr/local/bin/kvm-bridge {command} %i\n")), "{unit}");
        assert!(entries().iter().any(|entry| entry.path == format!("kvm-bridge {command}")));
    }
}

fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("read the sources").flatten().map(|entry| entry.path());
    let text =
        |path: PathBuf| if path.is_dir() { sources(&path) } else { fs::read_to_string(path).unwrap_or_default() };
    entries.map(text).collect()
}

// The files as their readers take them.

/// Runs a checker on a file; it has to succeed and to say nothing.
#[track_caller]
fn has_no_complaint(program: &str, options: &[&str], name: &str) {
    if have(program) {
        let output = Command::new(program).args(options).arg(path(name)).output().expect("run the checker");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{program}: {:?}\n{said}", output.status);
    }
}

#[test]
fn mandoc_has_no_complaint() {
    if !have("mandoc") {
        return;
    }
    for name in [SHIM_PAGE, PAGE, HELPER_PAGE] {
        let output = Command::new("mandoc").args(["-T", "lint", "-W", "all"]).arg(path(name)).output().expect("mandoc");
        let said = String::from_utf8_lossy(&output.stdout);
        // Which other pages are installed is no matter of ours.
        let said: Vec<&str> = said.lines().filter(|line| !line.contains("referenced manual not found")).collect();
        assert!(said.is_empty(), "{said:#?}");
    }
}

#[test]
fn shells_have_no_complaint() {
    has_no_complaint("bash", &["-n"], BASH);
    has_no_complaint("shellcheck", &["-s", "bash"], BASH);
    has_no_complaint("zsh", &["-n"], ZSH);
    has_no_complaint("fish", &["--no-execute"], FISH);
}

// What they do at a prompt.

/// A host with one bridge, br0, and one VM that has an address, alice.
fn lab() -> Option<Lab> {
    let lab = Lab::new()?;
    lab.add_bridge("br0");
    lab.shim("--bridge br0,vm=alice").run().succeeds();
    Some(lab)
}

/// Lines as they are typed, and the candidates for their last words.
fn expected() -> Vec<(String, Words)> {
    let keys = |but: &str| KEYS.iter().map(|(key, ..)| *key).filter(|key| *key != but).collect::<Vec<_>>();
    let with = |value: &str, keys: Vec<&str>| keys.iter().map(|key| format!("{value}{key}=")).collect::<Words>();
    let mut expected = vec![
        ("qemu-kvm --bri".to_owned(), options_of_the_shim()),
        ("qemu-kvm -bridge-d".to_owned(), words(["-bridge-dry-run"])),
        ("qemu-kvm --bridge b".to_owned(), words(["br0"])),
        ("qemu-kvm --bridge br0,".to_owned(), with("br0,", keys(""))),
        ("qemu-kvm -m 64 -bridge br0,keep=on,".to_owned(), with("br0,keep=on,", keys("keep"))),
        ("qemu-kvm --bridge br0,upl".to_owned(), words(["br0,uplink="])),
        ("qemu-kvm --bridge br0,keep=".to_owned(), words(["br0,keep=on", "br0,keep=off"])),
        ("qemu-kvm --bridge=br0,keep=of".to_owned(), words(["--bridge=br0,keep=off"])),
        ("qemu-kvm --bridge br0,mtu=1500,model=e".to_owned(), {
            words(["br0,mtu=1500,model=e1000", "br0,mtu=1500,model=e1000e"])
        }),
        ("qemu-kvm --bridge br0,uplink=".to_owned(), {
            words(["br0,uplink=auto", "br0,uplink=none", "br0,uplink=eth0", "br0,uplink=port1"])
        }),
        ("qemu-kvm --bridge br0,vm=al".to_owned(), words(["br0,vm=alice"])),
        ("kvm-bridge ma".to_owned(), words(["mac"])),
        ("kvm-bridge status b".to_owned(), words(["br0"])),
        ("kvm-bridge down ".to_owned(), words(["br0"])),
        ("kvm-bridge ip name:al".to_owned(), words(["name:alice"])),
        ("kvm-bridge up br0 --uplink et".to_owned(), words(["eth0"])),
        ("kvm-bridge up br0 --tap tap0 --user nobo".to_owned(), words(["nobody"])),
        ("kvm-bridge doctor br0 -- --bridge br0,keep=of".to_owned(), words(["br0,keep=off"])),
        ("qemu-kvm --bridge br0,announce=".to_owned(), words(["br0,announce=on", "br0,announce=off"])),
        ("kvm-bridge mac for".to_owned(), words(["forget"])),
        ("kvm-bridge mac forget name:a".to_owned(), words(["name:alice"])),
        ("kvm-bridge plan -- --bridge br0,keep=of".to_owned(), words(["br0,keep=off"])),
    ];
    for entry in entries() {
        if !entry.subcommands.is_empty() {
            expected.push((format!("{} ", entry.path), entry.subcommands));
        }
        let end_of_options =
            (entry.path.ends_with(" plan") || entry.path.ends_with(" doctor")).then(|| "--".to_owned());
        expected.push((format!("{} --", entry.path), entry.options.into_iter().chain(end_of_options).collect()));
    }
    expected
}

/// An interactive shell at a terminal, in which Ctrl-G records the line that is being edited.
struct Shell<'lab> {
    running: Running<'lab>,
    keyboard: PipeWriter,
    record: PathBuf,
    lines: usize,
}

const ENTER_ALL: &str = "\x1b*";
const RUBOUT_LINE: &str = "\x15";
const RECORD_LINE: &str = "\x07";

impl<'lab> Shell<'lab> {
    /// `script` of util-linux gives it a terminal.
    fn start(lab: &'lab Lab, command: &str, env: &[(&str, &str)]) -> Self {
        let (stdin, keyboard) = pipe().expect("make a pipe");
        let record = lab.new_file("lines");
        File::create(&record).expect("create a file");
        let bin = Path::new(env!("CARGO_BIN_EXE_kvm-bridge")).parent().expect("a folder").display();
        let mut program = lab.program("script").words("-q -c").arg(command).arg("/dev/null").stdin(stdin);
        program = program.env("PATH", format!("{bin}:/usr/sbin:/usr/bin:/sbin:/bin")).env("TERM", "dumb");
        program = program.env("RECORD", &record);
        for (name, value) in env {
            program = program.env(name, value);
        }
        let running = program.start();
        wait_for("the prompt", 20, || running.out().contains("READY> ").then_some(()));
        Self { running, keyboard, record, lines: 0 }
    }

    fn bash(lab: &'lab Lab, before: &str, env: &[(&str, &str)]) -> Self {
        let rc = lab.new_file("bashrc");
        let keys = r#"
            bind 'set enable-bracketed-paste off'
            bind 'set bell-style none'
            bind '"\e*": insert-completions'
            bind -x '"\C-g": printf "%s\n" "$READLINE_LINE" >>"$RECORD"'
            PS1='READY''> '
            unset HISTFILE
        "#;
        fs::write(&rc, format!("{before}\n{keys}")).expect("write a file");
        Self::start(lab, &format!("bash --noprofile --rcfile {} -i", rc.display()), env)
    }

    fn zsh(lab: &'lab Lab) -> Self {
        let folder = lab.new_file("zsh");
        fs::create_dir(&folder).expect("make a folder");
        let rc = r#"
            autoload -Uz compinit
            compinit -u -D
            setopt nobeep nopromptsp
            record() { print -r -- "$BUFFER" >>$RECORD }
            all() { _main_complete; compstate[insert]=all; compstate[list]= }
            zle -N record
            zle -C all complete-word all
            bindkey '^G' record '^[*' all
            PS1='READY''> '
        "#;
        fs::write(folder.join(".zshrc"), format!("fpath=({} $fpath)\n{rc}", path("completions").display()))
            .expect("write a file");
        Self::start(lab, "zsh -d -i", &[("ZDOTDIR", &folder.display().to_string())])
    }

    /// Presses keys, and tells what the line is then.
    fn line_after(&mut self, keys: &str) -> String {
        let keys = format!("{RUBOUT_LINE}{keys}{RECORD_LINE}{RUBOUT_LINE}");
        self.keyboard.write_all(keys.as_bytes()).expect("the shell reads");
        self.lines += 1;
        let (record, count) = (&self.record, self.lines);
        wait_for(&format!("the shell's answer to {keys:?}"), 20, || {
            let text = fs::read_to_string(record).ok()?;
            (text.matches('\n').count() >= count).then(|| text.lines().nth(count - 1).map(str::to_owned)).flatten()
        })
    }

    /// All candidates for the last word.
    fn candidates(&mut self, typed: &str) -> Words {
        let line = self.line_after(&format!("{typed}{ENTER_ALL}"));
        let start = typed.rfind(' ').map_or(0, |blank| blank + 1);
        let words = line.get(start..).unwrap_or_else(|| panic!("{typed:?} has become {line:?}"));
        // Where = and : divide words, only the first candidate still has what comes before them.
        let word = &typed[start..];
        let before = &word[..word.rfind(['=', ':']).map_or(0, |at| at + 1)];
        let whole = |word: &str| if word.starts_with(before) { word.to_owned() } else { format!("{before}{word}") };
        words.split_whitespace().map(whole).collect()
    }

    #[track_caller]
    fn completes_as_expected(&mut self) {
        for (typed, candidates) in expected() {
            assert_eq!(self.candidates(&typed), candidates, "for {typed:?}");
        }
        for (typed, line) in [
            ("qemu-kvm --bridge br0,upl", "qemu-kvm --bridge br0,uplink="),
            ("qemu-kvm --bridge br0,keep=of", "qemu-kvm --bridge br0,keep=off "),
            ("kvm-bridge mac for", "kvm-bridge mac forget "),
        ] {
            assert_eq!(self.line_after(&format!("{typed}\t")), line);
        }
    }

    #[track_caller]
    fn exits(mut self) {
        self.keyboard.write_all(b"exit 7\n").expect("the shell reads");
        wait_for("the shell's end", 10, || (!self.running.is_running()).then_some(()));
    }
}

#[test]
fn bash_completes() {
    if !(have("bash") && have("script")) {
        return;
    }
    let Some(lab) = lab() else { return };
    let mut bash = Shell::bash(&lab, &format!("source {}", path(BASH).display()), &[]);
    bash.completes_as_expected();
    bash.exits();
}

#[test]
fn bash_completes_with_bash_completion_loaded_before_or_after() {
    if !(have("bash") && have("script")) {
        return;
    }
    if !Path::new(BASH_COMPLETION).exists() {
        return skip("bash-completion is not installed");
    }
    let Some(lab) = lab() else { return };
    let (ours, theirs) = (format!("source {}", path(BASH).display()), format!("source {BASH_COMPLETION}"));
    // As it is when our file is installed and bash-completion loads it.
    let folder = lab.new_file("user");
    fs::create_dir_all(folder.join("completions")).expect("make a folder");
    fs::copy(path(BASH), folder.join("completions/kvm-bridge")).expect("copy a file");
    let user = [("BASH_COMPLETION_USER_DIR", folder.to_str().expect("UTF-8"))];

    for (rc, first) in [
        (format!("{theirs}\n{ours}"), "qemu-kvm --bri"),
        (format!("{ours}\n{theirs}"), "qemu-kvm --bri"),
        (format!("{theirs}\n{ours}"), "qemu-system-x86_64 -hd"),
        (format!("{ours}\n{theirs}"), "qemu-system-x86_64 -hd"),
        (format!("{ours}\n{ours}\n{theirs}\n{ours}"), "qemu-system-x86_64 -hd"),
        (format!("{ours}\n{ours}\n{theirs}"), "qemu-system-x86_64 -hd"),
        (theirs.clone(), "kvm-bridge ma"),
    ] {
        let mut bash = Shell::bash(&lab, &rc, &user);
        assert!(!bash.candidates(first).is_empty());
        assert_eq!(bash.candidates("qemu-system-x86_64 -hd"), words(["-hda", "-hdb", "-hdc", "-hdd"]));
        assert_eq!(bash.candidates("qemu-kvm -hd"), words(["-hda", "-hdb", "-hdc", "-hdd"]), "{rc}");
        let all = bash.candidates("qemu-kvm -");
        assert!(all.is_superset(&options_of_the_shim()) && all.contains("-hda"), "{all:?}");
        bash.completes_as_expected();
        bash.exits();
    }
}

#[test]
fn zsh_completes() {
    if !(have("zsh") && have("script")) {
        return;
    }
    let Some(lab) = lab() else { return };
    let mut zsh = Shell::zsh(&lab);
    zsh.completes_as_expected();
    zsh.exits();
}

#[test]
fn fish_completes() {
    if !have("fish") {
        return;
    }
    let Some(lab) = lab() else { return };
    let bin = Path::new(env!("CARGO_BIN_EXE_kvm-bridge")).parent().expect("a folder").display();
    let script = r#"source $argv[1]; for line in $argv[2..]; complete -C $line; echo END; end"#;
    let mut fish = lab.program("fish").words("--no-config -c").arg(script).arg("--").arg(path(FISH));
    fish = fish.env("PATH", format!("{bin}:/usr/sbin:/usr/bin:/sbin:/bin"));
    for (typed, _) in expected() {
        fish = fish.arg(typed);
    }
    let ended = fish.run().succeeds();
    let answers: Vec<&str> = ended.out.split_terminator("END\n").collect();
    assert_eq!(answers.len(), expected().len(), "{}\n{}", ended.out, ended.err);
    for ((typed, candidates), answer) in expected().into_iter().zip(answers) {
        let found = words(answer.lines().filter_map(|line| line.split('\t').next()));
        assert_eq!(found, candidates, "for {typed:?}");
    }
}
