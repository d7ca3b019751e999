#!/usr/bin/env bash
# Installs this project from a lock file: every dependency at its locked version, checked by hash.
# usage: [GPU=cuda|metal|cpu] install.sh PYTHON LOCK [FURTHER_PROJECT...]
# GPU is what llama.cpp is built for; without it, what it was built for in this environment before.
set -euo pipefail
python=$1 lock=$2
shift 2

built=$(dirname "$(dirname "$python")")/.llama # "GPU llama-cpp-python==VERSION HOW"
before=$(cat "$built" 2>/dev/null || echo cpu)
gpu=${GPU:-${before%% *}}
faster=$PWD/scripts/ggml/faster.cmake # llama.cpp's CPU part, on x86-64
flags="${CMAKE_ARGS:-} -DCMAKE_PROJECT_ggml_INCLUDE=$(printf %q "$faster")"
case $gpu in
  cpu) ;;
  cuda) flags+=" -DGGML_CUDA=on" ;;
  metal) flags+=" -DGGML_METAL=on" ;;
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

# pip knows a package by its version alone: it would keep a build of another kind that is installed
# or in its cache. So those for a CPU are cached by how they were built, those for a GPU not at all.
pinned=$(sed -n '/^llama-cpp-python==/,/[^\\]$/p' "$lock")
how=$(echo "${CMAKE_ARGS:-}" | cat - scripts/ggml/* | "$python" -c \
  "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])")
wanted="$gpu ${pinned%% *} $how"
if [[ $wanted != "$before" ]]; then
  echo "Building llama.cpp for: $gpu. For cuda that takes many minutes."
  cache=(--no-cache-dir)
  if [[ $gpu == cpu ]] && all=$("$python" -m pip cache dir 2>/dev/null); then
    cache=(--cache-dir "$all/seek-stronger-$how")
  fi
  CMAKE_ARGS=$flags "${install[@]}" "${cache[@]}" --require-hashes --no-build-isolation --no-deps \
    --force-reinstall -r <(echo "$pinned")
  echo "$wanted" >"$built"
fi
"${install[@]}" --require-hashes --no-build-isolation -r "$lock"
for project in . "$@"; do
  "${install[@]}" --no-deps --no-build-isolation -e "$project"
done
