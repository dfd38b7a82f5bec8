// What turns noisy actions into tokens of the policy, and tokens back into actions. Both linear maps are those of one
// domain, taken out of the checkpoint's tables at load time.
//
// encode_actions, T rows: x = visible·(noise·t + previous·(1-t)), or visible·noise at t = 1, where `previous` is not
// read; output = x·action_weight + proprio·proprio_weight + step_bias + positions.
//
//   noise, previous [T, action_dim] float     visible [action_dim] float, 0 or 1     proprio [proprio_dim] float
//   action_weight [action_dim, width]         proprio_weight [proprio_dim, width]    positions, output [T, width]
//   step_bias [width] float: the bias and the time embedding's part
//
//   width a multiple of 8. Grid (⌈width / 256⌉, T), block 32 threads, no dynamic shared memory.
//
// decode_actions, T rows: actions = LayerNorm(hidden)·weightᵀ + bias.
//
//   hidden [≥ T, width]     norm_weight, norm_bias [width]     weight [action_dim, width]     bias [action_dim]
//   actions [T, action_dim] float
//
//   width a multiple of 8. Grid T, block 32·min(action_dim, 32) threads, no dynamic shared memory.

constexpr float EPSILON = 1e-5f;

// sums += factor·row, for eight columns.
__device__ __forceinline__ void add_scaled(float sums[8], float factor, Eight row) {
    float values[8];
    unpack(row, values);
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] += factor * values[i];
}

extern "C" __global__ void __launch_bounds__(32)
    encode_actions(const float* noise, const float* previous,
                   const float* __restrict__ visible, const float* proprio,
                   const scalar* __restrict__ action_weight, const scalar* __restrict__ proprio_weight,
                   const float* __restrict__ step_bias, const scalar* __restrict__ positions,
                   scalar* __restrict__ output, float t, int action_dim, int proprio_dim, int width) {
    wait_for_predecessor();
    const int column = 8 * (blockIdx.x * blockDim.x + threadIdx.x), row = blockIdx.y;
    if (column >= width) return;
    const size_t offset = static_cast<size_t>(row) * width + column;
    float sums[8];
    unpack(load_eight(positions + offset), sums);
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] += step_bias[column + i];
    // Unrolled far, so that the weights of many inputs are on their way at once.
#pragma unroll 10
    for (int input = 0; input < action_dim; ++input) {
        const int action = row * action_dim + input;
        const float mixed = t == 1.0f ? noise[action] : noise[action] * t + previous[action] * (1.0f - t);
        add_scaled(sums, visible[input] * mixed, load_eight(action_weight + input * width + column));
    }
#pragma unroll 10
    for (int input = 0; input < proprio_dim; ++input) {
        add_scaled(sums, proprio[input], load_eight(proprio_weight + input * width + column));
    }
    store_eight(output + offset, pack(sums));
}

// The mean of term(x) over the x of a row, computed by one warp.
template <typename Term>
__device__ __forceinline__ float row_mean(const scalar* row, int width, Term term) {
    float sum = 0.0f;
#pragma unroll 4
    for (int column = threadIdx.x % 32 * 8; column < width; column += 256) {
        float values[8];
        unpack(load_eight(row + column), values);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum += term(values[i]);
    }
    return warp_sum(sum) / width;
}

// One warp an output. Each warp normalizes the row for itself: it is in the L1 cache, and barriers would cost more.
extern "C" __global__ void __launch_bounds__(1024)
    decode_actions(const scalar* hidden, const scalar* __restrict__ norm_weight,
                   const scalar* __restrict__ norm_bias, const scalar* __restrict__ weight,
                   const scalar* __restrict__ bias, float* __restrict__ actions, int width, int action_dim) {
    wait_for_predecessor();
    const scalar* row = hidden + static_cast<size_t>(blockIdx.x) * width;
    const float mean = row_mean(row, width, [](float x) { return x; });
    const float variance = row_mean(row, width, [mean](float x) { return (x - mean) * (x - mean); });
    const float inverse_deviation = rsqrtf(variance + EPSILON);
    float* row_actions = actions + static_cast<size_t>(blockIdx.x) * action_dim;
    for (int action = threadIdx.x / 32; action < action_dim; action += blockDim.x / 32) {
        const scalar* action_weight = weight + static_cast<size_t>(action) * width;
        float sum = 0.0f;
#pragma unroll 4
        for (int column = threadIdx.x % 32 * 8; column < width; column += 256) {
            float values[8], scale[8], shift[8], weights[8];
            unpack(load_eight(row + column), values);
            unpack(load_eight(norm_weight + column), scale);
            unpack(load_eight(norm_bias + column), shift);
            unpack(load_eight(action_weight + column), weights);
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                sum += ((values[i] - mean) * inverse_deviation * scale[i] + shift[i]) * weights[i];
            }
        }
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) row_actions[action] = sum + to_float(bias[action]);
    }
}
