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
. tools/leave_out.sh
target=aarch64-unknown-linux-gnu

case "${1:-}" in
check | test) ;;
*)
  echo "usage: tools/neon.sh check|test" >&2
  exit 64
  ;;
esac
if [ "$(uname -sm)" != "Linux x86_64" ]; then
  echo "NEON: nothing to do, as this check is for x86-64 Linux; on aarch64 cargo test compiles and tests the kernels"
  exit 0
fi

cannot() {
  leave_out "NEON: $1; needed are /usr/bin/rustc with the library for $target, aarch64-linux-gnu-gcc and qemu-aarch64"
}
if [ ! -x /usr/bin/rustc ] || [ ! -d "/usr/lib/rustlib/$target" ] ||
  ! command -v aarch64-linux-gnu-gcc >/dev/null || ! command -v qemu-aarch64 >/dev/null; then
  packages=(rustc-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
  if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    cannot "apt-get and root are needed to install them"
  fi
  if ! grep -qx 'ID=debian' /etc/os-release; then
    cannot "the packages are those of Debian"
  fi
  dpkg --add-architecture arm64
  apt-get update || cannot "apt-get update failed with the architecture arm64"
  # rustc-web conflicts with Debian's rustc and rustup.
  if apt-get -s install --no-install-recommends "${packages[@]}" | grep '^Remv'; then
    cannot "apt would remove the packages above"
  fi
  apt-get install -y --no-install-recommends "${packages[@]}" || cannot "apt-get could not install them"
fi
export RUSTC=/usr/bin/rustc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# libstd-rust-web-dev brings libc6:arm64. With qemu's `-L /usr/aarch64-linux-gnu` a program would get its
# loader from the cross compiler's C library and the rest from libc6:arm64, and would hang when it starts a thread.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64
# Without NEON the tests would pass on the portable kernels alone: this variable makes them fail.
export FLOWREG_TEST_ISAS=neon,portable
options=(--locked --lib --no-default-features --target "$target" --target-dir "${CARGO_TARGET_DIR:-target}/neon")
if [ "$1" = check ]; then
  RUSTFLAGS="-D warnings" cargo check "${options[@]}"
else
  # Dependencies are optimised less than flowreg: their full optimisation takes longer than the tests.
  cargo test "${options[@]}" --config profile.dev.debug=false --config profile.dev.opt-level=1 \
    --config profile.dev.package.flowreg.opt-level=3
fi
