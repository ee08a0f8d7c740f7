#!/usr/bin/env bash
# Makes sure that cargo is there and new enough; installs rustup from the distribution where it has it.
set -euo pipefail
enough() { command -v cargo >/dev/null && [ "$(printf '1.85\n%s\n' "$(cargo --version | cut -d' ' -f2)" | sort -V | head -1)" = 1.85 ]; }
enough && exit 0
if ! command -v rustup >/dev/null && apt-cache show rustup >/dev/null 2>&1; then
  echo "rust: rustup from the distribution"
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends rustup >/dev/null
fi
command -v rustup >/dev/null && rustup default stable >/dev/null
enough || { echo "Rust 1.85 or later is needed to build the proxy: install it with rustup, then run make again" >&2; exit 1; }
