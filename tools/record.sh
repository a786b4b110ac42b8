#!/usr/bin/env bash
# Measure this machine and write benches/record/NAME.md:
#
#     tools/record.sh NAME [DATASET]
#
# DATASET is a prepared Flowers102 (made pixels without it). FLOWREG_PYTHON names a Python with
# torch and FLOWREG_OPENBLAS an OpenBLAS, see `cargo bench`. About ten minutes; nothing else
# should run.
set -euo pipefail
cd "$(dirname "$0")/.."

name=$1
if [ $# -gt 1 ]; then export FLOWREG_DATASET=$2; fi
# OpenBLAS chooses its kernels itself.
unset OPENBLAS_CORETYPE

new=$(mktemp)
trap 'rm -f "$new"' EXIT

# A table in a bench's output: everything from its first line that matches.
bench() {
  printf '\n## %s\n\n```text\n' "$1"
  cargo bench --locked --bench "$1" -- "${@:3}" 2>/dev/null | sed -n -E "/$2/,\$p" | sed '/^$/d'
  printf '```\n'
}

{
  printf '# %s\n\n' "$name"
  printf 'Written by `tools/record.sh`, %s, commit %s.\n\n' "$(date -u +%F)" "$(git rev-parse --short HEAD)"
  printf '```text\n'
  if command -v lscpu >/dev/null; then
    lscpu | grep -E '^(Architecture|CPU\(s\)|Model name|CPU family|Model|L[123][di]? cache|Hypervisor vendor):'
  fi
  awk '/^MemTotal/ { printf "Memory: %.0f GB\n", $2 / 1048576 }' /proc/meminfo
  uname -sr
  rustc --version
  printf '```\n'
  bench epoch 'FMA peak'
  bench gemm 'FMA peak' --noplot --measurement-time 0.5
  bench growth 'FMA peak'
} >"$new"
# criterion's own lines say the same in more words.
sed -E -i '/^(Benchmarking|Gnuplot|Found|Warning)|time:|thrpt:|change:|^ +[0-9]+ \(|Performance has|No change in|Change within|^[a-z0-9+-]+ [^ ]+.*\/[a-z]+$/d' "$new"
mkdir -p benches/record
cp "$new" "benches/record/$name.md"
