#!/usr/bin/env bash
# stages.sh says where the CPU time of a request goes: it runs one case of the
# benchmark on bin/cairn, takes a CPU profile over the admin port meanwhile,
# and shares the measured CPU time per request out by the innermost frame of
# each sample that belongs to a stage. CASE (small-4x16) names the case.
set -euo pipefail
cd "$(dirname "$0")/.."
case=${CASE:-small-4x16}
cairn=$PWD/bin/cairn
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

(cd conformance && go build -o "$work/bench" ./bench)
(cd conformance && exec env CAIRN="$cairn" "$work/bench" -rounds 1 -contenders cairn -cases "$case" -out "$work") >"$work/log" 2>&1 &
bench=$!
pid=
for _ in $(seq 100); do
  pid=$(pgrep -f "^$cairn waypoint" | head -n 1) && [ -n "$pid" ] && break
  sleep 0.1
done
admin=$(tr '\0' '\n' <"/proc/$pid/cmdline" | awk '/^--admin$/ { getline; print }')
sleep 1.5 # into the measured time
curl -sf -o "$work/profile" "http://$admin/debug/pprof/profile?seconds=3"
wait "$bench" || { tail -n 5 "$work/log"; exit 1; }

total=$(grep -hoE '"CPU per request": [0-9.]+' "$work"/*.json | head -n 1 | awk '{ print $NF }')
go tool pprof -traces "$work/profile" 2>/dev/null | awk -v total="$total" -v name="$case" '
  # A block of -traces is a value with the innermost frame, then its callers.
  function flush_sample() {
    if (value == "") return
    n = value + 0
    if (value ~ /ms$/) n *= 1000; else if (value ~ /[0-9]s$/) n *= 1000000
    sum += n; share[stage == "" ? "scheduler and the rest of the runtime" : stage] += n
    value = ""; stage = ""
  }
  function place(f) {
    if (stage != "") return
    if (f ~ /aesgcm|^crypto\//) stage = "TLS: encrypting and decrypting"
    else if (f ~ /tunnel\/record/) stage = "TLS: records"
    else if (f ~ /loop\.rawWrite/) stage = "system call: write (TCP, waking the peer)"
    else if (f ~ /loop\.rawRead/) stage = "system call: read"
    else if (f ~ /runtime\.netpoll$/) stage = "system call: epoll"
    else if (f ~ /tunnel\/h1\./) stage = "HTTP/1.1: parsing and writing"
    else if (f ~ /tunnel\/h2\.|hpack\./) stage = "HTTP/2 of the tunnels"
    else if (f ~ /cairn\/router\./) stage = "route"
    else if (f ~ /cairn\/policy\.|filters\/authz/) stage = "authorization"
    else if (f ~ /cairn\/filters/) stage = "other filters"
    else if (f ~ /cairn\/upstream/) stage = "endpoint"
    else if (f ~ /telemetry\..*(Observe|Series|bucket)/) stage = "metrics"
    else if (f ~ /cairn\/telemetry\./) stage = "access log"
    else if (f ~ /proxy\/waypoint\./) stage = "exchange and codecs of the waypoint"
    else if (f ~ /tunnel\/loop\./) stage = "sockets, turns and queues"
    else if (f ~ /runtime\.(gc|mallocgc|scan|mark|sweep|bgsweep)/) stage = "memory"
  }
  /^-+\+-+$/ { flush_sample(); inside = 1; next }
  inside && $1 ~ /^[0-9.]+(ns|us|µs|ms|s)$/ { value = $1; place($2); next }
  inside && NF > 0 { place($1) } # with "(inline)" behind it or without
  END {
    flush_sample()
    printf "| %s: %.2f µs of CPU per request | µs | share |\n|---|---|---|\n", name, total
    for (s in share) printf "| %s | %.2f | %.1f%% |\n", s, total * share[s] / sum, 100 * share[s] / sum | "sort -t\"|\" -k4 -rn"
    close("sort -t\"|\" -k4 -rn")
    printf "| sum of %.2f s of samples | %.2f | 100%% |\n", sum / 1000000, total
  }'
