#!/usr/bin/env bash
# Makes the Kustomize base from the chart, with its default values; --check: only tells whether it is up to date.
set -euo pipefail
cd "$(dirname "$0")/../deploy/daemonset"
helm=$(../../tools/kube_tools.sh --path)/helm
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
for template in chart/templates/*.yaml; do
  name=$(basename "$template")
  [ "$name" != uninstall.yaml ] || continue  # a hook of Helm's: elsewhere, meshctl uninstall does it
  [ "$name" != rate-limit-server.yaml ] || continue  # off by default
  "$helm" template nodemesh chart --kube-version 1.30.0 --namespace nodemesh-system --show-only "templates/$name" | sed '/^# Source: /d' | sed '1{/^---$/d}' >"$made/$name"
done
if [ "${1:-}" = --check ]; then
  for file in "$made"/*.yaml; do
    diff -u "base/$(basename "$file")" "$file" || { echo "deploy/daemonset/base does not follow from the chart: run tools/manifests.sh" >&2; exit 1; }
  done
else
  cp "$made"/*.yaml base/
fi
