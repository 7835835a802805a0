# The commands of this project. `make help` lists them.

SHELL := /bin/bash
CARGO ?= cargo
# Daemon on the demo's ToR routers: podroute, bird, frr, gobgp or openbgpd.
TOR ?= podroute
# Daemon on the demo's nodes: podroute or, for comparison, bird.
NODE ?= podroute
# KEEP=1 leaves the demo's rack up.
KEEP ?=
# Rounds of a bench.
ROUNDS ?= 200
# One task of `make bench`, or some of `make bench-mesh`.
ONLY ?=
# Sizes of the mesh.
NODES ?= 50,100,150
# More arguments for the test runner, e.g. a name: make test ARGS=bird
ARGS ?=

TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
TRIPLE := $(shell rustc -vV | sed -n 's/^host: //p')
# What runs on nodes is static, in the triple's own directory; so the image holds what the tests tested.
export PODROUTE_BIN_DIR := $(TARGET_DIR)/$(TRIPLE)/release:$(TARGET_DIR)/release
# Where every daemon can be installed, a lab test that finds none fails instead of being left out.
ROOT_ON_DEBIAN := $(and $(filter 0,$(shell id -u)),$(wildcard /etc/debian_version),1)
LAB := $(TARGET_DIR)/release/podroute-lab
BENCH := $(TARGET_DIR)/release/podroute-bench

.PHONY: help demo demo-down build test interop docs bench bench-fib bench-failover bench-mesh bench-cni bench-policy bench-policy-peer image-files dist audit lint clean

help:
	@echo 'make demo        bring up a rack in namespaces and prove that pods reach each other'
	@echo '                 (TOR=podroute|bird|frr|gobgp|openbgpd, KEEP=1 leaves it up)'
	@echo 'make demo-down   remove a rack that was left up'
	@echo 'make test        every test; as root on Debian it installs the daemons it tests against'
	@echo 'make interop     every feature with every daemon, and docs/interop.md from it'
	@echo 'make docs        the outputs that the pages of docs/ show, from runs in the lab'
	@echo 'make build       release binaries'
	@echo 'make bench       the speaker beside other daemons, into docs/bench/ (ROUNDS=5, ONLY=reflect)'
	@echo 'make bench-fib   learned routes into the kernel beside BIRD and FRR, into docs/bench/'
	@echo 'make bench-failover  faults in a fabric of two racks under traffic, beside BIRD and FRR, into docs/ (ROUNDS=3)'
	@echo 'make bench-mesh  many nodes in a full mesh and with reflectors beside BIRD: start, restarts, loss, partition,'
	@echo '                 random faults; into docs/bench/ (ROUNDS=3, NODES=50,100,150, ONLY=start,soak)'
	@echo 'make bench-cni   the CNI plugin beside the kernel alone and the reference plugins (root; ROUNDS=200)'
	@echo 'make bench-policy network policies: start, events, traffic, beside nft (root), and docs/bench/policy.md'
	@echo 'make bench-policy-peer  peer policies: nanoseconds a route, and docs/bench/policy-peer.md'
	@echo 'make image-files static programs for the Containerfile'
	@echo 'make dist        a release in target/dist: archives, Debian packages, RPMs, SBOM, checksums'
	@echo 'make audit       licences, advisories and sources of dependencies (cargo-deny)'
	@echo 'make lint        formatting and clippy'
	@echo 'make clean       remove what was built'

demo:
	@e2e/packages.sh demo $(TOR) $(NODE)
	@$(MAKE) --no-print-directory build
	@$(LAB) demo --tor $(TOR) --node $(NODE) $(if $(filter-out 0,$(KEEP)),--keep)

demo-down:
	@if [ -x $(LAB) ]; then $(LAB) demo-down; else echo 'no rack is up'; fi

build:
	$(CARGO) build --release -p lab -p bench --bins
	RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --release --target $(TRIPLE) -p route-controller -p cni-ipam --bins

# What needs no namespaces first, the lab last; both run to their end, and either can fail the target.
test:
	@e2e/packages.sh test
	@$(MAKE) --no-print-directory image-files
	@status=0; \
	$(CARGO) test --workspace --exclude e2e --no-fail-fast -- $(ARGS) || status=$$?; \
	LAB_REQUIRE=$(ROOT_ON_DEBIAN) $(CARGO) test -p e2e --no-fail-fast -- $(ARGS) || status=$$?; \
	exit $$status

interop:
	@e2e/packages.sh test
	@$(MAKE) --no-print-directory build
	INTEROP_TABLE=1 LAB_REQUIRE=$(ROOT_ON_DEBIAN) $(CARGO) test -p e2e --no-fail-fast -- matrix::

docs:
	@e2e/packages.sh test
	@$(MAKE) --no-print-directory build
	DOCS_WRITE=1 LAB_REQUIRE=$(ROOT_ON_DEBIAN) $(CARGO) test -p e2e --test documents -- runs::

# For an image FROM scratch: podman build -f Containerfile .
image-files: build
	mkdir -p target/image
	install -t target/image $(addprefix $(TARGET_DIR)/$(TRIPLE)/release/,podroute podroute-cni podroute-ipam)

bench: ROUNDS = 5
bench:
	@e2e/packages.sh test
	@$(MAKE) --no-print-directory build
	$(BENCH) speaker --rounds $(ROUNDS) $(if $(ONLY),--only $(ONLY),--out docs/bench)

bench-failover: ROUNDS = 3
bench-failover:
	@e2e/packages.sh test
	@$(MAKE) --no-print-directory build
	$(BENCH) failover --rounds $(ROUNDS) --out docs

bench-fib: ROUNDS = 5
bench-fib:
	@e2e/packages.sh test
	@$(MAKE) --no-print-directory build
	$(BENCH) fib --rounds $(ROUNDS) --out docs/bench

bench-mesh: ROUNDS = 3
bench-mesh:
	@e2e/packages.sh test
	@$(MAKE) --no-print-directory build
	$(BENCH) mesh --rounds $(ROUNDS) --nodes $(NODES) $(if $(ONLY),--only $(ONLY),--out docs/bench)

bench-policy-peer:
	@{ cat docs/bench/policy-peer.head; $(CARGO) bench -q -p bgp-proto --bench policy; } > docs/bench/policy-peer.md.new
	@mv docs/bench/policy-peer.md.new docs/bench/policy-peer.md

bench-cni:
	RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --release --target $(TRIPLE) -p cni-ipam --bins --examples
	$(TARGET_DIR)/$(TRIPLE)/release/examples/bench $(ROUNDS)

bench-policy:
	$(CARGO) run --release -p podroute-enforce --example bench -- docs/bench/policy.md

dist:
	e2e/dist.sh

# From the registry, once.
audit:
	@[ -x $(TARGET_DIR)/tools/bin/cargo-deny ] || $(CARGO) install --quiet --locked --root $(TARGET_DIR)/tools cargo-deny@0.20.2
	$(TARGET_DIR)/tools/bin/cargo-deny check

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

clean:
	$(CARGO) clean
