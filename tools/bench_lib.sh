# shellcheck shell=bash
# What gpu_bench.sh, cpu_bench.sh and gpu_starts.sh share. Sourced in the root of the project.

source tools/options.sh

readonly TEXT_TOKENS=64
# Options of both, with their defaults.
xvla=target/release/xvla
python=python3
work=build/bench

# Ends with one line on stderr.
die() {
  echo "${0##*/}: $1" >&2
  exit 1
}

# Finds both programs and makes an empty folder of results: NAME.
prepare() {
  results="$work/$1"
  mkdir -p "$work"
  command -v "$xvla" > /dev/null || die "$xvla: not found: run make build, or name the program with --xvla"
  "$python" -c 'import numpy, torch, transformers' 2> "$work/python.log" ||
    die "$python cannot import numpy, torch and transformers ($(last_line "$work/python.log")): name one with --python"
  rm -rf "$results"
  mkdir -p "$results"
}

# Makes a full-size checkpoint with its batches, unless an earlier run did and came to its end: DTYPE.
synthesise() {
  local checkpoint="$work/base_$1" calib="$work/calib_$1"
  [[ -f "$checkpoint.whole" ]] && return
  echo "==> synthesising $checkpoint" >&2
  rm -rf "$checkpoint" "$calib"
  "$xvla" checkpoint synth --preset base --dtype "$1" --out "$checkpoint" --calib "$calib" \
    --domain 3 >&2
  "$python" tools/text_tokens.py --checkpoint "$checkpoint" --calib "$calib" --tokens "$TEXT_TOKENS"
  touch "$checkpoint.whole"
}

# Rows that are missing because their command failed.
failures=0

# Runs a command that takes --json, and keeps what it wrote or why it failed: NAME LABEL COMMAND...
measure() {
  local name="$1" label="$2"
  shift 2
  echo "==> $label: $*" >&2
  echo "$*" >> "$results/commands.txt"
  if ! "$@" --json "$results/$name.json" > "$results/$name.log" 2>&1; then
    echo "    failed: $(last_line "$results/$name.log")" >&2
    skip "$name" "$label" "$(last_line "$results/$name.log")"
    failures=$((failures + 1))
  fi
}

# Writes the table, and ends with 1 if rows are missing from it that should be there.
finish() {
  "$python" tools/gpu_table.py "$results" --out "$out"
  ((failures == 0)) || die "$failures of the commands failed; the table says which and why"
}

# Notes why a row of the table is missing: NAME LABEL REASON.
skip() {
  printf '%s\n%s\n' "$2" "$3" > "$results/$1.missing"
}

last_line() {
  grep -v '^[[:space:]]*$' "$1" | tail -n 1
}
