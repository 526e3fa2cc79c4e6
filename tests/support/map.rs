//! `make map`: the rooms with their sizes.

#[path = "rooms.rs"]
#[allow(dead_code, unreachable_pub)]
mod rooms;

fn main() {
    let rooms = rooms::all(std::path::Path::new(env!("CARGO_MANIFEST_DIR")));
    print!("{}", rooms::table(&rooms, true));
    println!("\n{} lines in all, with comments and unit tests", rooms.iter().map(|room| room.lines).sum::<usize>());
}
