#!/usr/bin/env bash
# The C interface: format, lints, tests, and the example in C against the static and the shared
# library. With SANITIZE=1 the example's own code is compiled with AddressSanitizer, which also
# watches the library's allocations, and looks for leaks. Needs cargo and a C compiler (CC, or cc).
set -euo pipefail
cd "$(dirname "$0")"
cc="${CC:-cc}"
built="${CARGO_TARGET_DIR:-target}/debug"

cargo fmt --check
cargo clippy --locked --all-targets -- -D warnings
# The library with the tests, so that both are built once.
cargo build --locked --lib --tests
cargo test --locked

flags=(-std=c99 -O1 -Wall -Wextra -Werror -pedantic -Iinclude)
if [ -n "${SANITIZE:-}" ]; then
  flags+=(-g -fsanitize=address)
fi
system=(-lm)
if [ "$(uname -s)" = Linux ]; then system+=(-lpthread -ldl); fi
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
"$cc" "${flags[@]}" examples/fit.c "$built/libflowreg_c.a" "${system[@]}" -o "$out/static"
"$out/static" | tee "$out/static.txt"
"$cc" "${flags[@]}" examples/fit.c -L"$built" -lflowreg_c -Wl,-rpath,"$(cd "$built" && pwd)" -o "$out/shared"
"$out/shared" >"$out/shared.txt"
diff "$out/static.txt" "$out/shared.txt"
echo "C example: the static and the shared library say the same"
