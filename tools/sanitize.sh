#!/usr/bin/env bash
# The tests of the kernels and of the door to them under AddressSanitizer: reads and writes
# outside of what was given to a kernel are found even where they change no result. The first
# run builds all dependencies anew, about three minutes on two cores; the tests take seconds.
# Linux on x86-64 only.
set -euo pipefail
cd "$(dirname "$0")/.."

# The sanitizer is an unstable option of the compiler, which this variable allows.
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=address ${RUSTFLAGS:-}"
target=x86_64-unknown-linux-gnu
cargo test --locked --target "$target" --target-dir target/sanitize --lib -- kernels:: gemm::
