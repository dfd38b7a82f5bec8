#!/usr/bin/env bash
# Runs xvla_node with cameras on a machine that has a GPU and PyTorch, and no ROS 2: packs the node with the part of ROS 2
# that it needs into one folder, and measures there.
set -euo pipefail
shopt -s nullglob
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=tools/options.sh
source "$here/options.sh"

usage() {
  cat << 'END'
usage: tools/gpu_node.sh pack FOLDER      makes FOLDER and FOLDER.tar.xz from the built programs
       FOLDER/gpu_node.sh run [options]   measures, on the machine to which FOLDER was taken
       FOLDER/gpu_node.sh smoke [options] one short run: does the node start, answer, stop
       FOLDER/gpu_node.sh soak [options]  one long run, three cameras at 30 Hz

pack: after `make build CUDA=1` and, in its environment (XVLA_CUDA=1; source scripts/env.sh),
  cargo build --release --locked --features ros,cuda --example gpu_driver
  CARGO_TARGET_DIR names the folder of the build [target/cuda].

run, smoke, soak:
  --site DIR         site-packages that hold torch and nvidia [python3's]
  --work DIR         checkpoint, caches and results; a checkpoint there is used again, results are not [gpu_node_work]
  --preset NAME      size of the random checkpoint: base or tiny [base]
  --backend NAME     [cuda_graph]
  --device NAME      [cuda]
  --dtype NAME       [f16]
  --cameras LIST     numbers of cameras, 2 or 3 [2 3]
  --rates LIST       rates of the cameras, Hz [30 60]
  --steps LIST       denoising steps [1 10]
  --preprocess LIST  where images are resized [host device]
  --seconds N        time that counts of each run [40; smoke 5, soak 300]
END
}

die() {
  echo "gpu_node: $1" >&2
  exit 1
}

# Copies programs and libraries into a folder, FOLDER/bin and FOLDER/lib, which find each other wherever it lies.
pack() {
  local folder="$1" root="$here/.." release prefix
  release="${CARGO_TARGET_DIR:-$root/target/cuda}/release"
  [[ -n "${AMENT_PREFIX_PATH:-}" ]] || die "AMENT_PREFIX_PATH is not set: run \`XVLA_CUDA=1; source scripts/env.sh\` first"
  command -v patchelf > /dev/null || die "patchelf is not installed"
  [[ ! -e "$folder" && ! -e "$folder.tar.xz" ]] || die "$folder or $folder.tar.xz exists already"
  mkdir -p "$folder/bin" "$folder/lib"
  local program programs=("$release/xvla" "$release/xvla_node" "$release/examples/gpu_driver")
  for program in "${programs[@]}"; do
    [[ -x "$program" ]] || die "$program is not built: see --help"
    strip -o "$folder/bin/${program##*/}" "$program"
    # Run paths of this machine hide what would be missing on the other.
    patchelf --force-rpath --set-rpath "\$ORIGIN/../lib" "$folder/bin/${program##*/}"
  done

  # What is opened by name at run time: the middleware, and each message's type supports. Then what all of it is linked to.
  local prefixes=() library wanted=()
  IFS=: read -ra prefixes <<< "$AMENT_PREFIX_PATH"
  for prefix in "${prefixes[@]}"; do
    wanted+=("$prefix"/lib/librmw_{implementation,fastrtps_cpp}.so)
    for package in $(message_packages "$root"); do
      wanted+=("$prefix/lib/lib${package}__rosidl_typesupport"_{c,cpp}.so
        "$prefix/lib/lib${package}__rosidl_typesupport_fastrtps"_{c,cpp}.so
        "$prefix/lib/lib${package}__rosidl_typesupport_introspection"_{c,cpp}.so)
    done
  done
  closure "${programs[@]}" "${wanted[@]}" > "$folder/libraries"
  for library in librmw_implementation librmw_fastrtps_cpp lib{sensor_msgs,xvla_ros}__rosidl_typesupport_fastrtps_c; do
    grep -q "/$library\.so" "$folder/libraries" || die "$library.so is in no prefix of AMENT_PREFIX_PATH"
  done
  while read -r library; do
    cp -L "$library" "$folder/lib/${library##*/}"
    strip --strip-unneeded "$folder/lib/${library##*/}"
    patchelf --force-rpath --set-rpath "\$ORIGIN" "$folder/lib/${library##*/}"
  done < "$folder/libraries"
  rm "$folder/libraries"

  cp "$here"/{gpu_node,options}.sh "$here/gpu_node.yaml" "$here"/{gpu_node_table,text_tokens}.py \
    "$root/config/fastdds_shm.xml" "$folder"
  git -C "$root" rev-parse --short HEAD > "$folder/revision" 2> /dev/null || echo unknown > "$folder/revision"
  tar -C "$(dirname "$folder")" -c "${folder##*/}" | xz -T0 -6 > "$folder.tar.xz"
  du -sh "$folder" "$folder.tar.xz"
}

# The packages of messages that the programs are built with: ROOT.
message_packages() {
  sed -n 's/^IDL_PACKAGE_FILTER = "\(.*\)"$/\1/p' "$1/.cargo/config.toml" | tr ';' '\n'
  echo rmw_dds_common
}

# Of the files, and everything that they are linked to, the libraries of ROS 2: FILE...
closure() {
  local file
  for file in "$@"; do
    [[ -e "$file" ]] || continue
    [[ "$file" != *.so ]] || echo "$file"
    ldd "$file" | awk '$3 ~ /^\// { print $3 }'
  done | while read -r file; do
    for prefix in "${prefixes[@]}"; do
      [[ "$file" != "$prefix"/* ]] || echo "$file"
    done
  done | sort -u
}

# Sets the environment of the programs: they find libtorch and NVIDIA's libraries in SITE.
enter() {
  if [[ -z "$site" ]]; then
    site="$(python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')/.." ||
      die "python3 has no torch: name the folder that holds torch and nvidia with --site"
  fi
  [[ -e "$site/torch/lib/libtorch_cpu.so" ]] || die "$site: no torch/lib/libtorch_cpu.so"
  local folder
  export LD_LIBRARY_PATH="$here/lib:$site/torch/lib"
  for folder in "$site"/nvidia/*/lib; do
    LD_LIBRARY_PATH+=":$folder"
  done
  mkdir -p "$work"
  work="$(cd "$work" && pwd)"
  export HOME="$work/home" ROS_LOG_DIR="$work/log" RMW_IMPLEMENTATION=rmw_fastrtps_cpp ROS_DISTRO=jazzy ROS_VERSION=2
  export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST FASTRTPS_DEFAULT_PROFILES_FILE="$here/fastdds_shm.xml"
  export ROS_DOMAIN_ID="${ROS_DOMAIN_ID:-73}"
  # What an earlier run has measured is not this one's.
  rm -rf "$work/results"
  mkdir -p "$HOME" "$ROS_LOG_DIR" "$work/results"
}

# A random checkpoint with a text of 64 tokens, unless an earlier run made it.
synthesise() {
  checkpoint="$work/${preset}_$dtype"
  [[ ! -d "$checkpoint" ]] || return 0
  rm -rf "$checkpoint.partial"
  "$here/bin/xvla" checkpoint synth --preset "$preset" --dtype "$dtype" --out "$checkpoint.partial" \
    > "$work/synth.log" 2>&1 || die "no checkpoint: $(tail -n 1 "$work/synth.log")"
  python3 "$here/text_tokens.py" --checkpoint "$checkpoint.partial" --tokens 64
  mv "$checkpoint.partial" "$checkpoint"
}

# Starts the node and measures it at every rate: CAMERAS STEPS PREPROCESS.
measure() {
  local names steps="$2" preprocess="$3" rate name log
  names="$(printf '%s\n' front left right | head -n "$1" | paste -sd ,)"
  name="${1}x_${steps}_$preprocess"
  log="$work/results/$name.log"
  "$here/bin/xvla_node" --ros-args --params-file "$here/gpu_node.yaml" -p "checkpoint:=$checkpoint" \
    -p "backend:=$backend" -p "device:=$device" -p "dtype:=$dtype" -p "steps:=$steps" -p "preprocess:=$preprocess" \
    -p "cameras:=[$names]" > "$log" 2>&1 &
  node=$!
  for rate in $rates; do
    echo "==> $1 cameras at $rate Hz, steps $steps, preprocess $preprocess" >&2
    "$here/bin/gpu_driver" --pid "$node" --cameras "$names" --rate-hz "$rate" --seconds "$seconds" \
      --json "$work/results/${name}_$rate.json" 2> "$work/results/${name}_$rate.driver.log" ||
      { tail -n 3 "$work/results/${name}_$rate.driver.log" "$log" >&2 && failures=$((failures + 1)); }
  done
  kill -INT "$node" 2> /dev/null || true
  # A node that does not stop is a failure that ends too.
  local status=0 waited
  for ((waited = 0; waited < 30; waited++)); do
    kill -0 "$node" 2> /dev/null || break
    sleep 1
  done
  kill -KILL "$node" 2> /dev/null && echo "the node had not stopped after 30 s" >> "$log"
  wait "$node" || status=$?
  node=""
  echo "$status" > "$work/results/$name.exit"
  ((status == 0)) || { tail -n 5 "$log" >&2 && failures=$((failures + 1)); }
}

clean_up() {
  [[ -z "$node" ]] || kill -INT "$node" 2> /dev/null || true
}

[[ "${1:-}" != --help && "${1:-}" != -h ]] || { usage && exit; }
verb="${1:-}"
shift || true
site="" work=gpu_node_work preset=base backend=cuda_graph device=cuda dtype=f16
cameras="2 3" rates="30 60" steps="1 10" preprocess="host device" seconds=40
case "$verb" in
  pack)
    (($# == 1)) || { usage >&2 && exit 2; }
    pack "${1%/}"
    exit
    ;;
  run) ;;
  smoke) cameras=2 rates=30 steps=10 preprocess=host seconds=5 ;;
  soak) cameras=3 rates=30 steps=10 preprocess=device seconds=300 ;;
  *) usage >&2 && exit 2 ;;
esac
read_options "site work preset backend device dtype cameras rates steps preprocess seconds" "" "$@"
[[ -x "$here/bin/xvla_node" ]] || die "$here is no packed folder: see --help"

node="" failures=0
trap clean_up EXIT
enter
synthesise
for number in $cameras; do
  for step in $steps; do
    for where in $preprocess; do
      measure "$number" "$step" "$where"
    done
  done
done
python3 "$here/gpu_node_table.py" "$work/results" --out "$work/results/gpu_node.md"
((failures == 0)) || die "$failures runs failed; logs are in $work/results"
