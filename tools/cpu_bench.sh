#!/usr/bin/env bash
# Measures X-VLA at its full size on the CPU, f32, one denoising step: PyTorch eager, then xvla's libtorch backend, with
# the same number of threads, and writes one Markdown table.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/bench_lib.sh

usage() {
  cat << 'END'
usage: tools/cpu_bench.sh [options]
  --xvla PATH      the program xvla [target/release/xvla]
  --python PATH    a Python with torch, transformers and numpy [python3]
  --out F.md       the table [cpu_bench.md]
  --work DIR       checkpoint, batches and results; a checkpoint there is used again [build/bench]
  --iters N        frames that count [8]
  --warmup N       frames before those [2]
  --threads N      threads of both [all cores]
END
}

out=cpu_bench.md iters=8 warmup=2 threads="$(nproc)"
read_options "xvla python out work iters warmup threads" "" "$@"

# Both obey these. The second is what xvla sets for itself; unequal spinning would be an unequal comparison.
export OMP_NUM_THREADS="$threads" GOMP_SPINCOUNT=10000

prepare cpu_results
synthesise f32
measure reference_eager "PyTorch eager" "$python" tools/gpu_reference.py --device cpu --dtype float32 --modes eager \
  --steps 1 --tokens "$TEXT_TOKENS" --iters "$iters" --warmup "$warmup"
measure xvla_libtorch_f32_1 "xvla libtorch, f32" "$xvla" bench --checkpoint "$work/base_f32" --calib "$work/calib_f32" \
  --backend libtorch --device cpu --dtype f32 --steps 1 --iters "$iters" --warmup "$warmup"
finish
