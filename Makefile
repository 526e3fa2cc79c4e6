# make            builds the programs
# make demo       shows what they do, for real, in network namespaces of its own; demo-svg records it as docs/demo.svg
# make check      runs all tests
# make check-managers  runs the tests with network managers alone
# make bench      measures everything beside other ways, as root; RUNS=40 PORTS=1000 BENCH=join,many (some rows alone);
#                 bench-docs puts all figures into docs/
# make soak       a thousand starts and ends, and a thousand guests at once, with kills: nothing may be left; ROUNDS=1000,
#                 OUT=docs; LEAVE=tap or LEAVE=journal shows that it can fail
# make bench-uplink  measures what a host feels while its interface is shared; RUNS=20
# make bench-user    measures a network of a user's own beside other ways to one; ROUNDS=15 GUESTS=3 WAYS=user,slirp,bridge
# make check-hosts     tries the .deb on a whole Debian host in a virtual machine, and writes docs/hosts.md;
#                      SUITE=trixie MANAGER=nm, and others of tests/hosts/run; ONLY=REGEX (some rows);
#                      DEB=FILE (on an older Debian than this one a package that was built there)
# make check-fabric    tries uplink=vxlan: with FRR on three hosts made of namespaces, with QEMU guests on each; HOSTS=16 MACS=1000
# make check-sweeps    answers each system call of each program with each error, of which make check tries a sample
# make fuzz       feeds odd input to all that reads input, for SECONDS=60 each; TARGETS=argv alone (cargo-fuzz; see CONTRIBUTING.md)
# make install    installs what make built; PREFIX= and DESTDIR= as packagers expect
# make uninstall  removes that again
# make deb, make rpm   build packages, in target/
# make check-packages  installs, uses, upgrades and removes them, in a root file system that ends with the test
# make reproducible    builds all of it twice, in two places, and compares every bit
# make source     the source with all crates, also for Debian, in target/source
# make release    checks, and builds all files of a release in target/release-VERSION; docs/releasing.md

PREFIX = /usr/local
DESTDIR =
BINDIR = $(PREFIX)/bin
# Packages have the shim in a folder of its own, since a distribution's QEMU may have /usr/bin/qemu-kvm.
SHIMDIR = $(BINDIR)
MANDIR = $(PREFIX)/share/man
BASHDIR = $(PREFIX)/share/bash-completion/completions
ZSHDIR = $(PREFIX)/share/zsh/site-functions
FISHDIR = $(PREFIX)/share/fish/vendor_completions.d
DOCDIR = $(PREFIX)/share/doc/kvm-bridge
UNITDIR = $(PREFIX)/lib/systemd/system
DATADIR = $(PREFIX)/share/kvm-bridge
LIBEXECDIR = $(PREFIX)/libexec
# Files that keep network managers off our links. systemd-networkd reads them in /usr/local too, NetworkManager and udev
# only in /usr/lib and /etc.
NETWORKDIR = $(PREFIX)/lib/systemd/network
OTHERS = $(if $(filter /usr,$(PREFIX)),/usr/lib,/etc)
NMDIR = $(OTHERS)/NetworkManager/conf.d
UDEVDIR = $(OTHERS)/udev/rules.d

CARGO = cargo
INSTALL = install
PROGRAMS = qemu-kvm kvm-bridge
HELPER = kvm-bridge-helper
MANUALS = qemu-kvm-bridge.1 qemu-kvm-shim.1 kvm-bridge.1 kvm-bridge.conf.5 kvm-bridge-helper.8
PAGES = $(wildcard docs/*.md docs/*.svg) docs/status.schema.json
# Bash and fish look for a file of the command's name: those that people link to qemu-kvm.
LINKS = qemu-kvm kvm qemu-system-x86_64 qemu-system-aarch64
DOCUMENTS = README.md CHANGELOG.md SECURITY.md LICENSE-MIT LICENSE-APACHE
SCRIPTS = .ci/run demo/run tests/packages tests/guest/build tests/guest/init completions/kvm-bridge.bash \
	completions/kvm-bridge.load.bash packaging/debian/postinst packaging/debian/prerm packaging/debian/postrm packaging/reproducible packaging/source packaging/release \
	tests/packages_installed tests/managers/build $(addprefix tests/hosts/,build run state features table) \
	$(filter-out %.py,$(wildcard tests/clients/*))

# The laboratory of the tests needs root; a user's own cargo builds, and only what it built runs under sudo.
AS_ROOT = $(if $(filter 0,$(shell id -u)),,sudo)
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
RUNNER = CARGO_TARGET_$(shell echo $(HOST) | tr a-z- A-Z_)_RUNNER

# Tests wait for guests and servers more than they compute.
export RUST_TEST_THREADS ?= $(shell echo $$(( 3 * $$(nproc) )))

# The shim runs for a millisecond, a third of which would be the dynamic linker's. Static where the C library is there as
# libc.a; position-independent all the same.
STATIC = $(if $(findstring /,$(shell cc -print-file-name=libc.a)),-C target-feature=+crt-static)

# Where it was built is no part of what was built.
REMAP = --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo --remap-path-prefix=$(CURDIR)=/kvm-bridge
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1764000000)
# The tools that packages are made with, at these versions.
TOOLS = target/tools
CARGO_DEB = $(TOOLS)/bin/cargo-deb
CARGO_RPM = $(TOOLS)/bin/cargo-generate-rpm
CARGO_CYCLONEDX = $(TOOLS)/bin/cargo-cyclonedx

.PHONY: all guest managers demo demo-svg check check-managers check-hosts check-fabric check-sweeps fuzz bench bench-docs soak \
	bench-uplink bench-user install uninstall deb rpm check-packages reproducible source release map clean

all: export RUSTFLAGS += $(REMAP)
all:
	$(CARGO) rustc --release --locked --bin qemu-kvm -- $(STATIC)
	$(CARGO) build --release --locked --bin kvm-bridge
	$(CARGO) build --release --locked --package kvm-bridge-helper

guest:
	tests/guest/build target/guest

managers:
	tests/managers/build target/managers

demo:
	tests/packages demo
	$(MAKE) --no-print-directory all guest
	$(AS_ROOT) demo/run target/release target/guest

demo-svg: all guest
	$(AS_ROOT) demo/record target/release target/guest >target/demo.svg
	mv target/demo.svg docs/demo.svg

check:
	tests/packages check
	$(MAKE) --no-print-directory guest managers
	$(CARGO) fmt --all --check
	tests/clients/build target
	! command -v shellcheck >/dev/null || shellcheck $(SCRIPTS)
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items
	$(if $(AS_ROOT),env $(RUNNER)='sudo -E') $(CARGO) test --locked

check-managers:
	tests/packages check
	$(MAKE) --no-print-directory managers
	$(CARGO) build --locked --examples
	$(if $(AS_ROOT),env $(RUNNER)='sudo -E') $(CARGO) test --locked --test tests -- managers

# An emulated host lives through all of it in half an hour on a machine that has nothing else to do.
SUITE = trixie
MANAGER = nm
# sudo(8) resets the environment: the cache would be root's.
KEEP_CACHE = --preserve-env=ONLY,KVM_BRIDGE_HOSTS_CACHE,XDG_CACHE_HOME,HOME

check-hosts: $(if $(DEB),,deb)
	tests/packages hosts
	mkdir -p target/hosts
	$(if $(AS_ROOT),$(AS_ROOT) $(KEEP_CACHE)) tests/hosts/run $(SUITE) $(MANAGER) \
		"$(or $(DEB),$$(ls -t target/kvm-bridge_*.deb | head -n 1))" target/hosts/$(SUITE)-$(MANAGER); \
		failed=$$?; test -n "$(ONLY)" || tests/hosts/table target/hosts/$(SUITE)-$(MANAGER)/results.tsv && exit $$failed

HOSTS = 3
MACS = 1000
check-fabric:
	tests/packages fabric
	$(MAKE) --no-print-directory guest
	$(CARGO) build --locked --workspace --bins
	$(AS_ROOT) tests/fabric/run --hosts $(HOSTS) --macs $(MACS) target/debug target/guest target/fabric/$(HOSTS)

check-sweeps:
	tests/packages check
	$(CARGO) build --locked --examples
	KVM_BRIDGE_TEST_SWEEP=all $(if $(AS_ROOT),env $(RUNNER)='sudo -E') $(CARGO) test --locked --test tests -- failing_calls

# The rooms of the code with their sizes, as docs/rooms.md has them.
map:
	@$(CARGO) run --quiet --locked --example map

# libFuzzer's flags are a nightly compiler's; what it finds is kept in tests/corpus.
SECONDS = 60
TARGETS = $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
fuzz:
	@command -v cargo-fuzz >/dev/null || { echo "There is no cargo-fuzz: cargo install cargo-fuzz" >&2; exit 1; }
	for target in $(TARGETS); do \
		mkdir -p target/fuzz-corpus/$$target && \
		RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$(CURDIR)/target/fuzz cargo-fuzz run --fuzz-dir fuzz $$target \
			target/fuzz-corpus/$$target tests/corpus/$$target -- -max_total_time=$(SECONDS) -rss_limit_mb=4096 || exit 1; \
	done

# The programs that are measured are those that are installed; the measuring one is built as the tests are.
bench bench-docs: all
	tests/packages bench
	$(CC) -O2 -Wall -Wextra -static -s -o target/floor benches/floor.c
	OUT=$(if $(filter bench-docs,$@),docs,target/bench) \
		$(if $(AS_ROOT),env $(RUNNER)='sudo -E') $(CARGO) bench --locked --profile dev --bench bench

soak: all
	tests/packages demo
	$(CC) -O2 -Wall -Wextra -static -s -o target/floor benches/floor.c
	$(if $(AS_ROOT),env $(RUNNER)='sudo -E') $(CARGO) bench --locked --profile dev --bench soak

bench-uplink:
	tests/packages demo
	$(CARGO) build --release --locked --bins --examples
	$(if $(AS_ROOT),env $(RUNNER)='sudo -E') $(CARGO) bench --locked --bench uplink

bench-user: all guest
	tests/packages check
	$(AS_ROOT) $(if $(AS_ROOT),-E) benches/user

install:
	@for program in $(PROGRAMS) $(HELPER); do \
		test -x target/release/$$program || { echo "There is no target/release/$$program: run make first." >&2; exit 1; }; \
	done
	$(INSTALL) -d $(addprefix $(DESTDIR),$(BINDIR) $(SHIMDIR) $(LIBEXECDIR) $(BASHDIR) $(ZSHDIR) $(FISHDIR) $(DOCDIR)/docs $(UNITDIR))
	$(INSTALL) -m 755 target/release/kvm-bridge $(DESTDIR)$(BINDIR)
	$(INSTALL) -m 755 target/release/qemu-kvm $(DESTDIR)$(SHIMDIR)
	$(INSTALL) -m 755 target/release/$(HELPER) $(DESTDIR)$(LIBEXECDIR)
	for page in $(MANUALS); do \
		$(INSTALL) -D -m 644 man/$$page $(DESTDIR)$(MANDIR)/man$${page##*.}/$$page && \
		sed -i 's|/usr/local/libexec/$(HELPER)|$(LIBEXECDIR)/$(HELPER)|; s|/usr/local/share/doc/kvm-bridge|$(DOCDIR)|' \
			$(DESTDIR)$(MANDIR)/man$${page##*.}/$$page || exit 1; \
	done
	@test -n "$(DESTDIR)" || echo "For users who are not root, $(HELPER) is without its right until: sudo $(BINDIR)/kvm-bridge install"
	$(INSTALL) -m 644 completions/kvm-bridge.bash $(DESTDIR)$(BASHDIR)/kvm-bridge
	ln -sf kvm-bridge $(DESTDIR)$(BASHDIR)/$(HELPER)
	# In /usr such names are bash-completion's own, and packages have a file that loads ours.
	test $(PREFIX) = /usr || for name in $(LINKS); do ln -sf kvm-bridge $(DESTDIR)$(BASHDIR)/$$name || exit 1; done
	$(INSTALL) -m 644 completions/_kvm-bridge $(DESTDIR)$(ZSHDIR)
	$(INSTALL) -m 644 completions/kvm-bridge.fish $(DESTDIR)$(FISHDIR)
	for name in $(LINKS); do ln -sf kvm-bridge.fish $(DESTDIR)$(FISHDIR)/$$name.fish || exit 1; done
	$(INSTALL) -m 644 $(DOCUMENTS) $(DESTDIR)$(DOCDIR)
	$(INSTALL) -m 644 $(PAGES) $(DESTDIR)$(DOCDIR)/docs
	sed 's|/usr/local/bin|$(BINDIR)|' kvm-bridge@.service >$(DESTDIR)$(UNITDIR)/kvm-bridge@.service
	chmod 644 $(DESTDIR)$(UNITDIR)/kvm-bridge@.service
	$(INSTALL) -d $(addprefix $(DESTDIR),$(NETWORKDIR) $(NMDIR) $(UDEVDIR) $(DATADIR))
	sed 's|/usr/local/bin|$(SHIMDIR)|' packaging/apparmor >$(DESTDIR)$(DATADIR)/apparmor
	chmod 644 $(DESTDIR)$(DATADIR)/apparmor
	sed 's|/usr/local/libexec|$(LIBEXECDIR)|; s|/usr/local/share|$(PREFIX)/share|' packaging/apparmor-helper >$(DESTDIR)$(DATADIR)/apparmor-helper
	chmod 644 $(DESTDIR)$(DATADIR)/apparmor-helper
	$(INSTALL) -m 644 packaging/network/*.network packaging/network/*.link $(DESTDIR)$(NETWORKDIR)
	$(INSTALL) -m 644 packaging/network/*.conf $(DESTDIR)$(NMDIR)
	$(INSTALL) -m 644 packaging/network/*.rules $(DESTDIR)$(UDEVDIR)

uninstall:
	rm -f $(DESTDIR)$(BINDIR)/kvm-bridge $(DESTDIR)$(SHIMDIR)/qemu-kvm $(DESTDIR)$(LIBEXECDIR)/$(HELPER)
	for page in $(MANUALS); do rm -f $(DESTDIR)$(MANDIR)/man$${page##*.}/$$page; done
	test $(PREFIX) = /usr || for name in $(LINKS); do rm -f $(DESTDIR)$(BASHDIR)/$$name; done
	rm -f $(DESTDIR)$(BASHDIR)/kvm-bridge $(DESTDIR)$(BASHDIR)/$(HELPER) $(DESTDIR)$(ZSHDIR)/_kvm-bridge $(DESTDIR)$(FISHDIR)/kvm-bridge.fish
	for name in $(LINKS); do rm -f $(DESTDIR)$(FISHDIR)/$$name.fish; done
	rm -rf $(DESTDIR)$(DOCDIR) $(DESTDIR)$(DATADIR) $(DESTDIR)$(UNITDIR)/kvm-bridge@.service
	rm -f $(DESTDIR)$(NETWORKDIR)/00-*-kvm-bridge.* $(DESTDIR)$(NMDIR)/00-kvm-bridge.conf $(DESTDIR)$(UDEVDIR)/80-kvm-bridge.rules

# What a package contains, as it is on disk once it is installed. Debian's zsh looks in a folder of its own.
package-%: ZSHDIR = /usr/share/zsh/site-functions
package-deb: ZSHDIR = /usr/share/zsh/vendor-completions
package-%: TREE = target/package/$*
# Distributions do not want static programs.
package-%: STATIC =
package-%: all
	rm -rf $(TREE)
	$(MAKE) --no-print-directory install DESTDIR=$(TREE) PREFIX=/usr SHIMDIR=/usr/lib/kvm-bridge \
		LIBEXECDIR=/usr/lib/kvm-bridge ZSHDIR='$(ZSHDIR)'
	mv $(TREE)/usr/share/doc/kvm-bridge/CHANGELOG.md $(TREE)/usr/share/doc/kvm-bridge/changelog
	gzip -9n $(TREE)/usr/share/man/man*/* $(TREE)/usr/share/doc/kvm-bridge/changelog
	$(INSTALL) -D -m 644 completions/kvm-bridge.load.bash $(TREE)/etc/bash_completion.d/kvm-bridge
	$(INSTALL) -D -m 644 packaging/config.toml $(TREE)/etc/kvm-bridge/config.toml

deb: package-deb $(CARGO_DEB)
	# Debian has the licences' texts in one place for all.
	rm target/package/deb/usr/share/doc/kvm-bridge/LICENSE-*
	$(CARGO_DEB) --quiet --no-build --no-strip --output target/ $(DEB_FLAGS)

rpm: package-rpm $(CARGO_RPM)
	echo 'assets = [' >target/package/rpm.toml
	cd target/package/rpm && find etc usr ! -type d | sort | while read -r file; do \
		mode=$$(stat --dereference --format=%a "$$file"); \
		case $$file in etc/*) config=', config = "noreplace"' ;; usr/share/doc/*|*/man/*) config=', doc = true' ;; *) config= ;; esac; \
		echo "{ source = \"target/package/rpm/$$file\", dest = \"/$$file\", mode = \"$$mode\"$$config },"; \
	done >>../rpm.toml
	echo ']' >>target/package/rpm.toml
	$(CARGO_RPM) --metadata-overwrite target/package/rpm.toml --auto-req builtin --payload-compress gzip --output target/ $(RPM_FLAGS)

$(CARGO_DEB):
	$(CARGO) install --locked --debug --root $(TOOLS) cargo-deb@3.8.0

$(CARGO_RPM):
	$(CARGO) install --locked --debug --root $(TOOLS) cargo-generate-rpm@0.21.1

$(CARGO_CYCLONEDX):
	$(CARGO) install --locked --debug --root $(TOOLS) cargo-cyclonedx@0.5.9

# Two builds that an upgrade goes between; the older one has nothing older about it but its number.
check-packages: guest
	tests/packages packages
	rm -f target/*.deb target/*.rpm
	$(MAKE) --no-print-directory deb DEB_FLAGS='--deb-version 0.0.9-1'
	$(MAKE) --no-print-directory rpm RPM_FLAGS='--set-metadata version=\"0.0.9\"'
	$(MAKE) --no-print-directory deb rpm
	$(AS_ROOT) tests/packages_installed target target/guest

reproducible: $(CARGO_DEB) $(CARGO_RPM)
	packaging/reproducible

source:
	packaging/source target/source

release: $(CARGO_DEB) $(CARGO_RPM) $(CARGO_CYCLONEDX)
	packaging/release

clean:
	$(CARGO) clean
