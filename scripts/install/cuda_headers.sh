#!/usr/bin/env bash
# cuda_headers.sh PYTHON PARTIAL: the folder of CUDA's headers.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/install/wheels.sh
source "$here/wheels.sh"

python="$1" partial="$2"
fetch_wheels "$python" "$here/../requirements-cuda-headers.txt" "$partial/site"
mv "$partial/site/nvidia/cu13/include"/* "$partial/"
mkdir "$partial/licenses"
mv "$partial/site"/nvidia_cuda_runtime-*.dist-info/licenses/* "$partial/licenses/"
rm -rf "$partial/site"
