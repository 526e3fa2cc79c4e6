# make            builds the programs
# make demo       shows what they do, for real, in network namespaces of its own
# make check      runs all tests
# make check-managers  runs the tests with network managers alone
# make bench-managers  measures what a host feels when its interface is taken from its network manager; RUNS=5
# make bench      measures everything beside other ways, as root; RUNS=40; bench-docs puts the figures into docs/
# make soak       a thousand starts and ends, and a thousand guests at once, with kills: nothing may be left
# make bench-takeover  measures what a host feels when its interface is taken; RUNS=20
# make install    installs what make built; PREFIX= and DESTDIR= as packagers expect
# make uninstall  removes that again

PREFIX = /usr/local
DESTDIR =
BINDIR = $(PREFIX)/bin
MANDIR = $(PREFIX)/share/man
BASHDIR = $(PREFIX)/share/bash-completion/completions
ZSHDIR = $(PREFIX)/share/zsh/site-functions
FISHDIR = $(PREFIX)/share/fish/vendor_completions.d
DOCDIR = $(PREFIX)/share/doc/kvm-bridge
UNITDIR = $(PREFIX)/lib/systemd/system
LIBEXECDIR = $(PREFIX)/libexec

CARGO = cargo
INSTALL = install
PROGRAMS = qemu-kvm kvm-bridge
HELPER = kvm-bridge-helper
MANUALS = qemu-kvm-bridge.1 kvm-bridge.1
DOCUMENTS = README.md CHANGELOG.md SECURITY.md LICENSE-MIT LICENSE-APACHE
PAGES = docs/json.md docs/managers.md docs/no-address.md
SCRIPTS = .ci/run demo/run tests/packages tests/guest/build tests/guest/init tests/managers/build completions/kvm-bridge.bash \
	$(wildcard tests/clients/*)

# The laboratory of the tests needs root; a user's own cargo builds, and only what it built runs under sudo.
AS_ROOT = $(if $(filter 0,$(shell id -u)),,sudo)
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
RUNNER = CARGO_TARGET_$(shell echo $(HOST) | tr a-z- A-Z_)_RUNNER

# The shim runs for a millisecond, a third of which would be the dynamic linker's. Static where the C library is there as
# libc.a; position-independent all the same.
STATIC = $(if $(findstring /,$(shell cc -print-file-name=libc.a)),-C target-feature=+crt-static)

.PHONY: all guest managers demo check check-managers bench bench-docs soak bench-takeover bench-managers install uninstall \
	clean

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
	$(if $(AS_ROOT),env $(RUNNER)='sudo -E') $(CARGO) test --locked --test tests managers:: -- --test-threads 6

bench-managers:
	tests/packages demo
	$(MAKE) --no-print-directory managers
	$(CARGO) build --release --locked --bins --examples
	$(if $(AS_ROOT),env $(RUNNER)='sudo -E') $(CARGO) bench --locked --bench managers

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

bench-takeover:
	tests/packages demo
	$(CARGO) build --release --locked --bins --examples
	$(if $(AS_ROOT),env $(RUNNER)='sudo -E') $(CARGO) bench --locked --bench takeover

install:
	@for program in $(PROGRAMS) $(HELPER); do \
		test -x target/release/$$program || { echo "There is no target/release/$$program: run make first." >&2; exit 1; }; \
	done
	$(INSTALL) -d $(addprefix $(DESTDIR),$(BINDIR) $(LIBEXECDIR) $(MANDIR)/man1 $(MANDIR)/man8 $(BASHDIR) $(ZSHDIR) $(FISHDIR))
	$(INSTALL) -d $(addprefix $(DESTDIR),$(DOCDIR)/docs $(UNITDIR))
	$(INSTALL) -m 755 $(addprefix target/release/,$(PROGRAMS)) $(DESTDIR)$(BINDIR)
	$(INSTALL) -m 755 target/release/$(HELPER) $(DESTDIR)$(LIBEXECDIR)
	$(INSTALL) -m 644 $(addprefix man/,$(MANUALS)) $(DESTDIR)$(MANDIR)/man1
	$(INSTALL) -m 644 man/$(HELPER).8 $(DESTDIR)$(MANDIR)/man8
	$(INSTALL) -m 644 completions/kvm-bridge.bash $(DESTDIR)$(BASHDIR)/kvm-bridge
	$(INSTALL) -m 644 completions/_kvm-bridge $(DESTDIR)$(ZSHDIR)
	$(INSTALL) -m 644 completions/kvm-bridge.fish $(DESTDIR)$(FISHDIR)
	ln -sf kvm-bridge.fish $(DESTDIR)$(FISHDIR)/qemu-kvm.fish
	$(INSTALL) -m 644 $(DOCUMENTS) $(DESTDIR)$(DOCDIR)
	$(INSTALL) -m 644 $(PAGES) $(DESTDIR)$(DOCDIR)/docs
	sed 's|/usr/local/bin|$(BINDIR)|' kvm-bridge@.service >$(DESTDIR)$(UNITDIR)/kvm-bridge@.service
	chmod 644 $(DESTDIR)$(UNITDIR)/kvm-bridge@.service

uninstall:
	rm -f $(addprefix $(DESTDIR)$(BINDIR)/,$(PROGRAMS)) $(addprefix $(DESTDIR)$(MANDIR)/man1/,$(MANUALS))
	rm -f $(DESTDIR)$(LIBEXECDIR)/$(HELPER) $(DESTDIR)$(MANDIR)/man8/$(HELPER).8
	rm -f $(DESTDIR)$(BASHDIR)/kvm-bridge $(DESTDIR)$(ZSHDIR)/_kvm-bridge $(DESTDIR)$(FISHDIR)/kvm-bridge.fish $(DESTDIR)$(FISHDIR)/qemu-kvm.fish
	rm -rf $(DESTDIR)$(DOCDIR) $(DESTDIR)$(UNITDIR)/kvm-bridge@.service

clean:
	$(CARGO) clean
