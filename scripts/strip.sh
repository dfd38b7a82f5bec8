#!/usr/bin/env bash
# Takes the line tables out of the built programs and puts them beside, where backtraces and debuggers find them: a program
# of 14 MB and PROGRAM.debug instead of one of 175 MB.
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
  # Cargo links the program to a file of its own, which stays whole: the link is replaced, not the file.
  objcopy --only-keep-debug "$program" "$program.debug.partial"
  mv "$program.debug.partial" "$program.debug"
  objcopy --strip-debug --remove-section=.gnu_debuglink --add-gnu-debuglink="$program.debug" "$program" "$program.partial"
  mv "$program.partial" "$program"
done
