//! Interactive shells at a terminal, and what they make of the keys that are pressed.

use super::command::Running;
use super::{Lab, wait_for};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{PipeWriter, Write, pipe};
use std::path::{Path, PathBuf};

type Words = BTreeSet<String>;

/// Where the completions are, as they stand in the tree.
const COMPLETIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/completions");

/// Our programs first, QEMU behind them, as once they are installed.
pub fn search_path() -> String {
    let programs = Path::new(env!("CARGO_BIN_EXE_kvm-bridge")).parent().expect("a folder");
    format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display())
}

/// An interactive shell at a terminal, in which Ctrl-G records the line that is being edited.
pub struct Shell<'lab> {
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
        let mut program = lab.program("script").words("-q -c").arg(command).arg("/dev/null").stdin(stdin);
        program = program.finding_qemu_on(search_path()).env("TERM", "dumb");
        program = program.env("RECORD", &record);
        for (name, value) in env {
            program = program.env(name, value);
        }
        let running = program.start();
        wait_for("the prompt", 20, || running.out().contains("READY> ").then_some(()));
        Self { running, keyboard, record, lines: 0 }
    }

    pub fn bash(lab: &'lab Lab, before: &str, env: &[(&str, &str)]) -> Self {
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

    pub fn zsh(lab: &'lab Lab) -> Self {
        Self::zsh_with(lab, "")
    }

    pub fn zsh_with(lab: &'lab Lab, before: &str) -> Self {
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
        fs::write(folder.join(".zshrc"), format!("{before}\nfpath=({} $fpath)\n{rc}", COMPLETIONS))
            .expect("write a file");
        Self::start(lab, "zsh -d -i", &[("ZDOTDIR", &folder.display().to_string())])
    }

    pub fn fish(lab: &'lab Lab) -> Self {
        Self::fish_with(lab, "")
    }

    pub fn fish_with(lab: &'lab Lab, before: &str) -> Self {
        let home = lab.new_file("fish");
        // Where this folder is missing, fish reads all man pages in the background.
        fs::create_dir_all(home.join("fish/generated_completions")).expect("make a folder");
        // fish has no key that enters all candidates.
        let rc = r#"
            function fish_prompt; echo -n 'READY''> '; end
            function fish_greeting; end
            function all
                set -l line (commandline -c)
                set -l found (complete -C "$line" | string replace -r '\t.*' '')
                commandline -r -- (string replace -r '\S*$' '' -- "$line")(string join ' ' -- $found)
            end
            bind \e\* all
            bind \cg 'commandline >>$RECORD'
        "#;
        let rc = format!("{before}\nsource {COMPLETIONS}/kvm-bridge.fish\n{rc}");
        fs::write(home.join("fish/config.fish"), rc).expect("write a file");
        let home = home.display().to_string();
        Self::start(lab, "fish -i", &[("XDG_CONFIG_HOME", &home), ("XDG_DATA_HOME", &home)])
    }

    /// Presses keys, and tells what the line is then.
    pub fn line_after(&mut self, keys: &str) -> String {
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
    pub fn candidates(&mut self, typed: &str) -> Words {
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
    pub fn exits(mut self) {
        self.keyboard.write_all(b"exit 7\n").expect("the shell reads");
        wait_for("the shell's end", 10, || (!self.running.is_running()).then_some(()));
    }
}
