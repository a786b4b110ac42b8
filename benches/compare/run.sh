#!/usr/bin/env bash
# Compare flowreg with scikit-learn, Cyanure and torch on this machine and write benches/compare/record/NAME.json,
# its tables NAME.md and the picture time-to-gap-{light,dark}.svg:
#
#     benches/compare/run.sh NAME FLOWERS SETS
#
# FLOWERS is Flowers102 as flowreg-prep wrote it, SETS the folder of the .npz files; README.md beside this
# file says where both come from. Everything is installed into a venv that is removed at the end: flowreg
# from this checkout, which needs Rust and a C compiler (FLOWREG_WHEEL names a wheel that is built already),
# the others from requirements.txt. PYTHON names a Python of 3.11 or later. Nothing else should run meanwhile.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
if [ $# -ne 3 ]; then
  echo "usage: benches/compare/run.sh NAME FLOWERS SETS" >&2
  exit 64
fi
record="$here/record/$1.json"
venv="$(mktemp -d)"
trap 'rm -rf "$venv"' EXIT

"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install -q -r "$here/requirements.txt"
"$venv/bin/pip" install -q "${FLOWREG_WHEEL:-$here/../../python}"
(cd "$here" && "$venv/bin/python" -m pytest -q -p no:cacheprovider test_judge.py)
"$venv/bin/python" "$here/compare.py" "$record" --flowers "$2" --sets "$3"
"$venv/bin/python" "$here/report.py" "$record"
