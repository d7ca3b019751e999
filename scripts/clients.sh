#!/usr/bin/env bash
# Drives the gateway with clients that others wrote and that are too heavy for `make test`: litellm
# and langchain-openai, each in an environment of its own, with no keys in it. A line a check. Needs
# `make test`'s environment (or PYTHON, one that has the gateway) and the package registry.
set -euo pipefail
cd "$(dirname "$0")/.."
# Never litellm 1.82.7, 1.82.8 or 1.107.0: these releases stole credentials.
LITELLM="litellm==1.80.0"
LANGCHAIN="langchain-openai>=1,<2"
PYTHON=${PYTHON:-.venv/bin/python}
HOME_OF_CLIENTS=${HOME_OF_CLIENTS:-.venv-clients}

scratch=$(mktemp -d)
started=()
cleanup() {
  [ ${#started[@]} -eq 0 ] || kill "${started[@]}" 2>/dev/null || true
  rm -rf "$scratch"
}
trap cleanup EXIT

url_in() { # LOG PID: the address that a server prints once it is there
  for _ in $(seq 600); do
    grep -oE 'http://127\.0\.0\.1:[0-9]+' "$1" | tail -1 | grep . && return
    kill -0 "$2" || break
    sleep 0.1
  done
  cat "$1" >&2
  return 1
}

"$PYTHON" scripts/clients_upstream.py >"$scratch/upstream" &
started+=($!)
upstream=$(url_in "$scratch/upstream" $!)

# The embedded model was not trained to call tools, so it is told how.
"$PYTHON" -c "from tests.tool_template import SOURCE; print(SOURCE)" >"$scratch/template"
"$PYTHON" -m router serve --port 0 --context 1024 --ledger off --upstream "$upstream/v1" \
  --local-tools on --chat-template "$scratch/template" >"$scratch/log" 2>&1 &
started+=($!)
url=$(url_in "$scratch/log" $!)

failed=0
drive() { # NAME PACKAGE
  local env="$HOME_OF_CLIENTS/$1"
  [ -x "$env/bin/python" ] || "$PYTHON" -m venv "$env"
  "$env/bin/python" -m pip install -qq --disable-pip-version-check "$2"
  env -i PATH="$PATH" HOME="$scratch" PYTHONWARNINGS=ignore \
    "$env/bin/python" "scripts/clients_$1.py" "$url/v1" || failed=1
}
drive litellm "$LITELLM"
drive langchain "$LANGCHAIN"
exit $failed
