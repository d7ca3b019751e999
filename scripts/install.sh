#!/usr/bin/env bash
# Installs this project from a lock file: every dependency at its locked version, checked by hash.
# usage: install.sh PYTHON LOCK [FURTHER_PROJECT...]
set -euo pipefail
python=$1 lock=$2
shift 2

if ! command -v cc >/dev/null && ! command -v gcc >/dev/null && ! command -v clang >/dev/null; then
  echo "error: llama.cpp is compiled on this machine and needs a C++ compiler;" >&2
  echo "       install one (Debian: apt-get install build-essential) and run this again" >&2
  exit 1
fi
echo "Installing from $lock. The first time, llama.cpp is compiled: some minutes."
install=("$python" -m pip install --quiet --disable-pip-version-check)
"${install[@]}" --require-hashes -r build-requirements.lock
"${install[@]}" --require-hashes --no-build-isolation -r "$lock"
for project in . "$@"; do
  "${install[@]}" --no-deps --no-build-isolation -e "$project"
done
