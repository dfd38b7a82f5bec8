# shellcheck shell=bash
# Names the folders of everything that setup.sh installs. setup.sh and env.sh source this file, in bash and in zsh. So it
# holds only functions, uses only what both shells understand alike, and starts every name with _xvla_.

# _xvla_forget NAME: removes from the list variable NAME each element that an earlier env.sh added (_XVLA_ROS_ADDED).
_xvla_forget() {
  local rest kept="" element
  eval "rest=\"\${$1:-}:\""
  while [ -n "$rest" ]; do
    element="${rest%%:*}"
    rest="${rest#*:}"
    case ":${_XVLA_ROS_ADDED:-}:" in
      *":$element:"*) ;;
      *) kept="$kept${kept:+:}$element" ;;
    esac
  done
  if [ -n "$kept" ]; then eval "export $1=\"\$kept\""; else unset "$1"; fi
}

# Removes everything that an earlier env.sh added, so that only the person's own environment remains.
_xvla_forget_all() {
  local name
  for name in PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH LD_LIBRARY_PATH PYTHONPATH LIBTORCH XVLA_CUDA_INCLUDE \
    LIBCLANG_PATH XVLA_ONNXRUNTIME_LIB XVLA_TENSORRT_LIB XVLA_ONNX_PYTHONPATH XVLA_ROSBAGS_PYTHONPATH \
    FASTRTPS_DEFAULT_PROFILES_FILE; do
    _xvla_forget "$name"
  done
  unset _XVLA_ROS_ADDED
}

# Prints a short hash of the files given, comments and blank lines aside.
_xvla_hash() {
  cat -- "$@" | grep -v -e '^[[:space:]]*#' -e '^[[:space:]]*$' | sha256sum | cut -c 1-12
}

# Prints the prefix of a ROS 2 that the person has sourced, or nothing.
_xvla_sourced_ros() {
  local rest="${AMENT_PREFIX_PATH:-}${AMENT_PREFIX_PATH:+:}" element
  [ -n "${ROS_DISTRO:-}" ] || return 0
  while [ -n "$rest" ]; do
    element="${rest%%:*}"
    rest="${rest#*:}"
    if [ -d "$element/share/rosidl_default_generators" ]; then
      printf '%s\n' "$element"
      return 0
    fi
  done
}

# Sets, for the project in folder $1 (call _xvla_forget_all first; XVLA_CUDA=1 chooses the libtorch for NVIDIA GPUs):
#   _xvla_cache                         the folder that holds everything installed
#   _xvla_libtorch, _xvla_own_libtorch  LIBTORCH, and whether setup.sh installs it (yes or no)
#   _xvla_libtorch_part                 the folder that setup.sh installs libtorch into, or empty
#   _xvla_cuda_headers                  the folder of CUDA's headers, or empty where the person's own toolkit has them
#   _xvla_ros, _xvla_own_ros            the ROS 2 prefix, and whether setup.sh installs it (yes or no)
#   _xvla_messages, _xvla_photos        our messages; the demo's photographs
#   _xvla_onnxruntime, _xvla_tensorrt   the libraries that engines run in, or empty where the person names them
#                                       or no wheel is for this machine
#   _xvla_onnx, _xvla_rosbags           ONNX's checker and a writer of bags, or empty
_xvla_locate() {
  local scripts="$1/scripts" ros_key
  _xvla_cache="${XVLA_ROS_CACHE:-$HOME/.cache/xvla_ros}"
  _xvla_locate_libtorch "$scripts"
  _xvla_locate_cuda_headers "$scripts"
  _xvla_own_ros=no
  _xvla_ros="$(_xvla_sourced_ros)"
  ros_key="${ROS_DISTRO:-} $_xvla_ros"
  if [ -z "$_xvla_ros" ]; then
    _xvla_own_ros=yes
    _xvla_ros="$_xvla_cache/ros-$(_xvla_hash \
      "$scripts/requirements-ros-build.txt" "$scripts/requirements-ros.txt" "$scripts/install/ros.sh")"
    ros_key="$_xvla_ros"
  fi
  _xvla_messages="$_xvla_cache/messages-$(printf '%s\n' "$ros_key" | _xvla_hash - \
    "$1"/msg/*.msg "$1/CMakeLists.txt" "$1/package.xml" "$scripts/install/messages.sh")"
  _xvla_photos="$_xvla_cache/photos-$(_xvla_hash \
    "$scripts/requirements-photos.txt" "$scripts/install/photos.sh" "$scripts/install/wheels.sh")"
  _xvla_locate_engines "$scripts"
}

# Locates the engines' libraries, unless the person names their folders. Only ONNX Runtime has a wheel for aarch64 too.
_xvla_locate_engines() {
  _xvla_onnxruntime="" _xvla_tensorrt="" _xvla_onnx="" _xvla_rosbags=""
  case "$(uname -m)" in
    x86_64 | aarch64) ;;
    *) return 0 ;;
  esac
  if [ -z "${XVLA_ONNXRUNTIME_LIB:-}" ]; then
    _xvla_onnxruntime="$_xvla_cache/onnxruntime-$(_xvla_hash \
      "$1/requirements-onnxruntime.txt" "$1/install/library.sh" "$1/install/wheels.sh")"
  fi
  [ "$(uname -m)" = x86_64 ] || return 0
  if [ -z "${XVLA_TENSORRT_LIB:-}" ]; then
    _xvla_tensorrt="$_xvla_cache/tensorrt-$(_xvla_hash \
      "$1/requirements-tensorrt.txt" "$1/install/library.sh" "$1/install/wheels.sh")"
  fi
  # What only tests import is installed for the Python of our ROS 2.
  if [ "$_xvla_own_ros" = yes ]; then
    _xvla_onnx="$_xvla_cache/onnx-$(_xvla_hash "$1/requirements-onnx.txt" "$1/install/site.sh" "$1/install/wheels.sh")"
    _xvla_rosbags="$_xvla_cache/rosbags-$(_xvla_hash \
      "$1/requirements-rosbags.txt" "$1/install/site.sh" "$1/install/wheels.sh")"
  fi
}

_xvla_locate_libtorch() {
  _xvla_own_libtorch=no
  _xvla_libtorch="${LIBTORCH:-}"
  _xvla_libtorch_part=""
  [ -z "$_xvla_libtorch" ] || return 0
  _xvla_own_libtorch=yes
  if [ "${XVLA_CUDA:-}" = 1 ]; then
    _xvla_libtorch_part="$_xvla_cache/libtorch-cuda-$(_xvla_hash "$1/requirements-cuda-headers.txt" \
      "$1/requirements-libtorch-cuda.txt" "$1/install/libtorch_cuda.sh" "$1/install/wheels.sh")"
    _xvla_libtorch="$_xvla_libtorch_part/torch"
  else
    _xvla_libtorch_part="$_xvla_cache/libtorch-$(_xvla_hash \
      "$1/requirements-libtorch.txt" "$1/install/libtorch.sh" "$1/install/wheels.sh")"
    _xvla_libtorch="$_xvla_libtorch_part"
  fi
}

# Locates CUDA's headers. Our libtorch for GPUs comes with them, and their wheels are for x86_64 only.
_xvla_locate_cuda_headers() {
  _xvla_cuda_headers=""
  if [ -n "${CUDA_HOME:-}${CUDA_PATH:-}" ] || [ "$(uname -m)" != x86_64 ]; then
    return 0
  fi
  if [ "$_xvla_own_libtorch" = yes ] && [ "${XVLA_CUDA:-}" = 1 ]; then
    _xvla_cuda_headers="$_xvla_libtorch_part/nvidia/cu13/include"
  else
    _xvla_cuda_headers="$_xvla_cache/cuda-headers-$(_xvla_hash \
      "$1/requirements-cuda-headers.txt" "$1/install/cuda_headers.sh" "$1/install/wheels.sh")"
  fi
}

# Prints the folder of the newest libclang that bindgen understands (below 22), or nothing.
_xvla_libclang() {
  local folder
  if [ -n "${LIBCLANG_PATH:-}" ]; then
    printf '%s\n' "$LIBCLANG_PATH"
    return 0
  fi
  find /usr/lib -maxdepth 1 -name 'llvm-*' | sort -t - -k 2 -n -r | while read -r folder; do
    # A libclang without its own headers (stddef.h) cannot parse anything.
    if [ "${folder##*-}" -lt 22 ] && [ -n "$(find "$folder/lib" -maxdepth 1 -name 'libclang*.so*' \
      ! -name 'libclang-cpp*' 2> /dev/null)" ] && [ -d "$folder/lib/clang" ]; then
      printf '%s\n' "$folder/lib"
      break
    fi
  done
}
