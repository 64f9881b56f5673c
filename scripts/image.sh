#!/usr/bin/env bash
# image.sh builds the container image. Where a Docker engine answers, that is
# `docker build`. Elsewhere the stages of the Dockerfile are done by hand into a
# root file system that holds what the image holds and nothing else, and the
# binary is run in it as the image's user: version, check, and a small mesh
# that answers a request.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(git describe --tags --always --dirty 2>/dev/null || echo dev)

if docker info >/dev/null 2>&1; then
  docker build --build-arg VERSION="$version" -t "cairn:$version" .
  docker run --rm "cairn:$version" version
  exit
fi
[ "$(id -u)" -eq 0 ] || { echo "image.sh: no Docker engine answers, and without one this needs root (chroot)" >&2; exit 1; }

work=$(mktemp -d)
up=
cleanup() {
  [ -z "$up" ] || { kill -INT "$up" 2>/dev/null && wait "$up" 2>/dev/null; } || true
  rm -rf "$work"
}
trap cleanup EXIT

echo "== stage build"
mkdir "$work/src"
git ls-files -z --cached --others --exclude-standard -- . ':!conformance' |
  while IFS= read -r -d '' f; do [ -e "$f" ] && printf '%s\0' "$f"; done |
  tar --null -T - -cf - | tar -C "$work/src" -xf -
(cd "$work/src" && go mod download && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$version" -o "$work/cairn" ./cmd/cairn)

echo "== stage final"
root=$work/root
mkdir -p "$root"/{etc/ssl/certs,home/nonroot,usr/local/bin,manifests,proc,dev}
mkdir -m 1777 "$root/tmp"
printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >"$root/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' >"$root/etc/group"
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
install -m 0755 "$work/cairn" "$root/usr/local/bin/cairn"
cat >"$root/manifests/echo.yaml" <<'Y'
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: default}
spec: {selector: {app: echo}, ports: [{name: http, port: 18080, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: echo, namespace: default, labels: {app: echo}}
spec:
  containers: [{name: echo, image: cairn/echo, ports: [{containerPort: 8080}]}]
Y

# run COMMAND... in the image, as the image's user, with the /proc and /dev that
# a container engine gives; everything is gone with the mount namespace.
run() {
  # shellcheck disable=SC2016
  unshare --mount --pid --fork --kill-child bash -c '
    root=$1; shift
    mount -t proc proc "$root/proc" && mount --bind /dev "$root/dev"
    exec chroot --userspec=65532:65532 "$root" /usr/local/bin/cairn "$@"' run "$root" "$@"
}

echo "== run, as 65532:65532 in an empty root file system"
run version
run check /manifests

# The smoke test gets a network namespace of its own, so that it meets nobody's ports.
cat >"$work/smoke" <<'S'
#!/usr/bin/env bash
set -euo pipefail
root=$1
ip link set lo up 2>/dev/null || true
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mkfifo "$root/../events"
chroot --userspec=65532:65532 "$root" /usr/local/bin/cairn up /manifests --json --log-level warn >"$root/../events" &
pid=$!
exec 3<"$root/../events"
IFS= read -r -t 30 ready <&3 || { echo "no ready event"; exit 1; }
listen=$(printf '%s' "$ready" | sed -n 's/.*"addresses":\["\([0-9.]*\)"[^]]*\],"ports":\[[^]]*"listen":\([0-9]*\).*/\1:\2/p')
echo "ready: echo on $listen"
curl -fsS --max-time 10 "http://$listen/image" | grep -q '"pod"' || { echo "no answer through the mesh"; exit 1; }
echo "a request went through the mesh"
kill -INT "$pid"
wait "$pid"
S
if ip link show lo >/dev/null 2>&1; then
  unshare --mount --net --pid --fork --kill-child bash "$work/smoke" "$root"
else
  unshare --mount --pid --fork --kill-child bash "$work/smoke" "$root"
fi
echo "image ok: $(du -sh "$root" --exclude=proc --exclude=dev | cut -f1) in $(find "$root" -type f -not -path '*/proc/*' -not -path '*/dev/*' | wc -l) files"
