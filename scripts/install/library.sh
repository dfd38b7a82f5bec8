#!/usr/bin/env bash
# library.sh REQUIREMENTS LIBRARY... PYTHON PARTIAL FINAL: the shared libraries of a wheel whose names begin with one of
# LIBRARY, in PARTIAL/lib under their names for the loader (libx.so.1), with the wheel's licences.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/install/wheels.sh
source "$here/wheels.sh"

requirements="$1"
names=("${@:2:$#-4}")
python="${*: -3:1}" partial="${*: -2:1}"
if [[ "$(uname -m)" == aarch64 ]]; then
  # fetch_wheels names the platforms of x86_64; pip puts those of its environment first, so it prefers them.
  export PIP_PLATFORM="manylinux_2_28_aarch64 manylinux_2_27_aarch64"
fi
fetch_wheels "$python" "$here/../$requirements" "$partial/site"
mkdir "$partial/lib" "$partial/licenses"
for name in "${names[@]}"; do
  find "$partial/site" -name "$name*.so*" -exec mv -t "$partial/lib" {} +
done
# Wheels hold no links: one named by its whole version gets the name that the loader asks for.
for library in "$partial"/lib/*.so.*.*.*; do
  [[ -e "$library" ]] || continue
  file="$(basename "$library")"
  ln -s "$file" "$partial/lib/$(sed -E 's/(\.so\.[0-9]+)\..*/\1/' <<< "$file")"
done
find "$partial/site" -type f \( -iname 'LICENSE*' -o -iname 'ThirdParty*' \) -exec mv -t "$partial/licenses" {} +
rm -rf "$partial/site"
