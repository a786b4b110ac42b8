#!/usr/bin/env bash
# The library for aarch64, from an x86-64 machine; on aarch64 `cargo test` does both:
#
#     tools/neon.sh check    # compiles it, without features
#     tools/neon.sh test     # compiles its unit tests, those of the NEON kernels among them, and runs them with qemu
#
# Compiler and aarch64 library are Debian's (rustc-web), which apt installs with the linker and qemu where
# they are missing.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu

if [ "$(uname -m)" = aarch64 ]; then
  echo "NEON: cargo test compiles and tests it on this machine"
  exit 0
fi
if [ ! -d "/usr/lib/rustlib/$target" ] || ! command -v aarch64-linux-gnu-gcc >/dev/null ||
  ! command -v qemu-aarch64 >/dev/null; then
  dpkg --add-architecture arm64
  apt-get update
  apt-get install -y --no-install-recommends \
    rustc-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
fi
export RUSTC=/usr/bin/rustc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# libstd-rust-web-dev brings libc6:arm64. With qemu's `-L /usr/aarch64-linux-gnu` a program would get its
# loader from the cross compiler's C library and the rest from that one, and hang at the first thread.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64
# Without NEON the tests would pass on the portable kernels alone: this variable makes them fail.
export FLOWREG_TEST_ISAS=neon,portable
options=(--locked --lib --no-default-features --target "$target" --target-dir "${CARGO_TARGET_DIR:-target}/neon")
case "${1:-}" in
check)
  cargo check "${options[@]}"
  ;;
test)
  # Dependencies are optimised less than flowreg: their full optimisation takes longer than the tests.
  cargo test "${options[@]}" --config profile.dev.debug=false --config profile.dev.opt-level=1 \
    --config profile.dev.package.flowreg.opt-level=3
  ;;
*)
  echo "usage: tools/neon.sh check|test" >&2
  exit 64
  ;;
esac
