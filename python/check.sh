#!/usr/bin/env bash
# The Python package: format and lints, the wheel, and in a fresh environment its types and tests.
# Needs cargo, a C compiler, Python 3.10 or later (PYTHON, or python3) with venv, which is installed
# where apt can do it, and the registries of crates and of Python packages. The tests of processes of MPI
# need mpirun, and are skipped without it. With SDIST=1 the source
# distribution is installed, too.
set -euo pipefail
cd "$(dirname "$0")"
python="${PYTHON:-python3}"
if ! "$python" -c 'import ensurepip, sys; assert sys.version_info >= (3, 10)' 2>/dev/null; then
  if [ -n "${PYTHON:-}" ]; then
    echo "PYTHON=$python: expected Python 3.10 or later with venv" >&2
    exit 1
  fi
  apt-get update && apt-get install -y --no-install-recommends python3 python3-venv
fi
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
export PIP_DISABLE_PIP_VERSION_CHECK=1
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT

cargo fmt --check
cargo clippy --locked -- -D warnings
cargo clippy --locked --no-default-features -- -D warnings
"$python" -m venv "$out/tools"
"$out/tools/bin/pip" install -q 'maturin>=1.16,<2' twine
# The profile dev is optimised, and builds sooner than release.
wheel_folder="${WHEEL_FOLDER:-$out/wheels}"
"$out/tools/bin/maturin" build --locked --profile dev --out "$wheel_folder" --interpreter "$out/tools/bin/python"
wheels=("$wheel_folder"/*.whl)
"$out/tools/bin/maturin" sdist --out "$out/sdist"
"$out/tools/bin/twine" check --strict "${wheels[0]}" "$out"/sdist/*.tar.gz

"$python" -m venv "$out/fresh"
"$out/fresh/bin/pip" install -q "${wheels[0]}[test]" mpi4py
"$out/fresh/bin/python" -m mypy --package flowreg
"$out/fresh/bin/python" -m mypy.stubtest flowreg \
  --mypy-config-file pyproject.toml --allowlist stubtest-allowlist.txt
"$out/fresh/bin/python" -m pytest -q -rs
# The judge of benches/compare.
(cd ../benches/compare && "$out/fresh/bin/python" -m pytest -q -p no:cacheprovider test_judge.py)

if [ -n "${SDIST:-}" ]; then
  "$python" -m venv "$out/source"
  "$out/source/bin/pip" install -q "$out"/sdist/*.tar.gz
  (cd "$out" && source/bin/python -c 'import flowreg; print(flowreg.__version__, "from source")')
fi
