#!/usr/bin/env bash
# libtorch.sh PYTHON PARTIAL: the part of the torch wheel that a CPU build of tch needs, laid out as a libtorch folder
# (include, lib, build-version).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/install/wheels.sh
source "$here/wheels.sh"

python="$1" partial="$2"
requirements="$here/../requirements-libtorch.txt"
fetch_wheels "$python" "$requirements" "$partial/site"

mv "$partial/site/torch/include" "$partial/include"
mkdir "$partial/lib"
for library in libc10.so libgomp.so.1 libtorch.so libtorch_cpu.so libtorch_global_deps.so; do
  mv "$partial/site/torch/lib/$library" "$partial/lib/"
done
# libtorch_cpu.so of the CUDA wheel needs these two even where there is no GPU.
for library in libcudart.so.13 libcupti.so.13; do
  mv "$partial/site/nvidia/cu13/lib/$library" "$partial/lib/"
done
mv "$partial/site"/torch-*.dist-info/licenses "$partial/licenses" 2>/dev/null ||
  mv "$partial/site"/torch-*.dist-info/LICENSE "$partial/LICENSE"
sed -n 's/^torch==\([0-9.]*\).*/\1/p' "$requirements" > "$partial/build-version"
rm -rf "$partial/site"
