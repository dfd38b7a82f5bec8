#!/usr/bin/env bash
# Moves the line tables of the built programs into PROGRAM.debug beside them, where backtraces and debuggers find them.
# A program then has 16 MB instead of 175 MB.
#
# usage: scripts/strip.sh FOLDER
set -euo pipefail

folder="${1:?usage: scripts/strip.sh FOLDER}"
if ! command -v objcopy > /dev/null; then
  echo "strip: objcopy is not installed (Debian: binutils); the programs keep their line tables" >&2
  exit 0
fi
cd "$folder"
for program in xvla xvla_node; do
  [[ -f "$program" ]] || continue
  # The program is a hard link to cargo's own file. Only the link is replaced, so cargo's file keeps its line tables.
  objcopy --only-keep-debug "$program" "$program.debug.partial"
  mv "$program.debug.partial" "$program.debug"
  objcopy --strip-debug --remove-section=.gnu_debuglink --add-gnu-debuglink="$program.debug" "$program" "$program.partial"
  mv "$program.partial" "$program"
done
