#!/usr/bin/env bash
# Compares the public items of the library, with their types, with the listing in public-api.txt. After an
# intended change `tools/public_api.sh --update` writes the listing anew. The items are those of the default
# features on x86-64 Linux. rustdoc's JSON differs between versions of Rust, so one version makes the listing.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/leave_out.sh
rust=1.95
listing=public-api.txt

found="$(rustc --version | cut -d' ' -f2) on $(uname -sm)"
if [[ "$found" != "$rust".*" on Linux x86_64" ]]; then
  leave_out "public API: found Rust $found, and $listing is made by Rust $rust on Linux x86_64: run RUSTUP_TOOLCHAIN=$rust tools/public_api.sh"
fi

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
# JSON is an unstable option, which RUSTC_BOOTSTRAP allows. It is set for rustdoc alone: if cargo had it,
# the dependencies would be built anew.
printf '#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc "$@"\n' >"$work/rustdoc"
chmod +x "$work/rustdoc"
RUSTDOC="$work/rustdoc" cargo rustdoc --locked --lib -- -Z unstable-options --output-format json
# Three traits of the compiler, which stable Rust cannot name, are left out.
cargo run --locked --quiet --manifest-path tools/public-api/Cargo.toml "$CARGO_TARGET_DIR/doc/flowreg.json" |
  grep -vE '^impl.* core::marker::(Freeze|StructuralPartialEq|UnsafeUnpin) for ' >"$work/$listing"

if [ "${1:-}" = --update ]; then
  cp "$work/$listing" "$listing"
elif ! diff -u "$listing" "$work/$listing"; then
  echo "the public API differs from $listing: if the change is intended, run tools/public_api.sh --update, commit the listing and name the change in CHANGELOG.md" >&2
  exit 1
fi
