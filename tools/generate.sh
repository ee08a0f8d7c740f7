#!/usr/bin/env bash
# Generates the modules of our protocol definitions. `tools/generate.sh --check` fails if what is committed differs.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$PWD/.venv/bin/python}
out=.
[ "${1:-}" = --check ] && out=$(mktemp -d)
PATH="$(dirname "$python"):$PATH" "$python" -m grpc_tools.protoc -I . \
  --python_out="$out" --mypy_out="quiet:$out" meshapi/proto/*.proto nodeagent/runtime/engines/*.proto
if [ "${1:-}" = --check ]; then
  (cd "$out" && find . -name '*_pb2.py*') | while read -r made; do
    cmp "$out/$made" "$made" || { echo "$made is stale: run tools/generate.sh and commit what it writes" >&2; exit 1; }
  done
fi
