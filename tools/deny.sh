#!/usr/bin/env bash
# Licences, sources and version requirements of all dependencies of flowreg, of capi/ and of python/, by
# deny.toml. Builds cargo-deny once, in target/tools, without optimisation: the check itself takes seconds.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.20.2
tools="$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools"
if ! "$tools/bin/cargo-deny" --version 2>/dev/null | grep -qx "cargo-deny $version"; then
  CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    cargo install --locked --force --root "$tools" cargo-deny --version "$version"
fi
for manifest in Cargo.toml capi/Cargo.toml python/Cargo.toml; do
  printf '%s: ' "$manifest"
  "$tools/bin/cargo-deny" --locked --manifest-path "$manifest" --config deny.toml check bans licenses sources
done
