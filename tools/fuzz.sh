#!/usr/bin/env bash
# Every fuzz target for so many seconds (default 10), from the seeds in fuzz/seeds. Needs
# cargo-fuzz. Prints how many inputs each target tried; a crash ends it with its input's path.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-10}
# cargo-fuzz asks for options that stable has only under this name.
export RUSTC_BOOTSTRAP=1
cargo fuzz build
for target in $(cargo fuzz list); do
  mkdir -p "fuzz/corpus/$target"
  cargo fuzz run "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
    2>"fuzz/$target.log" || { tail -30 "fuzz/$target.log"; exit 1; }
  printf '%-12s %s\n' "$target" "$(grep -E '^Done ' "fuzz/$target.log")"
done
