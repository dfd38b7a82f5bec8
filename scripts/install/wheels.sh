# shellcheck shell=bash
# Fetching wheels without installing them; sourced by the recipes beside it.

# fetch_wheels PYTHON REQUIREMENTS TARGET: unpacks the pinned wheels for CPython 3.11 on x86_64 into TARGET, whatever
# the version of PYTHON. A throw-away venv supplies pip, since a distribution's Python often has none.
fetch_wheels() {
  local python="$1" requirements="$2" target="$3"
  local platforms=(--platform manylinux2014_x86_64) minor
  for minor in {17..28}; do
    platforms+=(--platform "manylinux_2_${minor}_x86_64")
  done
  "$python" -m venv "$target.pip"
  "$target.pip/bin/python3" -m pip install --quiet --disable-pip-version-check --no-input --no-cache-dir --no-deps \
    --no-compile --require-hashes --only-binary :all: --implementation cp --python-version 3.11 --abi cp311 \
    --abi abi3 --abi none "${platforms[@]}" --target "$target" --requirement "$requirements"
  rm -rf "$target.pip"
}
