#!/usr/bin/env bash
# Makes sure that the tests find a Chromium; they start and stop it themselves.
set -euo pipefail
for program in chromium chromium-browser google-chrome; do
  command -v "$program" >/dev/null && exit 0
done
if ! command -v apt-get >/dev/null; then
  echo "error: the tests need chromium; install it with your package manager" >&2
  exit 1
fi
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
echo "Installing chromium, which the tests start without a screen."
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null
