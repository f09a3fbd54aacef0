# The entry point for every task. On a fresh Debian machine with Rust, `make demo` and `make test` install all they need.

SHELL    := /bin/bash
CARGO    ?= cargo
SUDO     := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$$PATH")
PREFIX   ?= /usr/local
PREFIXED := $(DESTDIR)$(PREFIX)
UNITS    := $(DESTDIR)/etc/systemd/system
CONFIG   := $(DESTDIR)/etc/sidetrack/sidetrackd.toml
FUZZ_SECONDS ?= 30

# Debian packages: for the build, for the programs that the tests run, and for the peers of the benchmarks.
BUILD_PACKAGES := clang libelf-dev zlib1g-dev pkg-config make gcc libc6-dev
TEST_PACKAGES  := bind9-dnsutils bpftool curl dnsmasq-base haproxy v2ray iperf3 iproute2 nftables openssl python3 procps systemd \
	liburing-dev ncat netcat-openbsd nmap wget
# The clients and servers of `make test-clients`.
CLIENT_PACKAGES := chromium curl default-jdk-headless git golang-go nodejs openssh-client openssh-server tnftp vsftpd
LINT_PACKAGES  := clang-format python3
WINDOWS_PACKAGES := rustc-web cargo-web rust-web-src gcc-mingw-w64-x86-64-win32 wine64
# The peers of `make bench`; mitmproxy comes from PyPI. A peer that cannot be installed is left out, and reported.
BENCH_PACKAGES := haproxy nginx-light libnginx-mod-stream redsocks microsocks socat nftables python3-venv util-linux
MITMPROXY      := 11.0.2
# What `make bench-guard` runs its workers with.
GUARD_PACKAGES := iproute2 util-linux
KERNEL_PACKAGES := qemu-system-x86 busybox-static cpio iproute2 curl util-linux

.PHONY: help build demo test test-kernels test-clients chaos pended-stress conformance race-test windows-test lint docs deny bench bench-quick bench-guard deps-bench fuzz install uninstall deps deps-test deps-lint deps-deny deps-fuzz

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: build ## builds, and shows how real connections are redirected
	@$(call need,bind9-dnsutils curl python3)
	$(SUDO) target/release/sidetrack demo

build: deps ## the release build
	$(CARGO) build --release --bins -p sidetrack-cli -p sidetrackd

test: deps-test ## every test; those on the kernel need root
	$(CARGO) build --workspace --bins --examples
	$(CARGO) test --workspace --doc --quiet
	$(SUDO) $(CARGO) nextest run --workspace
	$(SUDO) target/debug/sidetrack doctor

test-kernels: deps-test ## the system tests on Debian's 6.1 and 6.12, emulated (x86-64 only; minutes)
	@$(call need,$(KERNEL_PACKAGES))
	$(CARGO) build --workspace --bins --examples
	e2e/kernels/run

test-clients: deps-test ## what git, ssh, Go, Java, Node, Chromium, FTP and SIP see, straight and through proxies; two minutes
	@$(call need,$(CLIENT_PACKAGES))
	$(CARGO) build --workspace --bins
	$(SUDO) $(CARGO) nextest run -p e2e --run-ignored only -E 'binary(clients)' --no-fail-fast

conformance: deps-test ## the Winsock contract, case by case, in C; and the ABI under AddressSanitizer
	$(CARGO) build --workspace --bins --examples
	$(SUDO) $(CARGO) nextest run -p e2e -E 'binary(winsock)' --no-capture

chaos: deps-test ## three minutes of connections while proxies and the daemon are killed, and policies swapped, at random
	$(CARGO) build --workspace --bins
	$(SUDO) $(CARGO) nextest run -p e2e --run-ignored only -E 'binary(chaos)' --no-capture

pended-stress: deps-test ## 200 threads with 1,000 pended connects each, under several conditions; attacks on listeners; ten minutes
	$(CARGO) build --workspace --bins
	SIDETRACK_STRESS=1 $(SUDO) $(CARGO) nextest run -p e2e -E 'binary(pended_stress)'

race-test: deps-test ## overlapped calls under ThreadSanitizer (x86-64 only; Debian's Rust, with the standard library's source)
	@$(call need,rustc-web cargo-web rust-web-src)
	crates/sidetrack-winsock/tests/thread-sanitizer

windows-test: deps ## builds the SDK for Windows and runs its tests under Wine; names missing packages and tests nothing without them
	@$(call need,$(WINDOWS_PACKAGES)) || true
	e2e/windows/run || test $$? = 77

lint: deps-lint ## formatting, lints, retired words, references that lead nowhere, circles of files
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- --deny warnings
	clang-format --dry-run --Werror bpf/*.h bpf/*.c crates/*/examples/*.c crates/sidetrack-winsock/tests/*.c crates/sidetrack-winsock/tests/*/*.[ch] e2e/tests/*/*.c
	! grep -rnE '\bunsafe (\{|impl|fn)' --include=*.rs crates e2e benches | grep -vE '/(sys|ffi)\.rs:'
	python3 lint/tests.py
	lint/words.py
	lint/references.py
	lint/circles.py

docs: deps ## the API documentation of all crates, without warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps --document-private-items --quiet

deny: deps-deny ## licences, sources and duplicate versions of dependencies (not the advisories, which need a download)
	$(CARGO) deny --workspace check licenses sources bans

bench: deps-bench ## measures Sidetrack and its peers; writes docs/bench/; half an hour
	$(CARGO) build --release --workspace --bins
	$(SUDO) target/release/bench

bench-quick: deps-bench ## the same with fewer and shorter rounds
	$(CARGO) build --release --workspace --bins
	$(SUDO) target/release/bench --quick

bench-guard: deps ## measures whether the working tree is slower than the commit BASE; ten minutes (TOPICS="rate stream", ROUNDS=12)
	@$(call need,$(GUARD_PACKAGES))
	CARGO="$(CARGO)" benches/guard "$(BASE)" $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(JSON),--json $(JSON)) $(TOPICS)

fuzz: deps-fuzz ## each fuzz target for FUZZ_SECONDS, as many at a time as there are CPUs; then hostile clients of the daemon
	cd fuzz && $(CARGO) +nightly fuzz build
	cd fuzz && $(CARGO) +nightly fuzz list | xargs -P $$(nproc) -I {} \
		$(CARGO) +nightly fuzz run {} -- -max_total_time=$(FUZZ_SECONDS) -verbosity=0
	SIDETRACK_ATTACK_SECONDS=$(FUZZ_SECONDS) $(SUDO) $(CARGO) nextest run -p sidetrackd --no-capture -E 'test(whatever_other_users_call)'

install: build ## installs to PREFIX: commands, the Winsock library, manual pages, completions; also the systemd unit and its configuration
	$(CARGO) build --release -p sidetrack-winsock
	mkdir -p target/man
	target/release/sidetrack man target/man
	target/release/sidetrackd --man target/man/sidetrackd.8
	target/release/sidetrack completions bash > target/sidetrack.bash
	target/release/sidetrack completions zsh > target/_sidetrack
	target/release/sidetrack completions fish > target/sidetrack.fish
	sed 's|/usr/local|$(PREFIX)|' packaging/sidetrackd.service > target/sidetrackd.service
	$(SUDO) install -D -t $(PREFIXED)/bin target/release/sidetrack target/release/sidetrackd
	$(SUDO) install -D -m 644 -t $(PREFIXED)/lib target/release/libsidetrack_winsock.so target/release/libsidetrack_winsock.a
	$(SUDO) install -D -m 644 -t $(PREFIXED)/include/sidetrack crates/sidetrack-winsock/include/sidetrack/*.h
	$(SUDO) install -D -m 644 -t $(PREFIXED)/include/sidetrack/windows crates/sidetrack-winsock/include/windows/*.h
	$(SUDO) install -D -m 644 -t $(PREFIXED)/share/man/man1 target/man/*.1
	$(SUDO) install -D -m 644 -t $(PREFIXED)/share/man/man8 target/man/sidetrackd.8
	$(SUDO) install -D -m 644 target/sidetrack.bash $(PREFIXED)/share/bash-completion/completions/sidetrack
	$(SUDO) install -D -m 644 -t $(PREFIXED)/share/zsh/site-functions target/_sidetrack
	$(SUDO) install -D -m 644 -t $(PREFIXED)/share/fish/vendor_completions.d target/sidetrack.fish
	$(SUDO) install -D -m 644 -t $(UNITS) target/sidetrackd.service
	test -e $(CONFIG) || $(SUDO) install -D -m 644 packaging/sidetrackd.toml $(CONFIG)

uninstall: ## removes what install has installed except the configuration, and all of Sidetrack in the kernel; stop sidetrackd first
	test -n "$(DESTDIR)" -o ! -x $(PREFIXED)/bin/sidetrack || $(SUDO) $(PREFIXED)/bin/sidetrack uninstall
	$(SUDO) rm -f $(PREFIXED)/bin/sidetrack $(PREFIXED)/bin/sidetrackd $(UNITS)/sidetrackd.service \
		$(PREFIXED)/lib/libsidetrack_winsock.so $(PREFIXED)/lib/libsidetrack_winsock.a \
		$(PREFIXED)/share/man/man1/sidetrack.1 $(PREFIXED)/share/man/man1/sidetrack-*.1 \
		$(PREFIXED)/share/man/man8/sidetrackd.8 \
		$(PREFIXED)/share/bash-completion/completions/sidetrack \
		$(PREFIXED)/share/zsh/site-functions/_sidetrack \
		$(PREFIXED)/share/fish/vendor_completions.d/sidetrack.fish
	$(SUDO) rm -rf $(PREFIXED)/include/sidetrack

deps: ## installs the Debian packages that the build needs
	@$(call need,$(BUILD_PACKAGES))

deps-test: deps
	@$(call need,$(TEST_PACKAGES))
	@$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-nextest

deps-bench: deps-test
	-@for package in $(BENCH_PACKAGES); do $(call need,$$package); done
	-@test -x target/mitmproxy/bin/mitmdump || { python3 -m venv target/mitmproxy && \
		target/mitmproxy/bin/pip install --quiet mitmproxy==$(MITMPROXY); }

deps-lint: deps
	@$(call need,$(LINT_PACKAGES))

deps-deny: deps
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny

deps-fuzz: deps
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-fuzz

# Installs those Debian packages that are missing.
define need
missing=$$(dpkg-query -W -f '$${db:Status-Status} $${Package}\n' $(1) 2>/dev/null | \
	awk '$$1 == "installed" { print $$2 }' | sort | comm -13 - <(printf '%s\n' $(1) | sort)); \
if [ -n "$$missing" ]; then \
	echo "installing:" $$missing; \
	$(SUDO) apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
fi
endef
