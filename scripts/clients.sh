#!/usr/bin/env bash
# Drives the gateway with clients that others wrote and that are too heavy for `make test`: litellm
# and langchain-openai, each in an environment of its own, with no keys in it. Needs `make serve`'s
# environment (or PYTHON, one that has the gateway) and the package registry.
set -euo pipefail
cd "$(dirname "$0")/.."
# Never litellm 1.82.7, 1.82.8 or 1.107.0: these releases stole credentials.
LITELLM="litellm==1.80.0"
LANGCHAIN="langchain-openai>=1,<2"
PYTHON=${PYTHON:-.venv/bin/python}
HOME_OF_CLIENTS=${HOME_OF_CLIENTS:-.venv-clients}

scratch=$(mktemp -d)
server=
cleanup() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  rm -rf "$scratch"
}
trap cleanup EXIT

"$PYTHON" -m router serve --port 0 --context 512 >"$scratch/log" 2>&1 &
server=$!
url=
for _ in $(seq 600); do
  url=$(grep -oE 'http://127\.0\.0\.1:[0-9]+' "$scratch/log" | tail -1 || true)
  if [ -n "$url" ] && "$PYTHON" -c "import sys, urllib.request; urllib.request.urlopen(sys.argv[1])" \
    "$url/readyz" 2>/dev/null; then
    break
  fi
  kill -0 "$server" || { cat "$scratch/log" >&2; exit 1; }
  sleep 0.1
done

drive() { # NAME PACKAGE
  local env="$HOME_OF_CLIENTS/$1"
  [ -x "$env/bin/python" ] || "$PYTHON" -m venv "$env"
  "$env/bin/python" -m pip install --quiet "$2"
  env -i PATH="$PATH" HOME="$scratch" "$env/bin/python" "scripts/clients_$1.py" "$url/v1"
}
drive litellm "$LITELLM"
drive langchain "$LANGCHAIN"
