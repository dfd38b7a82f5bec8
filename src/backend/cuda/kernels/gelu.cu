// The exact GELU in place: x·Φ(x) = x/2·(1 + erf(x / √2)) (Hendrycks and Gimpel 2016). For where the tanh approximation
// that a GEMM can apply on its way out is not what the checkpoint was trained with.
//
//   values [count], count a multiple of 8
//
// Grid ⌈count / (8·256)⌉, block 256 threads, no dynamic shared memory. No macros.

__device__ __forceinline__ float gelu_of(float x) {
    constexpr float sqrt_half = 0.70710678118654752f;
    return 0.5f * x * (1.0f + erff(x * sqrt_half));
}

extern "C" __global__ void __launch_bounds__(256) gelu(scalar* __restrict__ values, long long count) {
    wait_for_predecessor();
    const long long first = 8 * (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x);
    if (first >= count) return;
    float eight[8];
    unpack(load_eight(values + first), eight);
#pragma unroll
    for (int i = 0; i < 8; ++i) eight[i] = gelu_of(eight[i]);
    store_eight(values + first, pack(eight));
}
