#!/usr/bin/env bash
# packages.sh PROGRAM... installs the Debian package of each program that this
# machine does not have. A program that is there costs nothing.
set -euo pipefail

declare -A package=([curl]=curl [nghttp]=nghttp2-client [h2load]=nghttp2-client [python3]=python3 [openssl]=openssl [nsenter]=util-linux)

missing=()
for program in "$@"; do
  command -v "$program" >/dev/null || missing+=("${package[$program]:-$program}")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

sudo=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "install ${missing[*]} first (neither root nor sudo here)" >&2; exit 1; }
  sudo=(sudo)
fi
command -v apt-get >/dev/null || { echo "install ${missing[*]} first (no apt-get here)" >&2; exit 1; }
"${sudo[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
