#!/usr/bin/env bash
# fuzz.sh [TIME [PACKAGE...]] runs every fuzz target of the module for TIME
# (default 30s), one after the other, since go test takes one target a run.
# FUZZMINIMIZETIME bounds what is spent on making an input small (default 50x):
# go test's own 60 s would be most of a short run.
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:-30s}
minimize=${FUZZMINIMIZETIME:-50x}
shift || true
[ "$#" -gt 0 ] || set -- ./...

failed=0
for pkg in $(go list "$@"); do
  for target in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
    echo "== $pkg $target $time"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime "$minimize" "$pkg" || failed=1
  done
done
exit "$failed"
