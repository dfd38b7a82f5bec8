#!/usr/bin/env bash
# onnx.sh PYTHON PARTIAL: the Python package onnx with what it imports, for PYTHONPATH.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/install/wheels.sh
source "$here/wheels.sh"

fetch_wheels "$1" "$here/../requirements-onnx.txt" "$2/site"
