#!/usr/bin/env bash
# bench-compare.sh REV ["micro cases" [COUNT]] builds REV in a worktree of its
# own and says with benchstat what has become faster or slower since: by the Go
# benchmarks of the hot packages (micro) and by the quick cases of the
# benchmark with both binaries (cases). Both take turns, COUNT times each.
# HOT, BENCHTIME and CASES choose packages, time and cases.
set -euo pipefail
cd "$(dirname "$0")/.."

rev=${1:-}
what=${2:-micro cases}
count=${3:-6}
hot=${HOT:-./tunnel ./tunnel/h1 ./tunnel/h2 ./tunnel/loop ./router ./policy ./upstream ./upstream/lb ./telemetry ./proxy/waypoint}
benchtime=${BENCHTIME:-100ms}
cases=${CASES:-}
[ -n "$rev" ] || { echo "bench-compare: which revision? make bench-compare BASE=main" >&2; exit 2; }
git rev-parse --quiet --verify "$rev^{commit}" >/dev/null || { echo "bench-compare: there is no revision $rev" >&2; exit 2; }

head=$PWD
work=$(mktemp -d)
base=$work/base
trap 'git -C "$head" worktree remove --force "$base" 2>/dev/null || true; rm -rf "$work"' EXIT
git worktree add --quiet --detach "$base" "$rev"
benchstat() { go tool -modfile=tools/go.mod benchstat "$@"; }

# micro: the tests of a package are built once for each tree, and run in turns.
if [[ " $what " == *" micro "* ]]; then
  built=()
  for pkg in $hot; do
    name=${pkg#./}; name=${name//\//_}
    for side in base head; do
      dir=${!side}
      [ -d "$dir/$pkg" ] || continue
      (cd "$dir" && go test -c -o "$work/$name.$side" "$pkg")
      [ -e "$work/$name.$side" ] && built+=("$dir/$pkg $name $side")
    done
  done
  for ((i = 1; i <= count; i++)); do
    echo "micro: round $i of $count" >&2
    for b in "${built[@]}"; do
      read -r dir name side <<<"$b"
      (cd "$dir" && "$work/$name.$side" -test.run '^$' -test.bench . -test.benchmem -test.benchtime "$benchtime") >>"$work/micro.$side"
    done
  done
  echo "== Go benchmarks: $rev beside this tree"
  benchstat "base=$work/micro.base" "head=$work/micro.head"
fi

# cases: the benchmark of this tree, with REV's binary in the reference's place.
if [[ " $what " == *" cases "* ]]; then
  (cd "$base" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(git rev-parse --short HEAD)" -o "$work/cairn-base" ./cmd/cairn)
  (cd conformance && CAIRN=$head/bin/cairn go run ./bench -quick -rounds "$count" -base "$work/cairn-base" -cases "$cases" -out "$work/results" -benchstat "$work/stat" >"$work/report.md")
  echo "== cases: $rev beside this tree"
  benchstat "base=$work/stat/base.txt" "head=$work/stat/cairn.txt"
fi
