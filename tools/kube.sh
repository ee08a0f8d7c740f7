#!/usr/bin/env bash
# Builds the API server that the tests run, once for its version: the binary is kept outside the clone, by a hash of what it is made from.
set -euo pipefail
cd "$(dirname "$0")/../tests/kube/apiserver"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/nodemesh/kube
binary=$cache/kube-apiserver-$(cat main.go go.mod go.sum ../../../tools/kube.sh | sha256sum | cut -c1-16)
[ "${1:-}" = --path ] && { echo "$binary"; exit 0; }
[ -x "$binary" ] && exit 0
command -v go >/dev/null || { echo "Go 1.24 or later is needed to build the API server for the tests: install it, then run make again" >&2; exit 1; }
echo "kube-apiserver, for the tests (the first build takes some minutes)"
mkdir -p "$cache"
version=$(sed -n 's,^require k8s.io/kubernetes \(v[0-9.]*\)$,\1,p; s,^\tk8s.io/kubernetes \(v[0-9.]*\)$,\1,p' go.mod)
stamp=k8s.io/component-base/version
GOFLAGS="-buildvcs=false -p=2" CGO_ENABLED=0 nice -n 10 go build -trimpath -ldflags="-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=$(cut -d. -f2 <<<"$version")" -o "$binary.$$" .
mv "$binary.$$" "$binary"
