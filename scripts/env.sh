# shellcheck shell=bash
# Source this file from bash or zsh, in any folder, to set up what a ROS 2 workspace's setup.bash would: rclpy, our
# messages, the programs on PATH, and what cargo needs to build them. Sourcing it again changes nothing.
#
# A ROS 2 that was sourced before is used instead of ours. So are a libtorch that LIBTORCH names, a CUDA toolkit that
# CUDA_HOME or CUDA_PATH names, and the folders of ONNX Runtime's and TensorRT's libraries in XVLA_ONNXRUNTIME_LIB and
# XVLA_TENSORRT_LIB. XVLA_CUDA=1 selects the environment of `make build CUDA=1`.

if [ -n "${BASH_VERSION:-}" ]; then
  _xvla_root="${BASH_SOURCE[0]}"
elif [ -n "${ZSH_VERSION:-}" ]; then
  eval '_xvla_root="${(%):-%x}"'
else
  echo "env.sh: source this file from bash or zsh" >&2
  # shellcheck disable=SC2317 # reached when the file is run rather than sourced
  return 1 2> /dev/null || exit 1
fi
_xvla_root="$(cd "$(dirname "$_xvla_root")/.." > /dev/null && pwd)"
# shellcheck source=scripts/common.sh
. "$_xvla_root/scripts/common.sh"

# _xvla_prepend NAME LIST: puts the elements of LIST first in the list variable NAME, and remembers them for removal.
_xvla_prepend() {
  eval "export $1=\"\$2\${$1:+:\$$1}\""
  _XVLA_ROS_ADDED="${_XVLA_ROS_ADDED:-}${_XVLA_ROS_ADDED:+:}$2"
}

_xvla_environment() {
  local folder programs=target/release remedy="make build"
  if [ "${XVLA_CUDA:-}" = 1 ]; then
    programs=target/cuda/release remedy="make build CUDA=1"
  fi
  for folder in "$_xvla_messages" "$_xvla_ros" "$_xvla_libtorch" "${_xvla_cuda_headers:-/}" \
    "${_xvla_onnxruntime:-/}" "${_xvla_tensorrt:-/}" "${_xvla_onnx:-/}" "${_xvla_rosbags:-/}"; do
    if [ ! -d "$folder" ]; then
      echo "env.sh: something is not installed yet; run \`$remedy\` (or scripts/setup.sh) in $_xvla_root first" >&2
      return 1
    fi
  done
  if [ "$_xvla_own_ros" = yes ]; then
    export ROS_DISTRO=jazzy ROS_VERSION=2 ROS_PYTHON_VERSION=3 RMW_IMPLEMENTATION=rmw_fastrtps_cpp
    # This keeps the wheels' start-up hook from running Python a second time.
    export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
    _xvla_prepend AMENT_PREFIX_PATH "$_xvla_ros"
    _xvla_prepend CMAKE_PREFIX_PATH "$_xvla_ros"
    _xvla_prepend LD_LIBRARY_PATH "$_xvla_ros/lib"
    _xvla_prepend PATH "$_xvla_ros/bin"
  fi
  _xvla_prepend AMENT_PREFIX_PATH "$_xvla_messages"
  _xvla_prepend CMAKE_PREFIX_PATH "$_xvla_messages"
  _xvla_prepend LD_LIBRARY_PATH "$_xvla_messages/lib"
  _xvla_prepend PYTHONPATH "$(cat "$_xvla_messages/python_path")"
  _xvla_prepend PATH "$_xvla_root/$programs"
  if [ "$_xvla_own_libtorch" = yes ]; then
    _xvla_prepend LIBTORCH "$_xvla_libtorch"
  fi
  if [ -z "${XVLA_CUDA_INCLUDE:-}" ] && [ -n "$_xvla_cuda_headers" ]; then
    _xvla_prepend XVLA_CUDA_INCLUDE "$_xvla_cuda_headers"
  fi
  if [ -z "${LIBCLANG_PATH:-}" ] && [ -n "$(_xvla_libclang)" ]; then
    _xvla_prepend LIBCLANG_PATH "$(_xvla_libclang)"
  fi
  if [ -n "$_xvla_onnxruntime" ]; then
    _xvla_prepend XVLA_ONNXRUNTIME_LIB "$_xvla_onnxruntime/lib"
  fi
  if [ -n "$_xvla_tensorrt" ]; then
    _xvla_prepend XVLA_TENSORRT_LIB "$_xvla_tensorrt/lib"
  fi
  if [ -n "$_xvla_onnx" ]; then
    _xvla_prepend XVLA_ONNX_PYTHONPATH "$_xvla_onnx/site"
    _xvla_prepend XVLA_ROSBAGS_PYTHONPATH "$_xvla_rosbags/site"
  fi
  # Without this profile more than half of the frames of a camera are lost between two processes.
  if [ -z "${FASTRTPS_DEFAULT_PROFILES_FILE:-}" ]; then
    _xvla_prepend FASTRTPS_DEFAULT_PROFILES_FILE "$_xvla_root/config/fastdds_shm.xml"
  fi
  export _XVLA_ROS_ADDED
}

_xvla_forget_all
_xvla_locate "$_xvla_root"
_xvla_environment
_xvla_status=$?

unset -f _xvla_forget _xvla_forget_all _xvla_hash _xvla_sourced_ros _xvla_locate _xvla_locate_libtorch \
  _xvla_locate_cuda_headers _xvla_locate_engines _xvla_libclang _xvla_prepend _xvla_environment
unset _xvla_root _xvla_cache _xvla_libtorch _xvla_own_libtorch _xvla_libtorch_part _xvla_cuda_headers _xvla_ros \
  _xvla_own_ros _xvla_messages _xvla_photos _xvla_onnxruntime _xvla_tensorrt _xvla_onnx _xvla_rosbags
# The last command sets the exit status of sourcing without leaving a variable behind.
eval "unset _xvla_status; [ $_xvla_status -eq 0 ]"
