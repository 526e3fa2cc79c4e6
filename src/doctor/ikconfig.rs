//! Where the configuration of a kernel image is: in it, or in a file.
#![forbid(unsafe_code)]

use model::kernel::{CONFIG_LIMIT, Config, LIMIT, Told};
use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Finds the configuration of an image, in it, beside it, or under /boot; and tells where.
pub(super) fn find(image: &Path) -> std::io::Result<Option<(Config, PathBuf)>> {
    let version = match model::kernel::read(&read(image, LIMIT)?) {
        Told::Config(config) => return Ok(Some((config, image.to_owned()))),
        Told::Version(version) => version.filter(|version| !version.contains('/')),
    };
    let is_config = |text: &String| text.lines().any(|line| line.starts_with("CONFIG_"));
    let text = |place: &Path| String::from_utf8(read(place, CONFIG_LIMIT).ok()?).ok().filter(is_config);
    let mut files = places(image, version.as_deref()).into_iter();
    Ok(files.find_map(|place| Some((Config(text(&place)?), place))))
}

/// Reads a file, whose folder may be that of a user: who waits for a pipe to be written waits for ever, and a device may
/// have no end.
fn read(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    // Not opened before it is known to be a file: to open a device can be an order to it.
    let place = fs::File::options().read(true).custom_flags(libc::O_PATH).open(path)?;
    if !place.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let (flags, again) = (libc::O_NONBLOCK | libc::O_NOCTTY, format!("/proc/self/fd/{}", place.as_raw_fd()));
    let file = fs::File::options().read(true).custom_flags(flags).open(again)?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The files that may have it, the likeliest first.
fn places(image: &Path, version: Option<&str>) -> Vec<PathBuf> {
    let folder = image.parent().unwrap_or(Path::new(""));
    let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut places = vec![folder.join(format!("{name}.config"))];
    if let Some((_, version)) = name.split_once('-') {
        places.push(folder.join(format!("config-{version}")));
    }
    if let Some(version) = version {
        places.push(folder.join(format!("config-{version}")));
        places.push(Path::new("/boot").join(format!("config-{version}")));
        places.push(Path::new("/lib/modules").join(version).join("config"));
        places.push(Path::new("/lib/modules").join(version).join("build/.config"));
    }
    places.extend([folder.join("config"), folder.join(".config")]);
    // Of a tree that it was just built in: arch/x86/boot/bzImage.
    if let Ok(full) = fs::canonicalize(image) {
        places.extend(full.ancestors().nth(4).map(|tree| tree.join(".config")));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "# Linux\nCONFIG_E1000=y\n";

    /// The header of a bzImage that tells its version.
    fn bzimage(version: &str) -> Vec<u8> {
        let mut image = vec![0; 0x600];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
        image[0x500..0x500 + version.len()].copy_from_slice(version.as_bytes());
        image
    }

    #[test]
    fn an_image_that_has_it_is_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let (text, path) = (folder.path().join("text"), folder.path().join("vmlinux"));
        fs::write(&text, CONFIG).unwrap();
        let packed = std::process::Command::new("gzip").arg("-c").arg(&text).output().unwrap().stdout;
        fs::write(&path, [b"IKCFG_ST", packed.as_slice()].concat()).unwrap();
        assert_eq!(find(&path).unwrap(), Some((Config(CONFIG.to_owned()), path)));
        fs::write(&text, b"HdrS").unwrap();
        assert_eq!(find(&text).unwrap(), None);
    }

    #[test]
    fn a_file_beside_it_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bzImage");
        fs::write(&path, bzimage("6.1.0-test")).unwrap();
        assert_eq!(find(&path).unwrap(), None);
        let beside = folder.path().join("config-6.1.0-test");
        fs::write(&beside, CONFIG).unwrap();
        assert_eq!(find(&path).unwrap(), Some((Config(CONFIG.to_owned()), beside.clone())));
        let own = folder.path().join("bzImage.config");
        fs::write(&own, CONFIG).unwrap();
        assert_eq!(find(&path).unwrap().unwrap().1, own);
        fs::write(&path, b"Linux version 6.1.0-test (me@here)\n").unwrap();
        fs::remove_file(own).unwrap();
        assert_eq!(find(&path).unwrap().unwrap().1, beside, "an unpacked one tells its version too");
    }

    #[test]
    fn a_folder_of_somebody_elses_is_no_trap() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bzImage");
        fs::write(&path, bzimage("6.1.0-test")).unwrap();
        let beside = folder.path().join("bzImage.config");
        nix::unistd::mkfifo(&beside, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(find(&path).unwrap(), None, "nobody writes into the pipe");
        fs::remove_file(&beside).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &beside).unwrap();
        assert_eq!(find(&path).unwrap(), None, "it has no end");
        assert!(find(&beside).is_err());
        // What it calls its version leads out of the folder.
        fs::write(folder.path().join("image"), bzimage("/../a")).unwrap();
        fs::create_dir(folder.path().join("config-")).unwrap();
        fs::write(folder.path().join("a"), CONFIG).unwrap();
        assert_eq!(find(&folder.path().join("image")).unwrap(), None);
    }
}
