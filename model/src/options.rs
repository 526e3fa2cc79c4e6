//! The options of QEMU: which of them take a value, and which values are usual.
//! It may not know a command line.
#![forbid(unsafe_code)]

pub mod help;

/// What QEMU does with the word behind an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    /// The next word is another option, or a disk image.
    Alone,
    /// The next word is this option's value, whatever it looks like.
    Value,
    /// No QEMU that we know has this option.
    Unknown,
}

/// The options without a value: the union of QEMU 5.2, 7.2 and 10.0, none of which changed between them.
pub const ALONE: &str = "S alt-grab async-teardown audio-help ctrl-grab curses daemonize enable-fips enable-kvm \
    enable-sync-profile full-screen h help jitdump mem-prealloc no-acpi no-fd-bootchk no-hpet no-quit no-reboot \
    no-shutdown no-user-config nodefaults nographic old-param only-migratable perfmap portrait preconfig s sdl \
    semihosting show-cursor singlestep snapshot usb version win2k-hack xen-attach xen-domid-restrict";

/// The options with a value, of the same versions and of those between them (soundhw).
pub const VALUE: &str = "D L accel acpitable action add-fd append audio audiodev balloon bios blockdev boot bt cdrom \
    chardev chroot compat cpu d debugcon device dfilter display drive dtb dump-vmstate echr fda fdb fsdev fw_cfg g \
    gdb global hda hdb hdc hdd icount incoming initrd iscsi k kernel loadvm m machine M mem-path mon monitor msg \
    mtdblock name net netdev nic numa object one-insn-per-tb option-rom overcommit parallel pflash pidfile plugin \
    prom-env qmp qmp-pretty readconfig rotate rtc run-with runas sandbox sd seed semihosting-config serial set shim \
    smbios smp soundhw spice tb-size tpmdev trace usbdevice uuid vga virtfs virtfs_synth vnc watchdog watchdog-action \
    writeconfig xen-create xen-domid";

/// Those of both that came or went between these versions, that a QEMU may be built without, or that are for some machines only.
const NOT_EVERYWHERE: &str = "action alt-grab async-teardown audio audio-help balloon chroot compat ctrl-grab curses \
    enable-fips enable-sync-profile full-screen jitdump mem-path mem-prealloc no-acpi no-fd-bootchk no-hpet no-quit \
    old-param one-insn-per-tb perfmap plugin portrait rotate run-with runas sdl seed \
    semihosting semihosting-config shim show-cursor singlestep soundhw spice tb-size usbdevice virtfs_synth watchdog \
    win2k-hack writeconfig xen-attach xen-create xen-domid xen-domid-restrict";

/// All names that are known, without their dashes.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALONE.split_ascii_whitespace().chain(VALUE.split_ascii_whitespace())
}

/// Whether the option of this name, without its dashes, takes a value.
pub fn arity(name: &[u8]) -> Arity {
    let is_in = |list: &str| list.split_ascii_whitespace().any(|option| option.as_bytes() == name);
    match name {
        _ if is_in(ALONE) => Arity::Alone,
        _ if is_in(VALUE) => Arity::Value,
        _ => Arity::Unknown,
    }
}

/// Whether each QEMU that we know has the option of this name.
pub fn is_in_every_qemu(name: &[u8]) -> bool {
    let is_known = |list: &str| list.split_ascii_whitespace().any(|option| option.as_bytes() == name);
    arity(name) != Arity::Unknown && !is_known(NOT_EVERYWHERE)
}
