#!/usr/bin/env bash
# The book: builds it with Sphinx, where a warning is an error, and runs the code of its pages and of
# README.md. The pages are then in docs/_build/html. Needs what python/check.sh needs, and Python 3.11.
# WHEEL=FILE takes a wheel of the package that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
if ! "$python" -c 'import ensurepip, sys; assert sys.version_info >= (3, 11)' 2>/dev/null; then
  echo "docs/check.sh: $python: expected Python 3.11 or later with venv; PYTHON names another" >&2
  exit 1
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT

if [ -n "${WHEEL:-}" ]; then
  wheel="$(realpath "$WHEEL")"
else
  # The same build as that of python/check.sh.
  export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/python/target}"
  "$python" -m venv "$out/tools"
  "$out/tools/bin/pip" install -q 'maturin>=1.16,<2'
  (cd python && "$out/tools/bin/maturin" build --locked --profile dev --out "$out/wheels" \
    --interpreter "$out/tools/bin/python")
  wheels=("$out"/wheels/*.whl)
  wheel="${wheels[0]}"
fi
"$python" -m venv "$out/book"
"$out/book/bin/pip" install -q -r docs/requirements.txt "$wheel[plot]"
# The programs of the wheel, and python in the blocks of pages.
export PATH="$out/book/bin:$PATH"

rm -rf docs/_build
sphinx-build -W --keep-going -n -q -b html docs docs/_build/html
python -m unittest discover -s docs
mapfile -t pages < <(find docs -name '*.md' -not -path 'docs/_build/*' | sort)
python docs/check_pages.py README.md "${pages[@]}"
