#!/usr/bin/env bash
# Compiles one eBPF source: bpf.sh SOURCE OBJECT. Types for the kernel (BTF) are kept, debugging information is not.
set -euo pipefail
source=$1 object=$2
mkdir -p "$(dirname "$object")"
# Of this process alone: two builds at once must not write into one another's.
draft=$object.$$
trap 'rm -f "$draft"' EXIT
# The kernel's headers need those of the machine's architecture, which clang does not look for when it compiles for eBPF.
clang -O2 -g -Wall -Wextra -Werror -target bpf -mcpu=v3 "-I/usr/include/$(uname -m)-linux-gnu" -c "$source" -o "$draft"
llvm-strip --strip-debug "$draft"
mv "$draft" "$object"
