#!/usr/bin/env bash
# What a start costs and whether two starts are alike: starts with an empty cache, then three with what one has left.
# Prints a Markdown table, and fails if those three differ by more than 1 %, or any answer in one bit from the first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/bench_lib.sh

usage() {
  cat << 'END'
usage: tools/gpu_starts.sh [options]
  --xvla PATH      the program xvla [target/cuda/release/xvla, as made by make build CUDA=1]
  --python PATH    a Python with torch, transformers and numpy [python3]
  --work DIR       checkpoints, batches and results; checkpoints there are used again [build/bench]
  --backend K      [cuda_graph]
  --device D       [cuda]
  --dtype T        f16 or bf16 [f16]
  --steps N        denoising steps [10]
  --iters N        frames that count [200]
END
}

xvla=target/cuda/release/xvla backend=cuda_graph device=cuda dtype=f16 steps=10 iters=200
read_options "xvla python work backend device dtype steps iters" "" "$@"

prepare gpu_starts
synthesise "$dtype"
options=(--checkpoint "$work/base_$dtype" --backend "$backend" --device "$device" --dtype "$dtype" --steps "$steps")

# How long a start takes and how fast it is: START CACHE.
bench() {
  measure "$1" "$1" "$xvla" bench "${options[@]}" --engine-cache "$2" --calib "$work/calib_$dtype" --iters "$iters"
  [[ ! -e "$results/$1.missing" ]] || die "$1: $(last_line "$results/$1.log")"
}

# What a start answers: START CACHE.
answer() {
  "$xvla" infer "${options[@]}" --engine-cache "$2" --input "$work/calib_$dtype/calib_00000.npz" \
    --output "$results/$1.npz" >> "$results/$1.log" 2>&1 || die "$1: $(last_line "$results/$1.log")"
}

# The log tells what was read from the cache, and when each part of the start was done.
export RUST_LOG="${RUST_LOG:-debug}"
# Both of these begin with nothing. What the second leaves is what all others begin with.
bench cold "$results/other_cache"
answer cold "$results/cache"
for start in warm_1 warm_2 warm_3; do
  bench "$start" "$results/cache"
  answer "$start" "$results/cache"
done
"$python" tools/gpu_starts.py "$results"
