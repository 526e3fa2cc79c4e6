//! The page that has what is measured.

use std::path::Path;

/// Puts a table into the folder's page, where it has the place for what `make NAME` prints.
pub fn put(folder: &Path, name: &str, table: &str) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("performance.md");
    let marks = [format!("<!-- make {name} -->\n"), format!("<!-- end of make {name} -->\n")];
    let mut page = std::fs::read_to_string(&path).unwrap_or_default();
    if !page.contains(&marks[0]) {
        page += &marks.concat();
    }
    let (Some((head, _)), Some((_, tail))) = (page.split_once(&marks[0]), page.split_once(&marks[1])) else {
        return Err(std::io::Error::other(format!("{}: the place for make {name} has no end", path.display())));
    };
    std::fs::write(&path, [head, &marks[0], table, &marks[1], tail].concat())
}
