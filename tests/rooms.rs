//! The house stays as docs/rooms.md draws it: rooms use rooms below them only, and what thinks cannot act.

use crate::support::rooms::{FLOORS, Room, all, table};
use std::path::Path;

fn rooms() -> Vec<Room> {
    all(Path::new(env!("CARGO_MANIFEST_DIR")))
}

#[test]
fn each_room_stands_on_a_floor_and_uses_only_rooms_below_it() {
    let mut faults = Vec::new();
    for room in rooms() {
        let floors = FLOORS.iter().find(|(root, _)| room.path.starts_with(&format!("{root}/"))).expect("its crate").1;
        let floor = |name: &str| floors.iter().position(|known| *known == name);
        let Some(own) = floor(&room.name) else {
            faults.push(format!("{} is on no floor", room.path));
            continue;
        };
        let upward = room.uses.iter().filter(|used| floor(used).is_none_or(|used| used > own));
        faults.extend(upward.map(|used| format!("{} uses {used}, which is not below it", room.path)));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_crate_that_thinks_cannot_act() {
    const ACTS: [&str; 14] = [
        "std::fs",
        "std::env",
        "std::process",
        "std::thread",
        "std::time",
        "OwnedFd",
        "TcpStream",
        "UdpSocket",
        "UnixStream",
        "println!",
        "SystemTime",
        "extern ",
        "Command::new",
        ".exists()",
    ];
    const CRATES: [&str; 14] = [
        "bzip2",
        "etherparse",
        "flate2",
        "lz4_flex",
        "lzma-rust2",
        "memchr",
        "port",
        "ruzstd",
        "serde",
        "serde_json",
        "shell-words",
        "strsim",
        "toml",
        "toml_edit",
    ];
    for room in rooms().iter().filter(|room| room.path.starts_with("model/")) {
        let acts: Vec<_> = ACTS.iter().filter(|word| room.code.contains(**word)).collect();
        assert!(acts.is_empty(), "{} has {acts:?}", room.path);
    }
    let manifest = include_str!("../model/Cargo.toml");
    let dependencies = manifest.split("[dependencies]\n").nth(1).expect("dependencies").split("\n\n").next();
    let lines = dependencies.expect("dependencies").lines().filter(|line| !line.starts_with('#'));
    let crates: Vec<_> = lines.filter_map(|line| line.split_once(" =")).map(|(name, _)| name).collect();
    assert_eq!(crates, CRATES, "each of them is to be one that cannot act");
    assert!(include_str!("../model/src/lib.rs").contains("#![forbid(unsafe_code)]"));
    let ports = [
        include_str!("../port/src/lib.rs"),
        include_str!("../port/src/bpf.rs"),
        include_str!("../port/src/request.rs"),
        include_str!("../port/src/words.rs"),
    ];
    let acts: Vec<_> = ACTS.iter().filter(|word| ports.iter().any(|text| text.contains(**word))).collect();
    assert!(acts.is_empty() && ports[0].contains("#![forbid(unsafe_code)]"), "the crate port has {acts:?}");
}

#[test]
fn the_page_of_rooms_is_true() {
    let rooms = rooms();
    for room in &rooms {
        assert!(
            room.may_not.starts_with("It may not "),
            "{}.rs begins with what it is and what it may not do",
            room.path
        );
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rooms.md");
    let page = std::fs::read_to_string(&path).expect("docs/rooms.md");
    let (before, rest) = page.split_once("| room |").expect("the table");
    let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
    let now = format!("{before}{}\n{after}", table(&rooms, false));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &now).expect("write docs/rooms.md");
    } else {
        assert!(page == now, "docs/rooms.md is not as the code is. If the code is right: UPDATE_SNAPSHOTS=1");
    }
}
