#!/usr/bin/env bash
# Measures X-VLA at its full size on one GPU: PyTorch eager and compiled, then every backend of xvla, one after the
# other, each in a process of its own, and writes one Markdown table. Nothing else should run on that GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/bench_lib.sh

usage() {
  cat << 'END'
usage: tools/gpu_bench.sh [options]
  --xvla PATH      the program xvla [target/cuda/release/xvla, as made by make build CUDA=1]
  --python PATH    a Python with torch, transformers and numpy [python3]
  --out F.md       the table [gpu_bench.md]
  --work DIR       checkpoints, batches and results; checkpoints there are used again [build/bench]
  --iters N        frames that count [200]
  --warmup N       frames before those [20]
  --skip-compile   leave out torch.compile
END
}

xvla=target/cuda/release/xvla out=gpu_bench.md iters=200 warmup=20 skip_compile=no
read_options "xvla python out work iters warmup" skip-compile "$@"

# PyTorch in one mode: MODE LABEL.
reference() {
  measure "reference_$1" "$2" "$python" tools/gpu_reference.py --modes "$1" --tokens "$TEXT_TOKENS" \
    --iters "$iters" --warmup "$warmup"
}

# A backend at one and at ten denoising steps: BACKEND DTYPE.
backend() {
  local steps
  for steps in 1 10; do
    measure "xvla_$1_$2_$steps" "xvla $1, $2" "$xvla" bench --checkpoint "$work/base_$2" --calib "$work/calib_$2" \
      --backend "$1" --device cuda --dtype "$2" --steps "$steps" --iters "$iters" --warmup "$warmup"
  done
}

# An engine, built before it is measured unless an earlier run did: DTYPE. On a GPU that TensorRT does not support, the
# table says so.
engine() {
  local steps before="$failures"
  for steps in 1 10; do
    measure "xvla_tensorrt_$1_$steps" "xvla tensorrt, $1" "$xvla" bench --checkpoint "$work/base_$1" \
      --calib "$work/calib_$1" --backend tensorrt --device cuda --dtype "$1" --steps "$steps" --iters "$iters" \
      --warmup "$warmup" --engine-cache "$work/engines" --rebuild-engine
  done
  failures="$before"
}

prepare gpu_results
synthesise f16
synthesise bf16
reference eager "PyTorch eager"
if [[ "$skip_compile" == no ]]; then
  reference compile torch.compile
else
  skip reference_compile torch.compile "left out by --skip-compile"
fi
backend libtorch f16
backend cuda_graph f16
backend cuda_graph bf16
engine f16
engine bf16
finish
