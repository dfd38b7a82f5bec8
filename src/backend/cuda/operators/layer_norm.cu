// LayerNorm over rows: output = (x - mean) / √(variance + 1e-5)·weight + bias (Ba et al. 2016). Mean and variance are
// computed one after the other, from registers.
//
//   layer_norm    input, output [rows, WIDTH]; weight, bias [WIDTH]
//   merge_tokens  LayerNorm(row + position), where the rows are image_tokens [image_count, WIDTH], then text
//                 [rows - image_count, WIDTH]; positions, output [rows, WIDTH]
//
// With OUTPUT_FP8 the output is E4M3 of the values times inverse_scale, and half_output [rows, WIDTH] receives them in 16
// bits unless it is null: a norm's result may be the next layer's input and a residual as well.
//
// Macro: WIDTH, a multiple of 8 up to 8192. WARPS = ⌈WIDTH / 1024⌉ warps share a row; one warp needs no barrier.
// Grid ⌈rows / R⌉, block (32·WARPS, R) for R rows a block, 1 to 8; R is 1 if WARPS > 1. No dynamic shared memory. R = 2
// suits a few hundred rows, where every multiprocessor should get some; R = 8 suits thousands.

constexpr float EPSILON = 1e-5f;
constexpr int EIGHTS = WIDTH / 8;
constexpr int WARPS = (WIDTH + 1023) / 1024;
constexpr int LANES = 32 * WARPS;
constexpr int LANE_EIGHTS = (EIGHTS + LANES - 1) / LANES;
constexpr int MAX_THREADS = 256;

static_assert(WIDTH % 8 == 0 && WIDTH <= 8192, "rows are read by eights, by at most eight warps");

// One thread's part of a row: eights threadIdx.x, threadIdx.x + LANES, …
struct PackedPart {
    Eight eights[LANE_EIGHTS];
};

struct Part {
    float values[LANE_EIGHTS][8];
};

__device__ __forceinline__ int eight_index(int i) { return threadIdx.x + i * LANES; }

// Known at compile time where threads share a row out evenly.
__device__ __forceinline__ bool inside(int i) { return EIGHTS % LANES == 0 || eight_index(i) < EIGHTS; }

__device__ __forceinline__ int row_index() { return blockIdx.x * blockDim.y + threadIdx.y; }

// Past the end of the row come zeros.
__device__ __forceinline__ PackedPart load_part(const scalar* row) {
    PackedPart part;
#pragma unroll
    for (int i = 0; i < LANE_EIGHTS; ++i) {
        part.eights[i] = inside(i) ? load_eight(row + 8 * eight_index(i)) : Eight{};
    }
    return part;
}

__device__ __forceinline__ Part unpack_part(const PackedPart& packed) {
    Part part;
#pragma unroll
    for (int i = 0; i < LANE_EIGHTS; ++i) unpack(packed.eights[i], part.values[i]);
    return part;
}

__device__ __forceinline__ Part sum_of(const PackedPart& left, const PackedPart& right) {
    Part sum = unpack_part(left);
    const Part other = unpack_part(right);
#pragma unroll
    for (int i = 0; i < LANE_EIGHTS; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) sum.values[i][j] += other.values[i][j];
    }
    return sum;
}

// The sum over the threads of a row.
__device__ __forceinline__ float row_sum(float value) {
    value = warp_sum(value);
    if constexpr (WARPS > 1) {
        __shared__ float sums[WARPS];
        __syncthreads();  // the sums of the call before may still be read
        if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
        __syncthreads();
        value = 0.0f;
#pragma unroll
        for (int warp = 0; warp < WARPS; ++warp) value += sums[warp];
    }
    return value;
}

__device__ __forceinline__ float mean_of(const Part& part) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < LANE_EIGHTS; ++i) {
        float eight_sum = 0.0f;  // one chain of additions per eight, all at the same time
#pragma unroll
        for (int j = 0; j < 8; ++j) eight_sum += part.values[i][j];
        sum += eight_sum;
    }
    return row_sum(sum) / WIDTH;
}

__device__ __forceinline__ float variance_of(const Part& part, float mean) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < LANE_EIGHTS; ++i) {
        if (!inside(i)) continue;
        float eight_sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; ++j) eight_sum += (part.values[i][j] - mean) * (part.values[i][j] - mean);
        sum += eight_sum;
    }
    return row_sum(sum) / WIDTH;
}

// Where a row is stored.
struct Row {
    stored* output;
    scalar* half_output;  // null: not in 16 bits as well
    float inverse_scale;
};

__device__ __forceinline__ Row row_at(size_t offset, stored* output, scalar* half_output, float inverse_scale) {
    return {output + offset, half_output ? half_output + offset : nullptr, inverse_scale};
}

// `weight` and `bias` are loaded by the caller, so that they arrive together with the row.
__device__ __forceinline__ void store_normalized(const Part& part, const PackedPart& weight, const PackedPart& bias,
                                                 const Row& row) {
    const float mean = mean_of(part);
    const float inverse_deviation = rsqrtf(variance_of(part, mean) + EPSILON);
#pragma unroll
    for (int i = 0; i < LANE_EIGHTS; ++i) {
        if (!inside(i)) continue;
        float scale[8], shift[8], values[8];
        unpack(weight.eights[i], scale);
        unpack(bias.eights[i], shift);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            values[j] = (part.values[i][j] - mean) * inverse_deviation * scale[j] + shift[j];
        }
        store_values(row.output + 8 * eight_index(i), values, row.inverse_scale);
        if (OUTPUT_FP8 && row.half_output) store_eight(row.half_output + 8 * eight_index(i), pack(values));
    }
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS)
    layer_norm(const scalar* input, const scalar* __restrict__ weight, const scalar* __restrict__ bias,
               stored* __restrict__ output, scalar* __restrict__ half_output, int rows, float inverse_scale) {
    const int row = row_index();
    if (row >= rows) return;
    const size_t offset = static_cast<size_t>(row) * WIDTH;
    const PackedPart scale = load_part(weight), shift = load_part(bias);
    wait_for_predecessor();
    const PackedPart part = load_part(input + offset);
    store_normalized(unpack_part(part), scale, shift, row_at(offset, output, half_output, inverse_scale));
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS)
    merge_tokens(const scalar* image_tokens, const scalar* text,
                 const scalar* __restrict__ positions, const scalar* __restrict__ weight,
                 const scalar* __restrict__ bias, stored* __restrict__ output, scalar* __restrict__ half_output,
                 int image_count, int rows, float inverse_scale) {
    wait_for_predecessor();
    const int row = row_index();
    if (row >= rows) return;
    const size_t offset = static_cast<size_t>(row) * WIDTH;
    const scalar* token = row < image_count ? image_tokens + offset
                                            : text + static_cast<size_t>(row - image_count) * WIDTH;
    const PackedPart part = load_part(token), position = load_part(positions + offset);
    const PackedPart scale = load_part(weight), shift = load_part(bias);
    store_normalized(sum_of(part, position), scale, shift, row_at(offset, output, half_output, inverse_scale));
}
