#!/usr/bin/env bash
# Installs this project from a lock file: every dependency at its locked version, checked by hash.
# usage: [GPU=cuda|metal|cpu] install.sh PYTHON LOCK [FURTHER_PROJECT...]
# GPU is what llama.cpp is built for; without it, what it was built for in this environment before.
set -euo pipefail
python=$1 lock=$2
shift 2

built=$(dirname "$(dirname "$python")")/.gpu # "cuda llama-cpp-python==VERSION"; none: for the CPU
before=$(cat "$built" 2>/dev/null || echo cpu)
gpu=${GPU:-${before%% *}}
case $gpu in
  cpu) flags="" ;;
  cuda) flags="-DGGML_CUDA=on" ;;
  metal) flags="-DGGML_METAL=on" ;;
  *)
    echo "error: GPU=$gpu is none that is known here; there are cuda (NVIDIA), metal (Apple), cpu" >&2
    exit 1
    ;;
esac
if [[ $gpu == cuda ]] && ! command -v nvcc >/dev/null; then
  echo "error: GPU=cuda needs the CUDA toolkit: nvcc is not in PATH" >&2
  exit 1
fi

if ! command -v cc >/dev/null && ! command -v gcc >/dev/null && ! command -v clang >/dev/null; then
  echo "error: llama.cpp is compiled on this machine and needs a C++ compiler;" >&2
  echo "       install one (Debian: apt-get install build-essential) and run this again" >&2
  exit 1
fi
echo "Installing from $lock. The first time, llama.cpp is compiled: some minutes."
install=("$python" -m pip install --quiet --disable-pip-version-check)
"${install[@]}" --require-hashes -r build-requirements.lock

# pip knows a package by its version alone: it would keep a build for something else that is
# installed or in its cache.
pinned=$(sed -n '/^llama-cpp-python==/,/[^\\]$/p' "$lock")
wanted=$gpu
[[ $gpu == cpu ]] || wanted+=" ${pinned%% *}"
if [[ $wanted != "$before" ]]; then
  echo "Building llama.cpp for: $gpu. For cuda that takes many minutes."
  CMAKE_ARGS="${CMAKE_ARGS:-} $flags" "${install[@]}" --require-hashes --no-build-isolation \
    --no-deps --no-cache-dir --force-reinstall -r <(echo "$pinned")
  echo "$wanted" >"$built"
fi
"${install[@]}" --require-hashes --no-build-isolation -r "$lock"
for project in . "$@"; do
  "${install[@]}" --no-deps --no-build-isolation -e "$project"
done
