#!/usr/bin/env bash
# pgo.sh collects the profile that the compiler optimises cairn with, and says
# what it gains. Run by `make pgo`, from anywhere.
#
#   pgo.sh profile   runs the benchmark's cases on cairn alone and takes CPU
#                    profiles of every proxy that it starts, from their admin
#                    ports; merged they are cmd/cairn/default.pgo, which
#                    `go build` finds by itself. LIMIT (170) seconds at most.
#   pgo.sh compare   the benchmark's cost of a small request without and with it
#   pgo.sh size      what it costs: time of a build from nothing, and bytes
#
# Every case counts by the CPU time that its proxies use. CASES names others.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
limit=${LIMIT:-170}
cases=${CASES:-small-1x1,small-4x16,small-64x1,rate-1000,down-1mb,up-1mb,connect,handshake,grpc-unary,grpc-stream,node-bulk-1,node-bulk-8,node-ping-1,node-ping-16,node-conn-16}
most=500000 # bytes of the profile

work=$(mktemp -d)
bench=
cleanup() {
  [ -z "$bench" ] || { kill "$bench" 2>/dev/null && wait "$bench" 2>/dev/null; } || true
  rm -rf "$work"
}
trap cleanup EXIT

# build FILE [FLAG]... builds cairn as `make build` does.
build() { CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" "${@:2}" -o "$1" ./cmd/cairn; }

# admin PID is the admin address of a proxy: what its command line says, or the default.
admin() {
  tr '\0' '\n' <"/proc/$1/cmdline" | awk '/^--admin$/ { getline; print; found = 1 } END { if (!found) print "127.0.0.1:15000" }'
}

# watch PID takes one profile after another for as long as the proxy runs. The
# last one, which its end cuts off, is lost. A node proxy's admin port is in its
# network namespace.
watch() {
  local pid=$1 n=0 at enter=()
  at=$(admin "$pid") || return 0
  [ "$(readlink "/proc/$pid/ns/net")" = "$(readlink /proc/self/ns/net)" ] || enter=(nsenter --net="/proc/$pid/ns/net")
  while [ -e "/proc/$pid/exe" ]; do
    n=$((n + 1))
    if "${enter[@]}" curl -sf --max-time 10 -o "$work/part-$pid" "http://$at/debug/pprof/profile?seconds=1" 2>/dev/null; then
      mv "$work/part-$pid" "$work/profiles/$pid-$n"
    else
      sleep 0.1
    fi
  done
}

profile() {
  scripts/packages.sh curl nsenter
  mkdir "$work/profiles"
  build "$work/cairn"
  (cd conformance && go build -o "$work/bench" ./bench)
  local all=() c
  IFS=, read -ra all <<<"$cases"
  for c in "${all[@]}"; do
    load "$c" $((limit / ${#all[@]}))
  done
  merge
}

# load CASE SECONDS runs one case and watches its proxies. A case that the
# benchmark does not have is passed over; one that the time cuts off, or that
# makes no verdict because the machine is busy, has profiles as good as any.
load() {
  local seen=" " watchers=() pid exe status=0
  (cd conformance && CAIRN=$work/cairn exec timeout "$2" "$work/bench" -quick -rounds 1 -contenders cairn,cairn-pair -cases "$1" -out "$work") >"$work/log" 2>&1 &
  bench=$!
  while kill -0 "$bench" 2>/dev/null; do
    for exe in /proc/[0-9]*/exe; do
      [ "$(readlink "$exe" 2>/dev/null)" = "$work/cairn" ] || continue
      pid=${exe#/proc/} pid=${pid%/exe}
      [[ $seen == *" $pid "* ]] && continue
      seen+="$pid "
      watch "$pid" &
      watchers+=($!)
    done
    sleep 0.1
  done
  wait "${watchers[@]}" || true
  wait "$bench" || status=$?
  bench=
  printf 'pgo.sh: %-18s %s\n' "$1" "$([ "$status" -eq 0 ] && echo ran || tail -n 1 "$work/log")"
}

# merge makes one profile of all and puts it in its place.
merge() {
  local parts=("$work"/profiles/*) size
  [ -e "${parts[0]}" ] || { cat "$work/log" >&2; echo "pgo.sh: no profile was taken" >&2; return 1; }
  go tool pprof -proto -output "$work/merged" "${parts[@]}" >/dev/null 2>"$work/pprof" || { cat "$work/pprof" >&2; return 1; }
  size=$(stat -c %s "$work/merged")
  [ "$size" -lt "$most" ] || { echo "pgo.sh: the profile has $size bytes, more than $most" >&2; return 1; }
  mv "$work/merged" cmd/cairn/default.pgo
  echo "pgo.sh: cmd/cairn/default.pgo is made of ${#parts[@]} profiles and has $size bytes"
  go tool pprof -top -nodecount 12 cmd/cairn/default.pgo 2>/dev/null | tail -n +3
}

# versions are how the compiler is run: without a profile, and with it.
versions=(off "$root/cmd/cairn/default.pgo")

size() {
  local how begin
  for how in "${versions[@]}"; do
    begin=$SECONDS
    GOCACHE=$work/cache-${how##*/} build "$work/cairn" -pgo="$how"
    printf '%-12s built from nothing in %d s, %d bytes\n' "${how##*/}" $((SECONDS - begin)) "$(stat -c %s "$work/cairn")"
  done
}

compare() {
  local how
  (cd conformance && go build -o "$work/bench" ./bench)
  for how in "${versions[@]}"; do
    build "$work/cairn-${how##*/}" -pgo="$how"
  done
  for how in off default.pgo off default.pgo; do
    (cd conformance && CAIRN=$work/cairn-$how "$work/bench" -quick -rounds 3 -contenders cairn -cases small-4x16 -out "$work") >"$work/log" 2>/dev/null || true
    printf '%-12s %s\n' "$how" "$(grep -m1 'req/CPU-s' "$work/log" || tail -n 1 "$work/log")"
  done
}

case ${1:-} in
profile | compare | size) "$1" ;;
*)
  echo "usage: pgo.sh profile|compare|size" >&2
  exit 2
  ;;
esac
