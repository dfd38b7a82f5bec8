#!/usr/bin/env bash
# Runs every test that needs a GPU on this machine's GPU, one program after the other and the node last, and prints a line
# for each: pass, skip with the reason, or fail with the tests that failed. Ends with 1 if any failed, and with 77 if all
# were skipped. Programs that were built elsewhere need only this checkout and a Python with PyTorch for CUDA 13.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/options.sh

usage() {
  cat << 'END'
usage: tools/gpu_tests.sh [options]
  --programs DIR   test programs that --build has made, here or on another machine [build them]
  --build DIR      build the test programs into DIR, without line tables, pack the node into DIR/node, and run nothing
  --features LIST  what they are built with [ros,cuda,onnxruntime,tensorrt, as by make build CUDA=1]
  --python PATH    a Python with torch, cupy and numpy [python3]
  --logs DIR       what each program printed [build/gpu_tests]
  --only REGEX     run only the programs whose name matches
  --limit SECONDS  how long one program may take [300]
END
}

programs='' build='' torch='' features=ros,cuda,onnxruntime,tensorrt python=python3 logs=build/gpu_tests only=. limit=300
read_options "programs build features python logs only limit" "" "$@"

# In the order in which they run. The last one leaves the GPU's context unusable, but only in its own process.
readonly PROGRAMS=(gpu_goldens gpu_kernel_builds gpu_kernel_cache gpu_fp8 gpu_sparse24 gpu_tensorrt gpu_backend gpu_failure)

# The commit of this checkout, and whether anything differs from it.
describe_commit() {
  git describe --always --dirty 2> /dev/null || echo unknown
}

# Builds the test programs into a folder, named as cargo names the tests: DIR.
build_into() {
  local built name
  mkdir -p "$1"
  describe_commit > "$1/commit"
  export XVLA_CUDA=1
  # shellcheck source=/dev/null
  source scripts/env.sh
  export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target/cuda}"
  # A test whose features are left out cannot be named.
  local names=("${PROGRAMS[@]}")
  [[ ",$features," == *,tensorrt,* ]] || mapfile -t names < <(printf '%s\n' "${PROGRAMS[@]}" | grep -v tensorrt)
  cargo test --release --locked --features "$features" --no-run "${names[@]/#/--test=}" 2>&1 | tee "$1/build.log" >&2
  for name in "${names[@]}"; do
    built="$(sed -n "s|.*Executable tests/$name.rs (\(.*\))|\1|p" "$1/build.log")"
    objcopy --strip-debug "$built" "$1/$name"
  done
  cargo build --release --locked --features "$features" --bins --example gpu_driver >&2
  rm -rf "$1/node" "$1/node.tar.xz"
  tools/gpu_node.sh pack "$1/node" >&2
}

if [[ -n "$build" ]]; then
  build_into "$build"
  exit
fi

mkdir -p "$logs"
logs="$(realpath "$logs")"
if [[ -z "$programs" ]]; then
  programs="$logs/programs"
  build_into "$programs"
else
  # The programs were linked to the libraries of the machine that built them.
  torch="$("$python" -c 'import torch, os; print(os.path.dirname(torch.__file__))')" || {
    echo "gpu_tests: $python cannot import torch, whose libraries the programs need: name one with --python" >&2
    exit 2
  }
  LD_LIBRARY_PATH="$torch/lib:$(printf '%s:' "$torch"/../nvidia/*/lib)${LD_LIBRARY_PATH:-}"
  export LD_LIBRARY_PATH
fi
# Where the programs find the fixtures.
export CARGO_MANIFEST_DIR="$PWD"

passed=0 skipped=0 failed=0

# One line of the result, and the count: RESULT NAME DETAIL.
report() {
  printf '%-4s  %-26s %s\n' "$1" "$2" "$3"
  case "$1" in
    pass) passed=$((passed + 1)) ;;
    skip) skipped=$((skipped + 1)) ;;
    *) failed=$((failed + 1)) ;;
  esac
}

# Runs a command and reports how it went; libtest's programs and unittest say in the log why they skip: NAME COMMAND...
check() {
  local name="$1" log="$logs/$1.log" began="$SECONDS" status=0 took reasons
  shift
  timeout --kill-after=10 "$limit" "$@" > "$log" 2>&1 || status=$?
  took="$((SECONDS - began)) s"
  reasons="$(sed -nE "s/.*: skipped: (.*)/\1/p; s/.* skipped ['\"](.*)['\"]$/\1/p; s/^skipped: (.*)/\1/p" "$log")"
  if ((status == 124 || status == 137)); then
    report FAIL "$name" "not done after $limit s; see $log"
  elif ((status != 0)); then
    report FAIL "$name" "$(failures "$log") ($took; see $log)"
  elif [[ -n "$reasons" ]]; then
    report skip "$name" "$(wc -l <<< "$reasons") of $(count "$log"): ${reasons%%$'\n'*} ($took)"
  else
    report pass "$name" "$(count "$log") ($took)"
  fi
}

# The tests that failed, or else the last line: LOG.
failures() {
  local names
  names="$(sed -nE 's/^test (.*) \.\.\. FAILED$/\1/p; s/^(FAIL|ERROR): (.*) \(.*/\2/p' "$1" | sort -u | paste -sd ' ')"
  printf '%s' "${names:-$(grep -v '^[[:space:]]*$' "$1" | tail -n 1)}"
}

# How many tests there were, or else the last line: LOG.
count() {
  local tests
  tests="$(sed -nE 's/^test result: ok\. ([0-9]+) passed.*/\1/p; s/^Ran ([0-9]+) tests? in.*/\1/p' "$1" | paste -sd +)"
  if [[ -n "$tests" ]]; then echo "$((tests)) tests"; else grep -v '^[[:space:]]*$' "$1" | tail -n 1; fi
}

card="$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2> /dev/null | head -n 1)" || true
echo "GPU: ${card:-none}"
echo "date: $(date --utc +%F), programs of commit $(cat "$programs/commit" 2> /dev/null || echo unknown)"

for test in tests/gpu/test_*.py; do
  name="$(basename "$test" .py)"
  [[ "$name" =~ $only ]] || continue
  check "$name" "$python" -m unittest discover --verbose --start-directory tests/gpu --pattern "$name.py"
done
for name in "${PROGRAMS[@]}"; do
  [[ "$name" =~ $only ]] || continue
  if [[ -x "$programs/$name" ]]; then
    check "$name" "$programs/$name" --nocapture
  elif [[ "$name" == gpu_tensorrt && ",$features," != *,tensorrt,* ]]; then
    report skip "$name" "built without the feature tensorrt"
  else
    report FAIL "$name" "not among the programs in $programs"
  fi
done

if [[ "node" =~ $only ]]; then
  if [[ -x "$programs/node/gpu_node.sh" ]]; then
    # It answers cameras for some seconds, and stops when it is asked to.
    check node "$programs/node/gpu_node.sh" smoke --work "$logs/node_work" ${torch:+--site "$torch/.."}
  else
    report FAIL node "not packed in $programs/node"
  fi
fi

echo "$passed passed, $skipped skipped, $failed failed in $SECONDS s"
((passed + skipped + failed > 0)) || {
  echo "gpu_tests: --only $only names no test" >&2
  exit 2
}
((failed == 0)) || exit 1
((passed > 0)) || {
  echo 'gpu_tests: nothing was tested; the lines above say why' >&2
  exit 77
}
