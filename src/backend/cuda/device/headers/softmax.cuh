// The softmax of the attention kernels, included by each of them after the prelude. Exponents are powers of two, which
// the GPU has an instruction for: exp(x) = 2^(x·log₂ e).

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LOWEST = -3.4e38f;  // below any score, and finite: the difference of two is a number

// What turns a product of rows of `width` into an exponent of two: exp(x / √width) = 2^(x·exponent_scale).
__device__ __forceinline__ float exponent_scale(int width) { return rsqrtf(static_cast<float>(width)) * LOG2_E; }

// exp2 in one instruction, for exponents up to 0: tiny powers are flushed to zero.
__device__ __forceinline__ float power_of_two(float exponent) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
    return power;
}

// Over the four lanes that share a row of `mma`'s result.
__device__ __forceinline__ float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

__device__ __forceinline__ float quad_sum(float value) {
    value += __shfl_xor_sync(0xffffffffu, value, 1);
    value += __shfl_xor_sync(0xffffffffu, value, 2);
    return value;
}

// Softmax over keys that come in tiles (FlashAttention-2, Dao 2023).

// What one warp knows of its sixteen queries' softmax after some keys. Fragments as `mma` lays them out: VALUE_TILES of
// eight columns of the values; index 0 of `peak` and `sum` is row `group`, index 1 row group + 8.
template <int VALUE_TILES>
struct OnlineSoftmax {
    float mixed[VALUE_TILES][4];  // Σ weight·value
    float peak[2];                // the largest score, before scaling
    float sum[2];                 // Σ weight over this lane's keys alone
};

// Raises a row's peak to the largest of its new scores, in tiles of eight keys, and rescales what was summed before.
template <int VALUE_TILES, int KEY_TILES>
__device__ __forceinline__ void raise_peak(OnlineSoftmax<VALUE_TILES>& softmax, const float (&score)[KEY_TILES][4],
                                           int row, float scale) {
    float peak = softmax.peak[row];
#pragma unroll
    for (int tile = 0; tile < KEY_TILES; ++tile) {
        peak = fmaxf(peak, fmaxf(score[tile][2 * row], score[tile][2 * row + 1]));
    }
    peak = quad_max(peak);
    const float decay = power_of_two((softmax.peak[row] - peak) * scale);
    softmax.peak[row] = peak;
    softmax.sum[row] *= decay;
#pragma unroll
    for (int tile = 0; tile < VALUE_TILES; ++tile) {
        softmax.mixed[tile][2 * row] *= decay;
        softmax.mixed[tile][2 * row + 1] *= decay;
    }
}

// Turns a row's scores in one tile into weights exp(score - peak) and adds them to the sum.
template <int VALUE_TILES>
__device__ __forceinline__ void weigh(OnlineSoftmax<VALUE_TILES>& softmax, float score[4], int row, float scale) {
#pragma unroll
    for (int i = 2 * row; i < 2 * row + 2; ++i) {
        score[i] = power_of_two(fmaf(score[i], scale, -softmax.peak[row] * scale));
        softmax.sum[row] += score[i];
    }
}

// Softmax of rows that are complete, each shared by LANES neighbouring lanes.

template <int LANES>
__device__ __forceinline__ float row_max(float value) {
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset >>= 1) {
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
    }
    return value;
}

template <int LANES>
__device__ __forceinline__ float row_sum(float value) {
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset >>= 1) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

// A lane's COUNT exponents of two become weights that are not divided yet by their sum over the row, which is returned;
// `maximum` is the largest of the lane's.
template <int LANES, int COUNT>
__device__ __forceinline__ float weigh_row(float (&exponent)[COUNT], float maximum) {
    maximum = row_max<LANES>(maximum);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        exponent[i] = exp2f(exponent[i] - maximum);
        sum += exponent[i];
    }
    return row_sum<LANES>(sum);
}
