use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Alice is 1000 and in kvm, bob is 1001.
struct Names_;

impl Names for Names_ {
    fn users(&self) -> Result<&[u8], Fault> {
        Ok(b"root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n")
    }

    fn groups(&self) -> Result<&[u8], Fault> {
        Ok(b"kvm:x:104:alice\nalice:x:1000:\n")
    }
}

fn alice() -> Caller {
    Caller { uid: 1000, gids: vec![1000, 104] }
}

fn bob() -> Caller {
    Caller { uid: 1001, gids: vec![1001] }
}

fn acl_of(files: &[(&str, &str)]) -> Result<Acl, Fault> {
    let files: BTreeMap<&Path, &str> = files.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
    Acl::read(|path| match files.get(path) {
        Some(&"UNREADABLE") => File::Unreadable,
        Some(&"UNFIT") => File::Unfit("is no plain file".into()),
        Some(text) => File::Text(text.as_bytes().to_vec()),
        None => File::Missing,
    })
}

fn verdict(files: &[(&str, &str)], bridge: &str, caller: &Caller) -> Result<Verdict, Fault> {
    acl_of(files)?.judge(bridge.as_bytes(), caller, &Names_)
}

/// Any number of TAPs, each guarded.
fn unlimited() -> Verdict {
    let policy = Policy { guard: Guard::Mac, ..Policy::default() };
    Verdict::Allowed(Grant { max: None, policy, needs_address: false })
}

fn may(files: &[(&str, &str)], bridge: &str) -> bool {
    matches!(verdict(files, bridge, &alice()), Ok(Verdict::Allowed(_)))
}

#[track_caller]
fn fault(files: &[(&str, &str)]) -> String {
    verdict(files, "br0", &alice()).unwrap_err().0
}

#[test]
fn what_no_rule_allows_is_denied() {
    assert_eq!(verdict(&[], "br0", &alice()), Ok(Verdict::NoRule));
    assert_eq!(verdict(&[(QEMU, "")], "br0", &alice()), Ok(Verdict::NoRule));
    assert_eq!(verdict(&[(QEMU, "allow br1\n")], "br0", &alice()), Ok(Verdict::NoRule));
}

#[test]
fn qemus_own_lines_mean_what_they_meant() {
    for text in
        ["allow br0\n", "allow br0", "  allow \t br0  \r\n", "allow all\n", "# x\n\n\t#\nallow br0\n", "allow\tbr0\n"]
    {
        assert!(may(&[(QEMU, text)], "br0"), "{text:?}");
    }
    for text in ["allow br0\ndeny br0\n", "deny br0\nallow br0\n", "deny all\nallow br0", "allow all\ndeny br0\n"] {
        assert!(matches!(verdict(&[(QEMU, text)], "br0", &alice()), Ok(Verdict::Denied(_))), "{text:?}");
    }
}

#[test]
fn a_denial_tells_its_line() {
    let files = [(QEMU, "include /etc/more\nallow br0\n"), ("/etc/more", "# no\n\ndeny br0\n")];
    let Ok(Verdict::Denied(place)) = verdict(&files, "br0", &alice()) else { panic!("not denied") };
    assert_eq!(place.to_string(), "/etc/more, line 3");
}

#[test]
fn what_qemu_reads_otherwise_than_it_looks_allows_nothing() {
    for text in ["allow br0 # lan\n", "allow br0 br1\n"] {
        for bridge in ["br0", "br1", "#"] {
            assert!(!may(&[(QEMU, text)], bridge), "{text:?} {bridge}");
        }
    }
    // And denies.
    assert!(!may(&[(QEMU, "allow all\ndeny br0 # lan\n")], "br0"));
}

#[test]
fn a_rule_that_allows_nothing_by_mistake_is_told_with_what_it_should_be() {
    let slips = |file: &str, line: &str| {
        let acl = acl_of(&[(file, &format!("allow br7\n{line}\n"))]).unwrap();
        acl.slips().map(|slip| slip.to_string()).collect::<Vec<_>>()
    };
    let many = "one line for each bridge: allow NAME";
    for (line, meant) in [
        ("allow br0 # lan", "allow br0, with '# lan' on a line of its own"),
        ("allow br0 user al", "allow br0 user al, in /etc/kvm-bridge/bridge.conf"),
        ("allow br0:alice", "allow br0 user alice, in /etc/kvm-bridge/bridge.conf"),
        ("allow br0 br1", many),
        ("allow br0,br1", many),
        ("allow br0, br1", many),
        ("allow \"br0\"", "allow br0"),
        ("allow 'br0'", "allow br0"),
        ("allow br0;", "allow br0"),
        ("allow *", "allow all"),
        ("allow br*", "one line for each bridge, allow NAME, or: allow all"),
    ] {
        let expected = format!("/etc/qemu/bridge.conf, line 2 allows no bridge of any name; write {meant}");
        assert_eq!(slips(QEMU, line), [expected], "{line}");
        assert!(!may(&[(QEMU, line)], "br0"), "{line}");
    }
    assert_eq!(slips(OURS, "allow br0,br1 user alice").len(), 1);
    for line in ["allow br0", "allow all", "allow br-lan_0.1", "allow br0 # the office"] {
        let file = if line.contains('#') { OURS } else { QEMU };
        assert_eq!(slips(file, line), [""; 0], "{line}");
    }
}

#[test]
fn a_line_that_is_not_understood_refuses_everybody_and_is_told() {
    let long = format!("#{}allow br0\n", "x".repeat(4095));
    for text in [
        "allow br0\nalow br1\n",
        "allow br0\nallow\n",
        "allow br0\ndeny\n",
        "allow br0\nALLOW br1",
        "allow br0\nallow br1 user alice\0\n",
        "allow br0\ninclude more.conf\n",
        "allow br0\ninclude ../more.conf\n",
        "allow br0\n\x0b\n",
        "allow br0\nallow sixteen-bytes-xy\n",
        "allow br0\ndeny br1 # the office\n",
        "allow br0\ndeny br1,br2\n",
        "allow br0\ndeny br*\n",
        "allow br0\ndeny \"br1\"\n",
        "allow br0\ndeny br1;\n",
        &format!("allow br0\n{long}"),
        // The blank at the end is where QEMU ends the first word.
        "allow br0\nallow\tbr0 \n",
    ] {
        let why = fault(&[(QEMU, text)]);
        assert!(why.starts_with("/etc/qemu/bridge.conf, line 2: "), "{text:?}: {why}");
    }
    for line in [
        "allow",
        "allow sixteen-bytes-xy",
        "allow br0 user",
        "allow br0 max",
        "allow br0 max x",
        "allow br0 max -1",
        "allow br0 max 1 max 2",
        "allow br0 user alice group kvm",
        "allow br0 alice",
        "deny br1,br2",
        "deny br* user bob",
        "include",
        "include /a /b",
        "include more.conf",
        "max 3",
        "allow br0 user\0 alice",
    ] {
        let why = fault(&[(OURS, &format!("allow br0\n{line}\n"))]);
        assert!(why.starts_with("/etc/kvm-bridge/bridge.conf, line 2: "), "{line:?}: {why}");
    }
}

#[test]
fn a_file_that_may_deny_and_cannot_be_read_refuses_everybody() {
    let good = "allow br0\n";
    assert_eq!(fault(&[(QEMU, "UNREADABLE"), (OURS, good)]), "you may not read /etc/qemu/bridge.conf");
    assert_eq!(fault(&[(QEMU, good), (OURS, "UNREADABLE")]), "you may not read /etc/kvm-bridge/bridge.conf");
    assert!(fault(&[(QEMU, good), (OURS, "UNFIT")]).contains("no plain file"));
    let including = "allow br0\ninclude /etc/more\n";
    assert!(
        fault(&[(QEMU, including), ("/etc/more", "UNFIT")]).starts_with("/etc/qemu/bridge.conf, line 2: /etc/more ")
    );
}

#[test]
fn included_files_that_are_for_others_are_passed_over() {
    let files = [(QEMU, "include /etc/alice\ninclude /etc/bob\ninclude /etc/nobody\n"), ("/etc/alice", "allow br0\n")];
    assert!(may(&files, "br0"));
    assert!(may(&[files[0], files[1], ("/etc/bob", "UNREADABLE")], "br0"));
}

#[test]
fn includes_have_an_end() {
    assert!(fault(&[(QEMU, "include /etc/qemu/bridge.conf\n")]).contains("include each other"));
    let twice = "include /etc/a\ninclude /etc/a\n";
    assert!(fault(&[(QEMU, twice), ("/etc/a", &twice.repeat(60))]).contains("include each other"));
}

#[test]
fn rules_for_users_and_groups_are_for_them_alone() {
    for (text, of_alice, of_bob) in [
        ("allow br0 user alice\n", true, false),
        ("allow br0 user 1000\n", true, false),
        ("allow br0 group kvm\n", true, false),
        ("allow br0 group 104\n", true, false),
        ("allow br0 user bob # and nobody else\n", false, true),
        ("allow br0\ndeny br0 user bob\n", true, false),
        ("allow br0\ndeny br0 user bob max 3\n", true, false),
        ("allow all\ndeny all group kvm\n", false, true),
        ("allow br0 user nobody-known\n", false, false),
        ("allow br0 user alice max 2\n", true, false),
        ("allow br0 max 2 user alice\n", true, false),
    ] {
        for (caller, may) in [(alice(), of_alice), (bob(), of_bob)] {
            let found = verdict(&[(OURS, text)], "br0", &caller);
            assert_eq!(matches!(found, Ok(Verdict::Allowed(_))), may, "{text:?} {caller:?}");
        }
    }
    // In QEMU's file these are names of bridges that nobody has.
    assert!(!may(&[(QEMU, "allow br0 user alice\n")], "br0"));
}

#[test]
fn a_denial_of_somebody_unknown_is_a_fault() {
    let why = fault(&[(OURS, "allow br0\ndeny br0 user carol\n")]);
    assert!(why.contains("line 2: there is no user carol"), "{why}");
    // Of another bridge it does not matter.
    assert!(may(&[(OURS, "allow br0\ndeny br1 user carol\n")], "br0"));
}

#[test]
fn rules_for_nobody_are_named_with_their_lines() {
    let names = |text: &str| -> Vec<String> {
        acl_of(&[(OURS, text)]).unwrap().unknown(&Names_).map(|unknown| unknown.to_string()).collect()
    };
    let known = "allow br0\nallow br0 user alice\nallow br0 group kvm\nallow br0 user 4711\ndeny br1 group 4711\n";
    assert_eq!(names(known), [""; 0]);
    let text = "allow br0 user alcie\n# allow br0 user x\ndeny br1 group kmv\nallow all user kvm max 2\n";
    assert_eq!(
        names(text),
        [
            "/etc/kvm-bridge/bridge.conf, line 1 is for the user alcie, and there is none in /etc/passwd",
            "/etc/kvm-bridge/bridge.conf, line 3 is for the group kmv, and there is none in /etc/group",
            "/etc/kvm-bridge/bridge.conf, line 4 is for the user kvm, and there is none in /etc/passwd",
        ]
    );
    // Nobody else is refused for that.
    let may = verdict(&[(OURS, "allow br0\nallow br0 user alcie\nallow br0 group kmv max 1\n")], "br0", &alice());
    assert_eq!(may, Ok(unlimited()));
}

/// It may be the rule that restricts the caller.
#[test]
fn a_name_that_cannot_be_looked_up_refuses() {
    struct Unknown;
    impl Names for Unknown {
        fn users(&self) -> Result<&[u8], Fault> {
            Err(Fault("/etc/passwd cannot be read".into()))
        }

        fn groups(&self) -> Result<&[u8], Fault> {
            Err(Fault("/etc/group cannot be read".into()))
        }
    }
    let judge = |text: &str| acl_of(&[(OURS, text)]).and_then(|acl| acl.judge(b"br0", &alice(), &Unknown));
    for rule in ["allow br0 user alice max 1", "allow br0 group kvm max 1", "allow br0 user bob", "deny br0 user bob"] {
        let why = judge(&format!("allow br0\n{rule}\n")).unwrap_err().0;
        assert!(why.contains("line 2: /etc/") && why.ends_with("cannot be read"), "{why}");
    }
    // Where no name is looked up none is missed.
    assert!(matches!(
        judge("allow br0\nallow br0 user 1000 max 1\nallow br1 user bob"),
        Ok(Verdict::Allowed(Grant { max: Some(_), .. }))
    ));
}

/// Users and groups of a directory service have no name here, so that any name may be theirs.
#[test]
fn a_limit_for_somebody_unknown_is_a_fault_for_who_may_be_meant() {
    let unnamed = Caller { uid: 5000, gids: vec![104] };
    let in_unnamed_group = Caller { uid: 1000, gids: vec![1000, 5000] };
    let judge = |text: &str, caller: &Caller| verdict(&[(OURS, text)], "br0", caller);
    let (user, group) = ("allow br0\nallow br0 user carol max 1\n", "allow br0\nallow br0 group staff max 1\n");
    assert!(judge(user, &unnamed).unwrap_err().0.contains("line 2: there is no user carol in /etc/passwd"));
    assert!(judge(group, &in_unnamed_group).unwrap_err().0.contains("line 2: there is no group staff in /etc/group"));
    for (text, caller) in [(user, &alice()), (user, &in_unnamed_group), (group, &alice()), (group, &unnamed)] {
        assert_eq!(judge(text, caller), Ok(unlimited()), "{text} {caller:?}");
    }
    assert_eq!(judge("allow br0\nallow br0 user carol\n", &unnamed), Ok(unlimited()));
}

#[test]
fn of_several_limits_that_of_the_closest_rule_holds() {
    let max = |text: &str, caller: &Caller| match verdict(&[(OURS, text)], "br0", caller) {
        Ok(Verdict::Allowed(grant)) => grant.max.map(|(max, _)| max),
        other => panic!("{other:?}"),
    };
    assert_eq!(max("allow br0 max 4\nallow br0 max 2\nallow all max 3\n", &alice()), Some(2));
    assert_eq!(max("allow br0 max 2\nallow br0 user alice max 9\n", &alice()), Some(9));
    assert_eq!(max("allow br0 max 2\nallow br0 user alice max 9\n", &bob()), Some(2));
    assert_eq!(max("allow br0 max 2\nallow br0 user alice\n", &alice()), None);
    assert_eq!(max("allow br0\nallow br0 group kvm max 1\n", &alice()), Some(1));
    assert_eq!(max("allow br0\nallow br0 max 1\n", &alice()), Some(1));
}

#[test]
fn of_what_ports_are_held_to_the_strictest_that_the_closest_rules_say_holds() {
    let policy = |text: &str, caller: &Caller| match verdict(&[(OURS, text)], "br0", caller) {
        Ok(Verdict::Allowed(grant)) => grant.policy,
        other => panic!("{other:?}"),
    };
    for (text, guard) in [
        ("allow br0\n", Guard::Mac),
        ("allow br0 guard on\n", Guard::Mac),
        ("allow br0 guard off\n", Guard::Off),
        ("allow br0 guard ip\n", Guard::Ip),
        ("allow br0 guard off\nallow br0 guard on\n", Guard::Mac),
        ("allow br0 guard ip\nallow br0 guard on\n", Guard::Ip),
        ("allow br0 guard off\nallow br0\n", Guard::Off),
        ("allow br0 guard on\nallow br0 user alice guard off\n", Guard::Off),
        // The closer rule does not say so.
        ("allow br0 guard off\nallow br0 user alice\n", Guard::Mac),
    ] {
        assert_eq!(policy(text, &alice()).guard, guard, "{text}");
    }
    let all = "allow br0 user alice max 4 vlan 10:20-30 guard off isolated rate 100mbit # hers\n";
    let expected = Policy {
        guard: Guard::Off,
        isolated: true,
        vlans: Some("10:20-30".parse().unwrap()),
        rate: Some("100mbit".parse().unwrap()),
    };
    assert_eq!(policy(all, &alice()), expected);
    let two = "allow br0 vlan 10 rate 1gbit\nallow br0 isolated vlan 10 rate 10mbit\n";
    assert_eq!(policy(two, &bob()).rate, Some("10mbit".parse().unwrap()));
    assert!(policy(two, &bob()).isolated);
    let differ = verdict(&[(OURS, "allow br0 vlan 10\nallow br0 vlan 11\n")], "br0", &alice()).unwrap_err().0;
    assert!(differ.contains("line 2: gives other VLANs than") && differ.contains("line 1"), "{differ}");
    // QEMU's file has no such words, and neither has a line that gives them twice or wrongly.
    for bad in [
        "guard",
        "guard yes",
        "guard on guard off",
        "isolated isolated",
        "isolated on",
        "vlan",
        "vlan 0",
        "vlan 10 vlan 10",
        "rate",
        "rate 100",
        "rate 1mbit rate 1mbit",
    ] {
        let text = format!("allow br1 {bad}\n");
        assert!(verdict(&[(OURS, &text)], "br0", &alice()).is_err(), "{bad}");
    }
}

#[test]
fn what_is_shown_commands_no_terminal() {
    assert_eq!(show("brücke".as_bytes()), "brücke");
    assert_eq!(show(b"\x1b[2J"), "\\x1b[2J");
    assert_eq!(show(b"\xff"), "\\xff");
}

#[test]
fn names_and_numbers_of_accounts() {
    let text = b"alice:x:1000:1000:A:/:/bin/sh\nbroken\n:x:5:\nbob:x:x:\n";
    assert_eq!(id_of(text, b"alice"), Some(1000));
    for unknown in [&b""[..], b"broken", b"bob", b"ali"] {
        assert_eq!(id_of(text, unknown), None);
    }
    assert_eq!(name_of(text, 1000), Some(&b"alice"[..]));
    assert_eq!(name_of(text, 5), None);
}

#[test]
fn as_many_files_as_a_site_has_are_read_and_no_endless_number() {
    let read = |count: usize| {
        let includes: String = (0..count).map(|number| format!("include /etc/more/{number}\n")).collect();
        Acl::read(|path| match path.to_str() {
            Some(QEMU) => File::Text(format!("{includes}allow br0\n").into_bytes()),
            Some(OURS) => File::Missing,
            _ => File::Text(b"# none\n".to_vec()),
        })
    };
    assert!(read(4096).is_ok());
    assert!(read(4097).unwrap_err().0.contains("or 4096 in all"));
}

#[test]
fn what_is_shown_can_be_pasted_and_reads_as_it_is() {
    assert_eq!(quote("br0:alice"), "br0:alice");
    assert_eq!(quote("$(id)"), "'$(id)'");
    assert_eq!(quote("a'b;c"), r"'a'\''b;c'");
    assert_eq!(quote(""), "''");
    assert_eq!(show("br\u{e9}".as_bytes()), "br\u{e9}");
    for odd in ["\u{202e}br0", "br0\u{2066}", "a\u{85}b", "a\u{200b}b", "\x1b[m"] {
        assert!(show(odd.as_bytes()).is_ascii(), "{odd:?}");
        assert!(!show(odd.as_bytes()).contains(char::is_control));
    }
}

/// Pieces of which lines are made, so that many of the texts say something.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("allow"),
        Just("deny"),
        Just("include"),
        Just("br0"),
        Just("br1"),
        Just("all"),
        Just(" "),
        Just(" "),
        Just("\t"),
        Just("\n"),
        Just("\n"),
        Just("#"),
        Just("user"),
        Just("group"),
        Just("max"),
        Just("alice"),
        Just("1000"),
        Just("/etc/more"),
        Just("\0"),
        Just("\r"),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_is_too_odd(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        let read = |_: &Path| File::Text(text.clone());
        if let Ok(acl) = Acl::read(read) {
            let _ = acl.judge(b"br0", &alice(), &Names_);
        }
    }

    #[test]
    fn more_rules_that_deny_never_allow_more(one in texts(), other in texts(), bridge in "br[01]") {
        let denying = format!("{other}\ndeny all\n");
        prop_assert!(!may(&[(QEMU, &one), (OURS, &denying)], &bridge));
        prop_assert!(!may(&[(QEMU, &denying), (OURS, &one)], &bridge));
    }

    #[test]
    fn the_order_of_lines_does_not_matter(text in texts(), bridge in "br[01]") {
        let backwards: String = text.split('\n').rev().map(|line| format!("{line}\n")).collect();
        for file in [QEMU, OURS] {
            prop_assert_eq!(may(&[(file, &text)], &bridge), may(&[(file, &backwards)], &bridge));
        }
    }

    #[test]
    fn nothing_is_allowed_that_no_line_allows(text in texts(), bridge in "br[01]") {
        let allows = text.lines().any(|line| line.trim_start().starts_with("allow"));
        prop_assert!(allows || !may(&[(QEMU, &text), (OURS, &text)], &bridge));
    }
}

#[test]
fn a_rule_that_says_nothing_of_ports_where_others_do_is_told() {
    let told = |ours: &str| {
        let acl = acl_of(&[(OURS, ours)]).unwrap();
        let told = acl.overruling();
        told.iter().map(|(place, wider, policy)| (place.line, wider.line, policy.to_string())).collect::<Vec<_>>()
    };
    let isolated = |place, wider| vec![(place, wider, "isolated".to_owned())];
    assert_eq!(told("allow br0 isolated\nallow br0 user alice max 4\n"), isolated(2, 1));
    assert_eq!(told("allow br0 group kvm\nallow br0\nallow all isolated\n"), isolated(1, 3));
    assert_eq!(told("allow all isolated\nallow all user alice\n"), isolated(2, 1));
    assert_eq!(
        told("allow br0 guard ip vlan 10 rate 1mbit\nallow br0 user alice\n"),
        [(2, 1, "guarded by IP address, VLAN 10, 1mbit".to_owned())]
    );
    for meant in [
        "allow br0 isolated\nallow br0 user alice guard on\n",
        "allow br0 isolated\nallow br0 user alice\nallow br0 user alice rate 1mbit\n",
        "allow br0 guard on\nallow br0 user alice\n",
        "allow br0 max 2\nallow br0 user alice\n",
        "allow br1 isolated\nallow br0 user alice\n",
        "allow br0 isolated\ndeny br0 user alice\n",
        "allow br0 isolated\nallow br0\n",
    ] {
        assert_eq!(told(meant), [], "{meant}");
    }
    let acl =
        acl_of(&[(QEMU, "allow br0\n"), (OURS, "allow br0 isolated\nallow all user alice\nallow br1\n")]).unwrap();
    let lines = |bridge: &'static str| acl.silent(bridge.as_bytes()).map(|place| place.line).collect::<Vec<_>>();
    assert_eq!((lines("br0"), lines("br1"), lines("br2")), (vec![2], vec![2, 3], vec![2]));
}
