#!/usr/bin/env bash
# Builds the engine for CUDA in an environment of its own, checks that a GPU computes what the CPU
# does, and prints tokens/s. Needs an NVIDIA GPU, its driver, the CUDA toolkit and a C++ compiler.
# usage: benchmarks/gpu.sh [arguments of benchmarks/gpu.py...]
set -euo pipefail
cd "$(dirname "$0")/.."

for need in nvidia-smi:"the NVIDIA driver" nvcc:"the CUDA toolkit"; do
  if ! command -v "${need%%:*}" >/dev/null; then
    echo "error: ${need%%:*} is not here: install ${need#*:}, or add its folder to PATH" >&2
    exit 1
  fi
done
nvidia-smi --query-gpu=name,driver_version,memory.total,memory.free --format=csv

venv=.venv-gpu
python=$venv/bin/python
test -x "$python" || "${PYTHON:-python3}" -m venv "$venv"
GPU=cuda scripts/install.sh "$python" requirements-test.lock clients/python
"$python" - <<'CHECK'
import sys

from router.engine.llama import devices, supports_offload
from router.engine.offload import list_devices

if not supports_offload() or not devices():
    sys.exit("error: llama.cpp was built, but it sees no GPU")
print("llama.cpp sees", list_devices(devices()))
CHECK

failed=0

echo "== The engine's tests on the CPU, with this build: all must pass"
CUDA_VISIBLE_DEVICES='' "$python" -m pytest -q tests/router/engine || failed=1

# With a GPU in sight the engine offloads all layers. Tests that want the same bits from different
# batches may fail there; whether answers are right is judged below, within limits.
echo "== The engine's tests with offload: those that compare bits may fail"
"$python" -m pytest -q tests/router/engine || echo "(see above; this does not count as a failure)"

echo "== Offload against the CPU, and tokens/s"
"$python" -m benchmarks.gpu "$@" || failed=1

exit "$failed"
