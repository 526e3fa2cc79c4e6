//! The words of `kvm-bridge`, from its own definition, and those of the helper.

use crate::complete::host::all;
use crate::complete::qemu;
use clap::{Arg, Command};
use model::complete::{Answer, Candidate, Thing};

/// Values that are only somebody's to know, or a number.
const FREE: [&str; 15] = [
    "NUMBER", "HOSTS", "ADDRESS", "ARGS", "COMMAND", "NET", "WORDS", "SECONDS", "BYTES", "MAC", "SLOT", "NIC", "UUID",
    "PORT", "CARD",
];

/// What a value is called in the definition decides on what is offered for it; `None` for a name that nobody has thought of.
fn values_of(name: &str, typed: &str) -> Option<Answer> {
    Some(match name {
        "BR" | "BRIDGE" => Answer::of(all(Thing::Bridges)),
        "BRIDGE[:USER]" => match typed.split_once(':') {
            Some((bridge, _)) => Answer::of(all(Thing::Users)).behind(&format!("{bridge}:")),
            None => Answer::of(all(Thing::Bridges)),
        },
        "IF" | "IFACE" | "UPLINK" => Answer::of(all(Thing::Uplinks(""))),
        "VM" => Answer::of(all(Thing::Vms)),
        "BRIDGE[,KEY=VALUE]" => qemu("qemu-kvm", &["--bridge".to_owned()], typed),
        "GUEST" => match typed.rsplit_once('@') {
            Some((user, _)) => Answer::of(all(Thing::Guests)).behind(&format!("{user}@")),
            None => Answer::of(all(Thing::Guests)),
        },
        "TAP" => Answer::of(all(Thing::Taps)),
        "USER" => Answer::of(all(Thing::Users)),
        "LINK" => Answer::of(["qemu-kvm", "kvm", "qemu-system-x86_64", "qemu-system-aarch64"].map(Candidate::bare)),
        "FILE" | "PATH" => Answer::files(),
        _ if FREE.contains(&name) => Answer::default(),
        _ => return None,
    })
}

/// Completes `kvm-bridge WORDS... typed`.
pub(super) fn complete(mut definition: clap::Command, before: &[String], typed: &str) -> Answer {
    definition.build();
    let mut command = &definition;
    let (mut pending, mut places) = (None, 0);
    for (at, word) in before.iter().enumerate() {
        if pending.take().is_some() {
            continue;
        }
        if word == "--" {
            // What qemu-kvm would be given.
            return match command.get_positionals().any(Arg::is_last_set) {
                true if ["enter", "ssh"].contains(&command.get_name()) => Answer::files(),
                true => qemu("qemu-kvm", &before[at + 1..], typed),
                false => Answer::default(),
            };
        }
        if let Some(option) = word.strip_prefix("--") {
            let option = command.get_arguments().find(|argument| argument.get_long() == Some(option));
            // Where a value may be missing it never is the next word.
            pending = option.filter(|option| takes_value(option) && !option.is_require_equals_set());
        } else if let Some(option) = word.strip_prefix('-') {
            let option = command.get_arguments().find(|argument| argument.get_short() == option.chars().last());
            pending = option.filter(|option| takes_value(option));
        } else if let Some(found) = command.find_subcommand(word) {
            (command, places) = (found, 0);
        } else {
            places += 1;
        }
    }
    if let Some(option) = pending {
        return values(option, typed);
    }
    if let Some((name, value)) = typed.strip_prefix("--").and_then(|typed| typed.split_once('=')) {
        let option = command.get_arguments().find(|argument| argument.get_long() == Some(name));
        return option.map(|option| values(option, value)).unwrap_or_default().behind(&format!("--{name}="));
    }
    let last = command.get_positionals().find(|argument| argument.is_last_set());
    let last = last.map(|argument| Candidate::new("--", first_line(argument.get_help())));
    if typed.starts_with('-') {
        return Answer::of(options(command, before).chain(last));
    }
    let subcommands = command.get_subcommands().filter(|command| !command.is_hide_set());
    let subcommands = subcommands.map(|command| Candidate::new(command.get_name(), first_line(command.get_about())));
    let positionals: Vec<&Arg> = command.get_positionals().filter(|argument| !argument.is_last_set()).collect();
    let many = |argument: &&&Arg| argument.get_num_args().is_some_and(|number| number.max_values() > 1);
    let place = positionals.get(places).or_else(|| positionals.iter().find(many));
    let mut answer = place.map(|argument| values(argument, typed)).unwrap_or_default();
    // Of a list, what is in it already does not come again.
    answer.candidates.retain(|candidate| !place.is_some_and(|place| many(&place)) || !before.contains(&candidate.text));
    answer.candidates.splice(0..0, subcommands);
    answer.candidates.extend(last);
    answer
}

fn options<'a>(command: &'a Command, before: &'a [String]) -> impl Iterator<Item = Candidate> + 'a {
    let shown = command.get_arguments().filter(|argument| !argument.is_positional() && !argument.is_hide_set());
    shown.filter_map(|argument| {
        let long = format!("--{}", argument.get_long()?);
        let again = matches!(argument.get_action(), clap::ArgAction::Append | clap::ArgAction::Count);
        let is_given = before.contains(&long) && !again;
        (!is_given).then(|| Candidate::new(long, first_line(argument.get_help())))
    })
}

fn takes_value(argument: &Arg) -> bool {
    argument.get_action().takes_values()
}

fn values(argument: &Arg, typed: &str) -> Answer {
    let words = argument.get_possible_values();
    if !words.is_empty() {
        let words = words.iter().filter(|word| !word.is_hide_set());
        return Answer::of(words.map(|word| Candidate::new(word.get_name(), first_line(word.get_help()))));
    }
    values_of(&name_of(argument), typed).unwrap_or_default()
}

/// What the definition calls its value, as help shows it.
fn name_of(argument: &Arg) -> String {
    // Two options call theirs NAME, and it is not the same.
    match argument.get_long() {
        Some("tap") => return "TAP".to_owned(),
        Some("link") => return "LINK".to_owned(),
        _ => {}
    }
    if argument.get_id() == "guest" {
        return "GUEST".to_owned();
    }
    let names = argument.get_value_names().unwrap_or_default();
    names.first().map(ToString::to_string).unwrap_or_else(|| argument.get_id().as_str().to_uppercase())
}

fn first_line(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

/// The options of `kvm-bridge-helper`, which are those of qemu-bridge-helper.
pub(super) const OF_HELPER: [(&str, &str); 3] = [
    ("--use-vnet", "let the TAP carry virtio's headers"),
    ("--br=", "the bridge"),
    ("--fd=", "the descriptor of the socket that the TAP is sent on"),
];

pub(super) fn of_helper(before: &[String], typed: &str) -> Answer {
    if typed.starts_with("--br=") {
        return Answer::of(all(Thing::Bridges)).behind("--br=");
    }
    let is_given = |option: &str| before.iter().any(|word| word.starts_with(option));
    let left = OF_HELPER.iter().filter(|(option, _)| !is_given(option));
    Answer::of(left.map(|(option, about)| Candidate::new(*option, *about)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_name_that_is_known() {
        fn walk(command: &Command) {
            for argument in command.get_arguments().filter(|argument| takes_value(argument)) {
                let name = name_of(argument);
                let known = !argument.get_possible_values().is_empty() || values_of(&name, "").is_some();
                assert!(known, "nobody knows what to offer for {name} of '{}'", command.get_name());
            }
            command.get_subcommands().for_each(walk);
        }
        let mut definition = crate::cli::definition();
        definition.build();
        walk(&definition);
    }
}
