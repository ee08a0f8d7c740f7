#!/usr/bin/env bash
# Generates the modules of meshapi/proto. `tools/generate.sh --check` fails if what is committed differs.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$PWD/.venv/bin/python}
out=.
[ "${1:-}" = --check ] && out=$(mktemp -d)
PATH="$(dirname "$python"):$PATH" "$python" -m grpc_tools.protoc -I . \
  --python_out="$out" --mypy_out="quiet:$out" meshapi/proto/*.proto
if [ "${1:-}" = --check ]; then
  diff -r --exclude='*.proto' --exclude='*.binpb' --exclude='__*' "$out/meshapi/proto" meshapi/proto \
    || { echo "meshapi/proto is stale: run tools/generate.sh and commit what it writes" >&2; exit 1; }
fi
