#!/usr/bin/env bash
# libtorch_cuda.sh PYTHON PARTIAL: the torch wheel and NVIDIA's, laid out as in a site-packages folder, where torch's
# libraries find NVIDIA's by their own run paths; without what only Python needs. PARTIAL/torch is a libtorch folder.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/install/wheels.sh
source "$here/wheels.sh"

python="$1" partial="$2"
requirements="$here/../requirements-libtorch-cuda.txt"
fetch_wheels "$python" "$requirements" "$partial"

find "$partial" -mindepth 1 -maxdepth 1 ! -name torch ! -name nvidia ! -name '*.dist-info' -exec rm -rf {} +
find "$partial/torch" "$partial/nvidia"/* -mindepth 1 -maxdepth 1 ! -name include ! -name lib ! -name share \
  -exec rm -rf {} +
find "$partial/nvidia" -name '*.a' -delete
rm "$partial/torch/lib/libtorch_python.so"
sed -n 's/^torch==\([0-9.]*\).*/\1/p' "$requirements" > "$partial/torch/build-version"
