//! What /proc says (proc(5)), read.
//! It may not know of which process.
#![forbid(unsafe_code)]

/// Whose a process is, by the real, effective, saved and file-system ID in its `status`: a setuid program is its caller's.
pub fn owner(status: &str) -> Option<u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let ids = ids.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>().ok()?;
    ids.iter().find(|id| **id != 0).or(ids.first()).copied()
}

/// When a process was started, in clock ticks since the machine was booted: the 22nd field of its `stat`.
pub fn started(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// When the machine was booted, in seconds since 1970, by /proc/stat.
pub fn booted(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The process that holds a lock on a file, by /proc/locks; -1 for one of an open file.
/// `1: FLOCK  ADVISORY  WRITE 3562 00:16:1043 0 EOF`; one that waits has an arrow behind the number.
pub fn holder(locks: &str, (major, minor): (u64, u64), inode: u64) -> Option<&str> {
    let wanted = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        [_, "FLOCK" | "OFDLCK", _, _, pid, file, ..] if *file == wanted => Some(*pid),
        _ => None,
    })
}

/// Whether a packet socket is bound to an interface, by the fifth column of /proc/net/packet.
pub fn is_bound(table: &str, index: u32) -> bool {
    let interface = |line: &str| line.split_whitespace().nth(4)?.parse::<u32>().ok();
    table.lines().skip(1).any(|line| interface(line) == Some(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_roots_only_with_all_of_its_ids() {
        let of = |ids: &str| owner(&format!("Name:\tsu\nUid:\t{ids}\nGid:\t0\t0\t0\t0\n"));
        assert_eq!(of("0\t0\t0\t0"), Some(0));
        assert_eq!(of("1000\t0\t0\t0"), Some(1000));
        assert_eq!(of("0\t0\t1000\t0"), Some(1000));
        assert_eq!(of("1000\t1001\t0\t1001"), Some(1000));
        assert_eq!(owner("Name:\tsu\n"), None);
    }

    #[test]
    fn who_waits_does_not_hold() {
        let locks = "1: -> FLOCK  ADVISORY  WRITE 3 00:16:1043 0 EOF\n2: POSIX  ADVISORY  WRITE 4 00:16:1043 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 5 00:16:1044 0 EOF\n4: FLOCK  ADVISORY  READ 6 00:16:1043 0 EOF\n";
        assert_eq!(holder(locks, (0, 0x16), 1043), Some("6"));
        assert_eq!(holder(locks, (0, 0x16), 1045), None);
    }

    #[test]
    fn a_dhcp_clients_socket_is_seen() {
        let table = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n\
                     ffff8bf1c1c3d800 3      3    0003   2     1 0      0      18204\n\
                     ffff8bf1c1c3d801 3      10   888e   0     1 0      0      18205\n";
        assert!(is_bound(table, 2) && !is_bound(table, 3));
    }
}
