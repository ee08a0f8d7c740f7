#!/usr/bin/env bash
# Builds Helm and Kustomize, which the manifests are made and tested with, once for their versions; --path: the directory with both.
set -euo pipefail
cd "$(dirname "$0")/../tests/kube/tools"
directory=${XDG_CACHE_HOME:-$HOME/.cache}/nodemesh/kube/tools-$(cat go.mod go.sum | sha256sum | cut -c1-16)
[ "${1:-}" = --path ] && { echo "$directory"; exit 0; }
[ -x "$directory/helm" ] && exit 0
command -v go >/dev/null || { echo "Go 1.24 or later is needed to build Helm: install it, then run make again" >&2; exit 1; }
echo "helm and kustomize (the first build takes some minutes)"
mkdir -p "$directory.$$"
GOFLAGS="-buildvcs=false -p=2" CGO_ENABLED=0 nice -n 10 go build -trimpath -ldflags="-s -w" -o "$directory.$$/" tool
rm -rf "$directory" && mv "$directory.$$" "$directory"
