#!/usr/bin/env bash
# The campaigns of tests/campaigns.rs in full: kills, failing I/O, races, full disks, standard
# output that fails, foreign files under --force, damaged and changing files. Prints one table, N
# tried and N lost. Less than two minutes on two cores; stopped after ten. Full disks need the
# right to mount a tmpfs, else that row says SKIPPED.
set -euo pipefail
cd "$(dirname "$0")/.."
exec timeout --kill-after=10 600 cargo test --locked --test campaigns -- --full
