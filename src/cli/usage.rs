//! What is wrong with a command line, in our words and our form in place of clap's.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};
use model::error::Error;
use model::slips;
use model::text::shell::quote;
use std::ffi::OsString;

/// The same error in our words. `words` are argv.
pub(super) fn explain(error: &clap::Error, words: &[OsString]) -> Error {
    let root = crate::cli::definition_built();
    let place = Place::of(&root, words);
    let error = place.explain(error);
    match place.path.split_once(' ') {
        Some((_, path)) => error.of(path),
        None => error,
    }
}

/// A number of the command line that may be this large.
pub(super) fn number(text: &str, least: u32, most: u32) -> Result<u32, Error> {
    text.parse().ok().filter(|number| (least..=most).contains(number)).ok_or_else(|| {
        // What is wrong is said where the option is known.
        Error::new("", format!("Give a whole number from {least} to {most}."))
    })
}

/// The command that the words have come to.
struct Place<'a> {
    root: &'a Command,
    command: &'a Command,
    /// The words that lead to it, that of the program first.
    path: String,
    words: &'a [OsString],
}

impl<'a> Place<'a> {
    fn of(root: &'a Command, words: &'a [OsString]) -> Self {
        let (mut command, mut path) = (root, root.get_name().to_owned());
        let bare = words.iter().skip(1).take_while(|word| *word != "--").filter_map(|word| word.to_str());
        for word in bare.filter(|word| !word.starts_with('-')) {
            let Some(next) = command.find_subcommand(word) else { break };
            command = next;
            path = format!("{path} {word}");
        }
        Self { root, command, path, words }
    }

    fn explain(&self, error: &clap::Error) -> Error {
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => text.clone(),
            Some(ContextValue::Strings(all)) => all.join(", "),
            _ => String::new(),
        };
        let (argument, value) = (plain(&text(ContextKind::InvalidArg)), text(ContextKind::InvalidValue));
        let more = || self.more();
        match error.kind() {
            ErrorKind::InvalidSubcommand => self.no_command(&text(ContextKind::InvalidSubcommand)),
            ErrorKind::MissingSubcommand => Error::new("a command is missing", self.commands()),
            ErrorKind::UnknownArgument if argument.starts_with('-') => self.no_option(&argument),
            ErrorKind::UnknownArgument => self.too_many(&argument),
            ErrorKind::MissingRequiredArgument => Error::new(format!("{argument} is required"), self.usage()),
            ErrorKind::ArgumentConflict => {
                let prior = plain(&text(ContextKind::PriorArg));
                match prior == argument || prior.is_empty() {
                    true => Error::new(format!("{argument} is given twice"), "Give it once."),
                    false => {
                        let what = format!("{argument} cannot be used with {prior}");
                        Error::new(what, "Leave one of them out.")
                    }
                }
            }
            ErrorKind::TooManyValues => {
                Error::new(format!("{argument} has no value, and is given '{value}'"), format!("Write {argument}."))
            }
            ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
                self.bad_value(&argument, &value, text(ContextKind::ValidValue))
            }
            ErrorKind::ValueValidation => {
                let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<Error>());
                let what = format!("{} cannot be '{value}'", first(&argument));
                match cause {
                    Some(cause) if cause.what().is_empty() => Error::new(what, cause.remedy().clone()),
                    Some(cause) => cause.clone().of(first(&argument)),
                    None => Error::new(what, more()),
                }
            }
            ErrorKind::InvalidUtf8 => Error::new("a word of the line is not UTF-8", "Names and values are UTF-8 text."),
            _ => Error::new("this line is not understood", more()),
        }
    }

    /// Where more can be read.
    fn more(&self) -> String {
        let (program, path) = self.path.split_once(' ').unwrap_or((&self.path, ""));
        format!("'{}' tells more.", format!("{program} help {path}").trim_end())
    }

    fn commands(&self) -> String {
        let shown = self.command.get_subcommands().filter(|command| !command.is_hide_set());
        let names: Vec<&str> = shown.map(Command::get_name).collect();
        format!("The commands are {}; {}", names.join(", "), self.more())
    }

    fn usage(&self) -> String {
        let usage = self.command.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ");
        format!("Write {usage}; {}", self.more())
    }

    fn no_command(&self, wrong: &str) -> Error {
        let shown = self.command.get_subcommands().filter(|command| !command.is_hide_set()).map(Command::get_name);
        let help = ["help"].into_iter().filter(|_| self.command.get_name() == self.root.get_name());
        let known: Vec<&str> = shown.chain(help).collect();
        let begun = known.iter().copied().filter(|name| wrong.len() > 1 && name.starts_with(wrong));
        let remedy = match slips::near(wrong, known.iter().copied()).or_else(|| begun.into_iter().next()) {
            Some(near) => format!("Is '{} {near}' meant?", self.path),
            None => self.commands(),
        };
        Error::new(format!("there is no command {}", quote(wrong)), remedy)
    }

    fn no_option(&self, wrong: &str) -> Error {
        let name = wrong.split('=').next().unwrap_or(wrong);
        let what = format!("there is no option {name}");
        let takes_qemus = self.command.get_arguments().any(Arg::is_last_set);
        let known = options(self.command);
        // One dash too few is a slip as well.
        let bare = format!("--{}", name.trim_start_matches('-'));
        let near = || near_option(&bare, &known);
        let remedy = if takes_qemus && is_qemus(name) && near().is_none_or(|near| near != bare) {
            format!("What is for qemu-kvm comes behind two dashes: {} -- {name} ...", self.path)
        } else if let Some(near) = near() {
            format!("Is {near} meant?")
        } else if let Some((option, commands)) = self.elsewhere(&bare) {
            format!("{option} is an option of {commands}.")
        } else if known.is_empty() {
            self.more()
        } else {
            format!("The options are {}; {}", known.join(", "), self.more())
        };
        Error::new(what, remedy)
    }

    /// The other commands that have such an option, or one near it.
    fn elsewhere(&self, wrong: &str) -> Option<(String, String)> {
        let all = all_commands(self.root);
        let known: Vec<String> = all.iter().flat_map(|(_, command)| options(command)).collect();
        let option = near_option(wrong, &known)?;
        let having = all.iter().filter(|(_, command)| options(command).contains(&option));
        let names: Vec<String> = having.map(|(path, _)| format!("'{path}'")).collect();
        Some((option, names.join(" and ")))
    }

    fn too_many(&self, word: &str) -> Error {
        let before = self.words.iter().rev().skip_while(|own| *own != word).nth(1).and_then(|own| own.to_str());
        let wants_equals = |arg: &&Arg| {
            arg.is_require_equals_set() && before == arg.get_long().map(|long| format!("--{long}")).as_deref()
        };
        let remedy = match self.command.get_arguments().find(wants_equals).and_then(Arg::get_long) {
            Some(long) => format!("Its value comes behind =: --{long}={word}"),
            None => self.usage(),
        };
        Error::new(format!("{} is a word too many", quote(word)), remedy)
    }

    fn bad_value(&self, argument: &str, value: &str, valid: String) -> Error {
        let name = first(argument);
        let known: Vec<&str> = valid.split(", ").filter(|value| !value.is_empty()).collect();
        let remedy = match (slips::near(value, known.iter().copied()), known.is_empty()) {
            (Some(near), _) => format!("Is {name} {near} meant?"),
            (None, false) => {
                let ways: Vec<String> = known.iter().map(|value| format!("{name} {value}")).collect();
                format!("Write {}.", ways.join(" or "))
            }
            (None, true) => format!("Write {argument}; {}", self.more()),
        };
        match value {
            "" => Error::new(format!("{name} has no value"), remedy),
            value => Error::new(format!("{name} cannot be '{value}'"), remedy),
        }
    }
}

/// An argument without the brackets that clap puts around names of values.
fn plain(argument: &str) -> String {
    let plain = argument.replace("...", "");
    let plain: String = plain.chars().filter(|c| !"<>".contains(*c)).collect();
    let inner = plain.strip_prefix('[').and_then(|plain| plain.strip_suffix(']'));
    inner.unwrap_or(&plain).replace('|', " or ")
}

/// An option without the name of its value.
fn first(argument: &str) -> &str {
    argument.split(' ').next().unwrap_or(argument)
}

fn options(command: &Command) -> Vec<String> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    shown.filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect()
}

/// The option that a wrong one is near to; the dashes count for nothing.
fn near_option(wrong: &str, known: &[String]) -> Option<String> {
    let names = known.iter().map(|name| name.trim_start_matches('-'));
    slips::near(wrong.trim_start_matches('-'), names).map(|near| format!("--{near}"))
}

/// Whether an option is one of qemu-kvm's: of ours there, or of QEMU.
fn is_qemus(name: &str) -> bool {
    let name = name.trim_start_matches('-');
    name.starts_with("bridge") || model::options::arity(name.as_bytes()) != model::options::Arity::Unknown
}

fn all_commands(root: &Command) -> Vec<(String, &Command)> {
    fn walk<'a>(command: &'a Command, path: String, all: &mut Vec<(String, &'a Command)>) {
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
        let shown: Vec<&Command> = shown.collect();
        shown.iter().for_each(|command| walk(command, format!("{path} {}", command.get_name()), all));
        if shown.is_empty() {
            all.push((path, command));
        }
    }
    let mut all = Vec::new();
    walk(root, root.get_name().to_owned(), &mut all);
    all
}
