#!/usr/bin/env bash
# Builds the API server of another version of Kubernetes (tests/kube/versions/VERSION), once, and prints where it is.
set -euo pipefail
cd "$(dirname "$0")/../tests/kube"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/nodemesh/kube
module=versions/$1
binary=$cache/kube-apiserver-$1-$(cat apiserver/main.go "$module/go.mod" "$module/go.sum" ../../tools/kube_version.sh | sha256sum | cut -c1-16)
[ -x "$binary" ] && { echo "$binary"; exit 0; }
command -v go >/dev/null || { echo "Go 1.24 or later is needed to build an API server: install it, then run make again" >&2; exit 1; }
echo "kube-apiserver $1 (the first build takes some minutes)" >&2
mkdir -p "$cache"
sources=$(mktemp -d)
trap 'rm -rf "$sources"' EXIT
cp apiserver/main.go "$module/go.mod" "$module/go.sum" "$sources"
version=$(sed -n 's,^require k8s.io/kubernetes \(v[0-9.]*\)$,\1,p' "$module/go.mod")
stamp=k8s.io/component-base/version
(cd "$sources" && GOFLAGS="-buildvcs=false -p=2" CGO_ENABLED=0 nice -n 10 go build -trimpath -ldflags="-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=${1#*.}" -o "$binary.$$" .)
mv "$binary.$$" "$binary"
echo "$binary"
