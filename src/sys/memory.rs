//! What a process that sleeps for hours holds of the machine's memory.

/// Lets go of the program's own pages: the few that are needed after a wake-up are mapped again from the page cache.
///
/// Around each page that is touched the kernel maps fifteen neighbours, so that after its start nearly all of the program
/// counts as this process's. Only segments that were never writable are let go: nothing was relocated or written there,
/// so that what comes back is what was there.
pub fn trim() {
    // SAFETY: the callback has the type that is asked for, and uses nothing but its arguments.
    unsafe { libc::dl_iterate_phdr(Some(let_go_of), std::ptr::null_mut()) };
}

/// For one object: the program, or a library.
///
/// # Safety
/// To be called by dl_iterate_phdr(3), which vouches for `object` and its program headers.
unsafe extern "C" fn let_go_of(object: *mut libc::dl_phdr_info, _size: usize, _data: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the caller vouches for it.
    let (base, segments) = unsafe {
        let object = &*object;
        (object.dlpi_addr as usize, std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()))
    };
    // SAFETY: it takes a number and returns one.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    for segment in segments.iter().filter(|one| one.p_type == libc::PT_LOAD && one.p_flags & libc::PF_W == 0) {
        let start = base + segment.p_vaddr as usize;
        // Whole pages alone, so that none is shared with the next segment.
        let (first, end) = (start.next_multiple_of(page), (start + segment.p_memsz as usize) / page * page);
        if first < end {
            // SAFETY: MADV_DONTNEED of a private mapping of a file that was never written brings back the same bytes.
            unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_DONTNEED) };
        }
    }
    0
}
