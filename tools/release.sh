#!/usr/bin/env bash
# The checks before a release that take too long for `.ci/run`: `cargo install` and the demo of what it
# installed, each cargo feature alone, the campaigns of faults in full, the library's tests for aarch64 run by
# qemu, the benchmarks are built, every fuzz target runs for a minute, the kernels' tests run under
# AddressSanitizer (x86-64 Linux), the Python package is built from its source distribution and the crate from
# its package. `.ci/run` tests several processes with Open MPI; here they run with MPICH. Needs what `.ci/run`
# needs; installs cargo-fuzz where it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

installed="$(mktemp -d)"
trap 'rm -rf "$installed"' EXIT
cargo install --locked --path . --root "$installed"
"$installed/bin/flowreg-fit" --demo --out "$installed/demo-run"
# Without MPI, and with each feature alone; `.ci/run` takes MPI and no feature.
cargo clippy --locked --all-targets -- -D warnings
for feature in photographs download formats; do
  cargo clippy --locked --lib --no-default-features --features "$feature" -- -D warnings
done
tools/faults.sh
tools/neon.sh test
cargo bench --locked --no-run
command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
tools/fuzz.sh 60
if [ "$(uname -sm)" = "Linux x86_64" ]; then tools/sanitize.sh; fi
if ! command -v mpirun.mpich >/dev/null || ! command -v mpicc.mpich >/dev/null; then
  apt-get update && apt-get install -y --no-install-recommends mpich libmpich-dev libclang-dev pkg-config
fi
MPICC=mpicc.mpich CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/mpich" FLOWREG_MPIRUN=mpirun.mpich \
  cargo test --locked --features mpi --test mpi
SDIST=1 CARGO_TARGET_DIR="$PWD/target" python/check.sh
cargo publish --locked --dry-run
