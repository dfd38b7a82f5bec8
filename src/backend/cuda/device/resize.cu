// Camera images to the network's input: packed 8-bit RGB [views, height, width, 3] becomes ImageNet-normalised single
// precision planes [views, 3, H, W]. All views of a launch have one size; for others there is a launch each.
//
// Bicubic (Pillow's antialiased resize) resamples one axis, rounds to 8 bits and resamples the other:
//
//   out[i] = clamp(⌊2^-22 · Σ_t weights[t, i] · in[starts[i] + t] + ½⌋, 0, 255)
//
// Tables of an axis with `to` outputs: starts [to], weights [taps, to] in units of 2^-22, no window leaving the axis.
// In this fixed point the bytes are Pillow's own. Rows (the horizontal axis) usually come first; for images that lose
// far more height than width Pillow takes the columns first:
//
//   usually:     resample_rows_to_bytes, then resample_columns_to_planes
//   tall images: resample_columns_to_bytes, then resample_rows_to_planes
//
// An axis that keeps its size needs no first pass. Launch geometry, no dynamic shared memory:
//
//   resample_rows_*:     grid (⌈to / 32⌉, ⌈height / 16⌉, views), block (32, 4)
//   resample_columns_*:  grid (⌈width / 32⌉, ⌈to / 4⌉, views),   block (32, 4)
//   padded_bilinear:     grid (⌈W / 32⌉, ⌈H / 4⌉, views),        block (32, 4)
//
// Buffers of bytes are read in whole words: their length is rounded up to a multiple of 4, the rest may hold anything.
//
// No macros; both precisions give the same code.

constexpr int FRACTION_BITS = 22;
constexpr int ROWS_PER_THREAD = 4;  // they share their weights

__device__ __forceinline__ int byte_of(unsigned int word, int index) { return (word >> (8 * index)) & 0xff; }

// The nearest byte to a fixed-point sum, halves up.
__device__ __forceinline__ int to_byte(int sum) {
    return min(max((sum + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS, 0), 255);
}

// Where a first pass writes: packed RGB [views, height, width, 3].
struct Bytes {
    unsigned char* images;
    int height, width;

    __device__ __forceinline__ void store(int y, int x, const int sums[3]) const {
        const size_t pixel = (static_cast<size_t>(blockIdx.z) * height + y) * width + x;
#pragma unroll
        for (int channel = 0; channel < 3; ++channel) images[3 * pixel + channel] = to_byte(sums[channel]);
    }
};

// Where a last pass writes: normalised planes [views, 3, height, width].
struct Planes {
    float* planes;
    int height, width;

    // The result of a bicubic pass.
    __device__ __forceinline__ void store(int y, int x, const int sums[3]) const {
        float values[3];
#pragma unroll
        for (int channel = 0; channel < 3; ++channel) values[channel] = static_cast<float>(to_byte(sums[channel]));
        store_normalized(y, x, values);
    }

    // `values` are in [0, 255].
    __device__ __forceinline__ void store_normalized(int y, int x, const float values[3]) const {
        constexpr float mean[3] = {0.485f, 0.456f, 0.406f};
        constexpr float deviation[3] = {0.229f, 0.224f, 0.225f};
        const size_t plane = static_cast<size_t>(height) * width;
        float* pixel = planes + 3 * plane * blockIdx.z + static_cast<size_t>(y) * width + x;
#pragma unroll
        for (int channel = 0; channel < 3; ++channel) {
            const float scale = 1.0f / (255.0f * deviation[channel]);
            pixel[channel * plane] = values[channel] * scale - mean[channel] / deviation[channel];
        }
    }
};

// Consecutive bytes from any address, four at a time, out of aligned words.
struct ByteStream {
    const unsigned int* words;
    int next, last, shift;
    unsigned int current;

    __device__ __forceinline__ ByteStream(const unsigned char* bytes, size_t offset, size_t length)
        : words(reinterpret_cast<const unsigned int*>(bytes)),
          next(static_cast<int>(offset / 4) + 1),
          last(static_cast<int>((length - 1) / 4)),
          shift(8 * static_cast<int>(offset % 4)),
          current(__ldg(words + offset / 4)) {}

    // Past the last word the values mean nothing; weights of zero drop them.
    __device__ __forceinline__ unsigned int read() {
        const unsigned int following = __ldg(words + min(next++, last));
        const unsigned int bytes = __funnelshift_r(current, following, shift);
        current = following;
        return bytes;
    }
};

// Adds four pixels, twelve bytes of the stream, to the sums of the three channels.
__device__ __forceinline__ void add_four_pixels(int sums[3], ByteStream& stream, const int weights[4]) {
    const unsigned int bytes[3] = {stream.read(), stream.read(), stream.read()};
#pragma unroll
    for (int index = 0; index < 12; ++index) {
        sums[index % 3] += weights[index / 3] * byte_of(bytes[index / 4], index % 4);
    }
}

// [views, height, from, 3] to [views, height, to, 3]. A thread computes one pixel in each of ROWS_PER_THREAD rows.
template <class Target>
__device__ __forceinline__ void resample_rows(const unsigned char* __restrict__ images, const int* __restrict__ starts,
                                              const int* __restrict__ weights, int taps, int from, int to, int height,
                                              Target target) {
    const int x = blockIdx.x * 32 + threadIdx.x;
    const int first_y = (blockIdx.y * 4 + threadIdx.y) * ROWS_PER_THREAD;
    if (x >= to || first_y >= height) return;

    const size_t length = static_cast<size_t>(gridDim.z) * height * from * 3;
    const auto stream_of = [&](int row) {
        const int y = min(first_y + row, height - 1);
        return ByteStream(images, ((static_cast<size_t>(blockIdx.z) * height + y) * from + starts[x]) * 3, length);
    };
    ByteStream streams[ROWS_PER_THREAD] = {stream_of(0), stream_of(1), stream_of(2), stream_of(3)};
    int sums[ROWS_PER_THREAD][3] = {};
    for (int first_tap = 0; first_tap < taps; first_tap += 4) {
        int four_weights[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int tap = first_tap + i;
            four_weights[i] = tap < taps ? weights[tap * to + x] : 0;
        }
#pragma unroll
        for (int row = 0; row < ROWS_PER_THREAD; ++row) add_four_pixels(sums[row], streams[row], four_weights);
    }
#pragma unroll
    for (int row = 0; row < ROWS_PER_THREAD; ++row) {
        if (first_y + row < height) target.store(first_y + row, x, sums[row]);
    }
}

// [views, from, width, 3] to [views, to, width, 3]. A thread computes one pixel.
template <class Target>
__device__ __forceinline__ void resample_columns(const unsigned char* __restrict__ images,
                                                 const int* __restrict__ starts, const int* __restrict__ weights,
                                                 int taps, int from, int to, int width, Target target) {
    const int x = blockIdx.x * 32 + threadIdx.x;
    const int y = blockIdx.y * 4 + threadIdx.y;
    if (x >= width || y >= to) return;

    const unsigned char* pixel = images + ((static_cast<size_t>(blockIdx.z) * from + starts[y]) * width + x) * 3;
    int sums[3] = {};
#pragma unroll 4
    for (int tap = 0; tap < taps; ++tap) {
        const int weight = weights[tap * to + y];
#pragma unroll
        for (int channel = 0; channel < 3; ++channel) sums[channel] += weight * __ldg(pixel + channel);
        pixel += 3 * width;
    }
    target.store(y, x, sums);
}

extern "C" __global__ void __launch_bounds__(128)
resample_rows_to_bytes(unsigned char* __restrict__ resized, const unsigned char* __restrict__ images,
                       const int* __restrict__ starts, const int* __restrict__ weights, int taps, int from, int to,
                       int height) {
    resample_rows(images, starts, weights, taps, from, to, height, Bytes{resized, height, to});
}

extern "C" __global__ void __launch_bounds__(128)
resample_columns_to_bytes(unsigned char* __restrict__ resized, const unsigned char* __restrict__ images,
                          const int* __restrict__ starts, const int* __restrict__ weights, int taps, int from, int to,
                          int width) {
    resample_columns(images, starts, weights, taps, from, to, width, Bytes{resized, to, width});
}

extern "C" __global__ void __launch_bounds__(128)
resample_rows_to_planes(float* __restrict__ planes, const unsigned char* __restrict__ images,
                        const int* __restrict__ starts, const int* __restrict__ weights, int taps, int from, int to,
                        int height) {
    resample_rows(images, starts, weights, taps, from, to, height, Planes{planes, height, to});
}

extern "C" __global__ void __launch_bounds__(128)
resample_columns_to_planes(float* __restrict__ planes, const unsigned char* __restrict__ images,
                           const int* __restrict__ starts, const int* __restrict__ weights, int taps, int from, int to,
                           int width) {
    resample_columns(images, starts, weights, taps, from, to, width, Planes{planes, to, width});
}

// Two source pixels of an axis and their weights; a second one beyond the border is the last.
struct Tap {
    int first, second;
    float weight_first, weight_second;

    __device__ __forceinline__ Tap(const int* __restrict__ starts, const float* __restrict__ weights, int from, int to,
                                   int index)
        : first(starts[index]),
          second(min(first + 1, from - 1)),
          weight_first(weights[index]),
          weight_second(weights[to + index]) {}
};

// lerobot's `resize_with_pad`: bilinear without antialiasing to content_height × content_width, which is the bottom
// right corner of `height` × `width`; left of it and above it are zeros, the mean colour.
//
// Tables of an axis with `to` outputs: starts [to], weights [2, to].
extern "C" __global__ void __launch_bounds__(128)
padded_bilinear(float* __restrict__ planes, const unsigned char* __restrict__ images,
                const int* __restrict__ column_starts, const float* __restrict__ column_weights,
                const int* __restrict__ row_starts, const float* __restrict__ row_weights, int from_height,
                int from_width, int content_height, int content_width, int height, int width) {
    const int x = blockIdx.x * 32 + threadIdx.x;
    const int y = blockIdx.y * 4 + threadIdx.y;
    if (x >= width || y >= height) return;

    const int content_x = x - (width - content_width);
    const int content_y = y - (height - content_height);
    const size_t plane = static_cast<size_t>(height) * width;
    if (content_x < 0 || content_y < 0) {
#pragma unroll
        for (int channel = 0; channel < 3; ++channel) planes[(3 * blockIdx.z + channel) * plane + y * width + x] = 0.0f;
        return;
    }

    const Tap column(column_starts, column_weights, from_width, content_width, content_x);
    const Tap row(row_starts, row_weights, from_height, content_height, content_y);
    const unsigned char* image = images + static_cast<size_t>(blockIdx.z) * from_height * from_width * 3;
    const unsigned char* upper = image + static_cast<size_t>(row.first) * from_width * 3;
    const unsigned char* lower = image + static_cast<size_t>(row.second) * from_width * 3;
    float values[3];
#pragma unroll
    for (int channel = 0; channel < 3; ++channel) {
        const int left = 3 * column.first + channel;
        const int right = 3 * column.second + channel;
        const float above = upper[left] * column.weight_first + upper[right] * column.weight_second;
        const float below = lower[left] * column.weight_first + lower[right] * column.weight_second;
        values[channel] = above * row.weight_first + below * row.weight_second;
    }
    Planes{planes, height, width}.store_normalized(y, x, values);
}
