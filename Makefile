# make            builds the programs
# make demo       shows what they do, for real, in network namespaces of its own
# make check      runs all tests
# make check-managers  runs the tests with network managers alone
# make bench-managers  measures what a host feels when its interface is taken from its network manager; RUNS=5
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

CARGO = cargo
INSTALL = install
PROGRAMS = qemu-kvm kvm-bridge
MANUALS = qemu-kvm-bridge.1 kvm-bridge.1
DOCUMENTS = README.md CHANGELOG.md docs/managers.md LICENSE-MIT LICENSE-APACHE
SCRIPTS = .ci/run demo/run tests/packages tests/guest/build tests/guest/init tests/managers/build completions/kvm-bridge.bash

# The laboratory of the tests needs root; a user's own cargo builds, and only what it built runs under sudo.
AS_ROOT = $(if $(filter 0,$(shell id -u)),,sudo)
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
RUNNER = CARGO_TARGET_$(shell echo $(HOST) | tr a-z- A-Z_)_RUNNER

.PHONY: all guest managers demo check check-managers bench-takeover bench-managers install uninstall clean

all:
	$(CARGO) build --release --locked --bins

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
	$(CARGO) fmt --check
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

bench-takeover:
	tests/packages demo
	$(CARGO) build --release --locked --bins --examples
	$(if $(AS_ROOT),env $(RUNNER)='sudo -E') $(CARGO) bench --locked --bench takeover

install:
	@for program in $(PROGRAMS); do \
		test -x target/release/$$program || { echo "There is no target/release/$$program: run make first." >&2; exit 1; }; \
	done
	$(INSTALL) -d $(addprefix $(DESTDIR),$(BINDIR) $(MANDIR)/man1 $(BASHDIR) $(ZSHDIR) $(FISHDIR) $(DOCDIR))
	$(INSTALL) -m 755 $(addprefix target/release/,$(PROGRAMS)) $(DESTDIR)$(BINDIR)
	$(INSTALL) -m 644 $(addprefix man/,$(MANUALS)) $(DESTDIR)$(MANDIR)/man1
	$(INSTALL) -m 644 completions/kvm-bridge.bash $(DESTDIR)$(BASHDIR)/kvm-bridge
	$(INSTALL) -m 644 completions/_kvm-bridge $(DESTDIR)$(ZSHDIR)
	$(INSTALL) -m 644 completions/kvm-bridge.fish $(DESTDIR)$(FISHDIR)
	ln -sf kvm-bridge.fish $(DESTDIR)$(FISHDIR)/qemu-kvm.fish
	$(INSTALL) -m 644 $(DOCUMENTS) $(DESTDIR)$(DOCDIR)

uninstall:
	rm -f $(addprefix $(DESTDIR)$(BINDIR)/,$(PROGRAMS)) $(addprefix $(DESTDIR)$(MANDIR)/man1/,$(MANUALS))
	rm -f $(DESTDIR)$(BASHDIR)/kvm-bridge $(DESTDIR)$(ZSHDIR)/_kvm-bridge $(DESTDIR)$(FISHDIR)/kvm-bridge.fish $(DESTDIR)$(FISHDIR)/qemu-kvm.fish
	rm -rf $(DESTDIR)$(DOCDIR)

clean:
	$(CARGO) clean
