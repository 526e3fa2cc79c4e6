//! A VM that is known by its image is known by it still when the image has moved.
//!
//! Beside the key, which is the image's path, a mark of the image itself is kept: its inode and the time of its birth,
//! which stay when it is renamed, and which no copy of it has. A start from a path that has no addresses looks the mark
//! up, and where the image that had them is no longer at its place, they follow it.

use crate::vm::{Record, Store, VmId, unusable};
use model::argv::scan::Identity;
use model::error::Result;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Whose addresses an image has.
pub(super) enum Owner {
    /// Those of its path, if there are any.
    Itself,
    /// Those of a path where it was.
    Moved(VmId),
    /// Those of another path where it is as well, a hard link.
    Linked(VmId),
}

impl Store {
    /// Follows an image to where it is now, and tells the key that its addresses are kept under, and them; for who holds the
    /// lock.
    pub(super) fn follow(&self, vm: &VmId) -> Result<(VmId, Option<Record>)> {
        let key = match self.owner(vm)? {
            Owner::Itself => vm.clone(),
            Owner::Linked(other) => other,
            Owner::Moved(old) => {
                self.move_to(&old, vm)?;
                vm.clone()
            }
        };
        let record = match self.read(&key)? {
            // A kill has left a move half done.
            Some(record) if record.vm != key.text => Some(self.rename(record, &key)?),
            record => record,
        };
        Ok((key, record))
    }

    /// Whose addresses an image has now. Changes nothing.
    pub(super) fn owner(&self, vm: &VmId) -> Result<Owner> {
        let Some(mark) = self.mark(vm).filter(|_| !self.file(vm, "json").exists()) else { return Ok(Owner::Itself) };
        let Some(known) = read(&mark).filter(|known| known.text != vm.text && self.file(known, "json").exists()) else {
            return Ok(Owner::Itself);
        };
        Ok(match self.mark(&known) {
            Some(there) if there == mark => Owner::Linked(known),
            // Another image is there now, and has been started.
            Some(there) if read(&there).is_some_and(|owner| owner.text == known.text) => Owner::Itself,
            _ => Owner::Moved(known),
        })
    }

    /// Notes which image it is that has a key; for who holds the lock.
    pub(super) fn note_image(&self, vm: &VmId) -> Result<()> {
        let Some(mark) = self.mark(vm) else { return Ok(()) };
        // The image itself is not looked at again.
        if fs::read_to_string(&mark).is_ok_and(|known| known == vm.text) {
            return Ok(());
        }
        self.write_key(&mark, vm)
    }

    /// Forgets which image it is.
    pub(super) fn forget_image(&self, vm: &VmId) {
        let vm = with_image(vm.clone());
        if let Some(mark) = self.mark(&vm).filter(|mark| read(mark).is_some_and(|known| known.text == vm.text)) {
            let _ = fs::remove_file(mark);
        }
    }

    /// The file that is named after the image's mark.
    fn mark(&self, vm: &VmId) -> Option<PathBuf> {
        Some(self.folder.join("images").join(vm.mark.as_ref()?))
    }

    /// Gives what is kept under one key to another, which has nothing. The record goes in one step; whatever is killed
    /// before it has left the old key complete, whatever is killed behind it the new one, in the name of the old.
    fn move_to(&self, old: &VmId, new: &VmId) -> Result<()> {
        let Some(record) = self.read(old)? else { return Ok(()) };
        let rename = |from: PathBuf, to: PathBuf| match from.exists() && !to.exists() {
            true => fs::rename(&from, &to).map_err(|error| unusable(&from, &error)),
            false => Ok(()),
        };
        // A lock that is held is held under its new name too.
        for slot in 0..record.slots.len() {
            for (from, to) in self.locks(old, slot).into_iter().zip(self.locks(new, slot)) {
                rename(from, to)?;
            }
        }
        rename(self.file(old, "json"), self.file(new, "json"))
    }

    /// Puts a new key into a record and the claims of its addresses.
    fn rename(&self, record: Record, vm: &VmId) -> Result<Record> {
        let record = Record::new(vm, record.slots);
        record.macs().try_for_each(|mac| self.write_key(&self.claim(mac), vm))?;
        self.write(vm, &record, true)?;
        Ok(record)
    }
}

/// The key of an identity. A path is made absolute and its links are followed, so that one image has one key. The way to an
/// image can be another user's, who can keep whoever goes it: it is gone here once, before any lock is held.
pub fn id_of(identity: &Identity) -> VmId {
    let (Identity::Disk(path) | Identity::Kernel(path)) = identity else { return VmId::as_written(identity) };
    let Some(image) = resolve(path) else { return VmId::as_written(identity) };
    let mark = mark_of(&image);
    let full = image.into_os_string().into_vec();
    let resolved = match identity {
        Identity::Kernel(_) => Identity::Kernel(full),
        _ => Identity::Disk(full),
    };
    VmId { mark, ..VmId::as_written(&resolved) }
}

/// An image's full path.
fn resolve(path: &[u8]) -> Option<PathBuf> {
    let path = Path::new(OsStr::from_bytes(path));
    fs::canonicalize(path).ok().or_else(|| std::path::absolute(path).ok())
}

/// The mark of an image; `None` for what is no image, or on a file system that knows no births.
fn mark_of(image: &Path) -> Option<String> {
    let metadata = image.metadata().ok().filter(fs::Metadata::is_file)?;
    let birth = metadata.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{:x}-{:x}", metadata.ino(), birth.as_nanos()))
}

fn read(mark: &Path) -> Option<VmId> {
    fs::read_to_string(mark).ok().map(|text| with_image(VmId::from(text)))
}

/// A key that was read, with the path in it.
pub(super) fn with_image(key: VmId) -> VmId {
    VmId { mark: key.image().as_deref().and_then(mark_of), ..key }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::tests::store;
    use model::argv::scan::Run;
    use model::mac::Mac;

    fn key(image: &Path) -> VmId {
        id_of(&Identity::Disk(image.as_os_str().as_bytes().to_vec()))
    }

    fn mac(store: &Store, image: &Path) -> Mac {
        let seen = store.peek(&key(image), Run::default(), &[None]).unwrap()[0];
        let mac = store.take(&key(image), Run::default(), &[None], |_| false).unwrap().macs[0];
        assert!(seen.is_none_or(|seen| seen == mac));
        mac
    }

    #[test]
    fn an_image_that_moves_keeps_its_addresses_and_a_copy_has_its_own() {
        let (folder, store) = store();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a\\ \u{e4}.img"), "disk").unwrap();
        let own = mac(&store, &at("a\\ \u{e4}.img"));
        fs::rename(at("a\\ \u{e4}.img"), at("b.img")).unwrap();
        assert_eq!(mac(&store, &at("b.img")), own);
        assert_eq!(store.list().unwrap().0.len(), 1);
        fs::copy(at("b.img"), at("c.img")).unwrap();
        assert_ne!(mac(&store, &at("c.img")), own);
        std::os::unix::fs::symlink("b.img", at("link.img")).unwrap();
        fs::hard_link(at("b.img"), at("hard.img")).unwrap();
        assert_eq!((mac(&store, &at("link.img")), mac(&store, &at("hard.img"))), (own, own));
    }

    #[test]
    fn a_new_image_in_the_place_of_one_that_moved_has_no_part_of_it() {
        let (folder, store) = store();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a.img"), "disk").unwrap();
        let own = mac(&store, &at("a.img"));
        fs::rename(at("a.img"), at("b.img")).unwrap();
        fs::write(at("a.img"), "another disk").unwrap();
        assert_eq!(mac(&store, &at("b.img")), own);
        assert_ne!(mac(&store, &at("a.img")), own);
        // Started at the old place before the moved one, it is what is known there, as one that was put in its place is.
        fs::rename(at("a.img"), at("c.img")).unwrap();
        fs::write(at("a.img"), "a third").unwrap();
        let third = mac(&store, &at("a.img"));
        assert_ne!(mac(&store, &at("c.img")), third);
    }

    #[test]
    fn a_run_goes_on_holding_its_slot_when_its_image_moves() {
        let (folder, store) = store();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a.img"), "disk").unwrap();
        let assigned = store.take(&key(&at("a.img")), Run::default(), &[None], |_| false).unwrap();
        fs::rename(at("a.img"), at("b.img")).unwrap();
        let second = store.take(&key(&at("b.img")), Run::default(), &[None], |_| false).unwrap();
        assert_eq!((assigned.slot, second.slot), (0, 1));
        assert_ne!(assigned.macs, second.macs);
    }

    #[test]
    fn a_move_that_was_killed_half_way_is_finished() {
        let (folder, store) = store();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a.img"), "disk").unwrap();
        let (old, own) = (key(&at("a.img")), mac(&store, &at("a.img")));
        fs::rename(at("a.img"), at("b.img")).unwrap();
        let new = key(&at("b.img"));
        store.move_to(&old, &new).unwrap();
        assert_eq!(mac(&store, &at("b.img")), own);
        assert_eq!(store.list().unwrap().0[0].vm, new.text);
        assert_eq!(fs::read_to_string(store.claim(own)).unwrap(), new.text);

        fs::rename(at("b.img"), at("c.img")).unwrap();
        store.move_to(&new, &key(&at("c.img"))).unwrap();
        store.forget(&new.text).unwrap();
        assert_eq!((store.list().unwrap().0.len(), store.claim(own).exists()), (0, false));
    }
}
