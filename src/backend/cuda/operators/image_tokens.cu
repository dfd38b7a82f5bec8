// Florence-2's image features before their projection: the map's tokens with their positions, and the mean in front,
//
//   output[1 + t] = map[t] + positions[t],  output[0] = mean over t of those
//
// map [images, count, channels]; positions [count, channels], the temporal embedding added already; output
// [images, count + 1, channels]; channels a multiple of 8.
// Launch: grid (ceil(channels / 64), images), block 256, no dynamic shared memory.

constexpr int VECTORS = 8;  // of eight channels: what a block does
constexpr int ROWS = 32;    // tokens that a block does at a time
constexpr int WARPS = 8;

// Writes the mean of 64 channels from each thread's sums over its tokens.
__device__ __forceinline__ void store_mean(scalar* output, float sum[8], int count, int valid_channels) {
    __shared__ float partial[WARPS][8 * VECTORS];
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 8);
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 16);
        if (lane < VECTORS) partial[threadIdx.x / 32][8 * lane + i] = sum[i];
    }
    __syncthreads();
    if (static_cast<int>(threadIdx.x) >= min(8 * VECTORS, valid_channels)) return;
    float total = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) total += partial[warp][threadIdx.x];
    output[threadIdx.x] = to_scalar(total / count);
}

extern "C" __global__ void __launch_bounds__(ROWS* VECTORS)
    image_tokens(const scalar* map, const scalar* __restrict__ positions, scalar* __restrict__ output,
                 int count, int channels) {
    wait_for_predecessor();
    const int first = blockIdx.x * 8 * VECTORS, channel = first + threadIdx.x % VECTORS * 8;
    map += static_cast<long long>(blockIdx.y) * count * channels;
    output += static_cast<long long>(blockIdx.y) * (count + 1) * channels;

    float sum[8] = {};
    const int end = channel < channels ? count : 0;
#pragma unroll 2
    for (int token = threadIdx.x / VECTORS; token < end; token += ROWS) {
        const long long at = static_cast<long long>(token) * channels + channel;
        float value[8], position[8];
        unpack(load_eight(map + at), value);
        unpack(load_eight(positions + at), position);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            value[i] += position[i];
            sum[i] += value[i];
        }
        store_eight(output + at + channels, pack(value));
    }
    store_mean(output + first, sum, count, channels - first);
}
