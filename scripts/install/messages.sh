#!/usr/bin/env bash
# messages.sh PARTIAL FINAL: msg/ built by rosidl against the ROS 2 of this environment, into a prefix to be overlaid on it.
set -euo pipefail
project="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

partial="$1" final="$2"
build="$partial/build"
arguments=(-S "$project" -B "$build" -DXVLA_MESSAGES_ONLY=ON -DCMAKE_BUILD_TYPE=Release "-DCMAKE_INSTALL_PREFIX=$final")
if [[ -n "${XVLA_PYTHON:-}" ]]; then
  arguments+=("-DPython3_EXECUTABLE=$XVLA_PYTHON")
fi
cmake "${arguments[@]}"
cmake --build "$build" --parallel "$(nproc)"
# Configured for its final place, installed beside it: an interrupted install never looks finished.
DESTDIR="$partial/root" cmake --install "$build"
mv "$partial/root$final"/* "$partial/"
rm -rf "$partial/root" "$build"
find "$partial" -type d \( -name site-packages -o -name dist-packages \) -printf "$final/%P\n" > "$partial/python_path"
