// DaViT's convolutional position encoding and the LayerNorm that follows it (Ding et al. 2022):
//
//   sum = input + conv3x3(input) + bias    depth-wise, zero padding
//   normed = LayerNorm(sum) over channels, epsilon 1e-5
//
// With OUTPUT_FP8 `normed` is stored as E4M3 of the values times inverse_scale.
//
// input, sum, normed [images, height, width, CHANNELS]; weight [9, CHANNELS], taps row by row; the other parameters
// [CHANNELS]. The outputs must not overlap the input: neighbouring blocks read it.
//
// Macros: CHANNELS, a multiple of 8 up to 8192; STRIP, the pixels of a row that one block does (1, 2 or 4). A longer
// strip reads less of the halo and of the weights, a shorter one makes more blocks. The registers of a block allow a
// STRIP of 4 up to 2048 channels and of 2 up to 4096; past those, registers spill.
// Launch: grid (ceil(width / STRIP), height, images), block CHANNELS / 8 rounded up to 32, no dynamic shared memory.

constexpr int VECTORS = CHANNELS / 8;
constexpr int THREADS = (VECTORS + 31) / 32 * 32;
constexpr int WARPS = THREADS / 32;
constexpr float EPSILON = 1e-5f;

// Eight channels of the strip's pixels and of those around them.
struct Halo {
    Eight pixel[3][STRIP + 2];
};

// `first` is the strip's first pixel.
__device__ __forceinline__ Halo load_halo(const scalar* first, int y, int first_x, int height, int width) {
    Halo halo;
#pragma unroll
    for (int row = 0; row < 3; ++row) {
#pragma unroll
        for (int column = 0; column < STRIP + 2; ++column) {
            const int down = row - 1, right = column - 1;
            const bool inside =
                y + down >= 0 && y + down < height && first_x + right >= 0 && first_x + right < width;
            halo.pixel[row][column] = inside ? load_eight(first + (down * width + right) * CHANNELS) : Eight{};
        }
    }
    return halo;
}

// What the thread's eight channels are multiplied by and shifted by.
struct Parameters {
    Eight weight[3][3], bias, norm_weight, norm_bias;
};

__device__ __forceinline__ Parameters load_parameters(const scalar* weight, const scalar* bias,
                                                      const scalar* norm_weight, const scalar* norm_bias) {
    Parameters parameters;
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) parameters.weight[tap / 3][tap % 3] = load_eight_ahead(weight + tap * CHANNELS);
    parameters.bias = load_eight_ahead(bias);
    parameters.norm_weight = load_eight_ahead(norm_weight);
    parameters.norm_bias = load_eight_ahead(norm_bias);
    return parameters;
}

// Adds what one row of the kernel contributes to the strip.
__device__ __forceinline__ void add_row(float sum[STRIP][8], const Halo& halo, int row, const Parameters& parameters) {
    float tap[3][8];
#pragma unroll
    for (int column = 0; column < 3; ++column) unpack(parameters.weight[row][column], tap[column]);
    if (row == 1) {
        // The residual is one more of the pixel itself.
#pragma unroll
        for (int channel = 0; channel < 8; ++channel) tap[1][channel] += 1.0f;
    }
#pragma unroll
    for (int from = 0; from < STRIP + 2; ++from) {
        float value[8];
        unpack(halo.pixel[row][from], value);
#pragma unroll
        for (int column = 0; column < 3; ++column) {
            const int pixel = from - column;
            if (pixel < 0 || pixel >= STRIP) continue;
#pragma unroll
            for (int channel = 0; channel < 8; ++channel) sum[pixel][channel] += value[channel] * tap[column][channel];
        }
    }
}

// Sums each pixel's value over the block; every thread receives the sums.
__device__ __forceinline__ void block_sum(float value[STRIP], float partial[WARPS][STRIP]) {
#pragma unroll
    for (int pixel = 0; pixel < STRIP; ++pixel) value[pixel] = warp_sum(value[pixel]);
    if (WARPS == 1) return;
    if (threadIdx.x % 32 == 0) {
#pragma unroll
        for (int pixel = 0; pixel < STRIP; ++pixel) partial[threadIdx.x / 32][pixel] = value[pixel];
    }
    __syncthreads();
#pragma unroll
    for (int pixel = 0; pixel < STRIP; ++pixel) {
        value[pixel] = 0.0f;
#pragma unroll
        for (int warp = 0; warp < WARPS; ++warp) value[pixel] += partial[warp][pixel];
    }
}

// Mean and reciprocal deviation of each pixel over all channels. Threads without channels count for nothing.
__device__ __forceinline__ void moments(const float sum[STRIP][8], bool active, float mean[STRIP], float scale[STRIP]) {
    __shared__ float partial[2][WARPS][STRIP];
#pragma unroll
    for (int pixel = 0; pixel < STRIP; ++pixel) {
        mean[pixel] = scale[pixel] = 0.0f;
#pragma unroll
        for (int channel = 0; channel < 8; ++channel) mean[pixel] += active ? sum[pixel][channel] : 0.0f;
    }
    block_sum(mean, partial[0]);
#pragma unroll
    for (int pixel = 0; pixel < STRIP; ++pixel) {
        mean[pixel] *= 1.0f / CHANNELS;
#pragma unroll
        for (int channel = 0; channel < 8; ++channel) {
            const float centred = active ? sum[pixel][channel] - mean[pixel] : 0.0f;
            scale[pixel] += centred * centred;
        }
    }
    block_sum(scale, partial[1]);
#pragma unroll
    for (int pixel = 0; pixel < STRIP; ++pixel) scale[pixel] = rsqrtf(scale[pixel] * (1.0f / CHANNELS) + EPSILON);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    depthwise_norm(const scalar* input, const scalar* __restrict__ weight, const scalar* __restrict__ bias,
                   const scalar* __restrict__ norm_weight, const scalar* __restrict__ norm_bias,
                   scalar* __restrict__ sum, stored* __restrict__ normed, int height, int width,
                   float inverse_scale) {
    wait_for_predecessor();
    const bool active = threadIdx.x < VECTORS;
    const int channel = active ? 8 * threadIdx.x : 0;
    const int first_x = blockIdx.x * STRIP, y = blockIdx.y;
    const long long first = ((static_cast<long long>(blockIdx.z) * height + y) * width + first_x) * CHANNELS + channel;
    const Parameters parameters =
        load_parameters(weight + channel, bias + channel, norm_weight + channel, norm_bias + channel);
    const Halo halo = load_halo(input + first, y, first_x, height, width);

    float total[STRIP][8];
#pragma unroll
    for (int pixel = 0; pixel < STRIP; ++pixel) unpack(parameters.bias, total[pixel]);
#pragma unroll
    for (int row = 0; row < 3; ++row) add_row(total, halo, row, parameters);

    float gain[8], shift[8], mean[STRIP], scale[STRIP];
    unpack(parameters.norm_weight, gain);
    unpack(parameters.norm_bias, shift);
    moments(total, active, mean, scale);
    if (!active) return;
#pragma unroll
    for (int pixel = 0; pixel < STRIP; ++pixel) {
        if (first_x + pixel >= width) return;
        store_eight(sum + first + pixel * CHANNELS, pack(total[pixel]));
        float result[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) result[i] = (total[pixel][i] - mean[pixel]) * scale[pixel] * gain[i] + shift[i];
        store_values(normed + first + pixel * CHANNELS, result, inverse_scale);
    }
}
