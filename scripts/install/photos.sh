#!/usr/bin/env bash
# photos.sh PYTHON PARTIAL: the photographs of scikit-image's data folder.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/install/wheels.sh
source "$here/wheels.sh"

python="$1" partial="$2"
fetch_wheels "$python" "$here/../requirements-photos.txt" "$partial/site"
find "$partial/site/skimage/data" -maxdepth 1 \( -name '*.png' -o -name '*.jpg' -o -name '*.txt' \) \
  -exec mv -t "$partial" {} +
rm -rf "$partial/site"
