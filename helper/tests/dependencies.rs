//! Every crate below the helper has its right. There are few, they are printed in SECURITY.md, and this is kept so.

// In a test these are how it fails.
#![allow(clippy::expect_used)]

use std::path::Path;
use std::process::Command;

#[test]
fn the_tree_is_the_one_that_is_printed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "--edges", "normal", "--target", "x86_64-unknown-linux-gnu"])
        .args(["--package", "kvm-bridge-helper", "--format", "{lib}", "--prefix", "depth"])
        .current_dir(folder)
        .output()
        .expect("run cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree: String = String::from_utf8_lossy(&output.stdout).lines().map(indented).collect();
    let text = std::fs::read_to_string(folder.join("../SECURITY.md")).expect("read SECURITY.md");
    assert!(text.contains(&tree), "SECURITY.md has not this tree:\n{tree}");
}

/// `1nix` as `    nix`, one step further in than the text around it.
fn indented(line: &str) -> String {
    let name = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let depth: usize = line[..line.len() - name.len()].parse().expect("a depth");
    format!("    {}{name}\n", "    ".repeat(depth))
}
