#!/usr/bin/env bash
# site.sh REQUIREMENTS PYTHON PARTIAL: Python packages with what they import, for PYTHONPATH.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/install/wheels.sh
source "$here/wheels.sh"

fetch_wheels "$2" "$here/../$1" "$3/site"
