// DaViT's window attention (Ding et al. 2022, after Swin): every token attends to the tokens of its window,
//
//   output[t] = sum over u of softmax_u(q[t]·k[u] / sqrt(HEAD_DIM)) v[u]
//
// qkv [images, height, width, 3C] with the last axis ordered [3][heads][HEAD_DIM]; output [images, height, width, C],
// with OUTPUT_FP8 stored as E4M3 of the values times inverse_scale.
// The map counts as padded right and below until windows tile it. A padded token is attended to, and its q, k and v are
// the projection's bias [3C] alone, because its normed input is zero. All padded keys of a window are therefore equal:
// one key stands for them, its score raised by the logarithm of their number, and the work is that of the real tokens.
//
// One warp takes 16 queries, and the keys in groups of slabs with an online softmax (FlashAttention-2, Dao 2023).
//
// Macros: WINDOW, the side of a window, and HEAD_DIM, a multiple of 16. Keys and values of a window lie in shared
// memory: 4 * (WINDOW² rounded up to 16) * (HEAD_DIM + 8) bytes, at most 48 KiB.
// Launch: grid (heads, images, windows), windows = ceil(height / WINDOW) * ceil(width / WINDOW), row by row;
// block 2 * (WINDOW² rounded up to 16); no dynamic shared memory. The windows are the slowest axis so that whole ones,
// which cost most, follow one another and land on different multiprocessors: of few windows most are cut off.

#include "softmax.cuh"

constexpr int TOKENS = WINDOW * WINDOW;
constexpr int SLABS = (TOKENS + 15) / 16;  // of 16 tokens: what a warp queries, and a step over the keys
constexpr int GROUP = SLABS % 3 == 0 ? 3 : SLABS % 2 == 0 ? 2 : 1;  // slabs of keys that are weighed together
constexpr int THREADS = 32 * SLABS;
constexpr int PITCH = HEAD_DIM + 8;  // rows that ldmatrix reads together then start in different banks
constexpr int STEPS = HEAD_DIM / 16;
constexpr int TILES = HEAD_DIM / 8;          // of eight columns
constexpr int QUADS = (HEAD_DIM + 31) / 32;  // of four tiles, the last one perhaps not full

using Softmax = OnlineSoftmax<TILES>;

__device__ __forceinline__ float scale() { return exponent_scale(HEAD_DIM); }

// a / b of small numbers (a < 2^20), without the latency of an integer division. The half keeps clear of rounding.
__device__ __forceinline__ int quotient(int a, int b) { return static_cast<int>(__fdividef(a + 0.5f, b)); }

// The part of a window that lies on the map. Its tokens are numbered row by row.
struct Window {
    int top, left, rows, columns;

    __device__ __forceinline__ int tokens() const { return rows * columns; }
    __device__ __forceinline__ int place(int token, int width) const {
        const int row = quotient(token, columns);
        return (top + row) * width + left + token - row * columns;
    }
};

__device__ __forceinline__ Window window_of(int index, int height, int width) {
    const int across = (width + WINDOW - 1) / WINDOW;
    const int row = quotient(index, across);
    const int top = row * WINDOW, left = (index - row * across) * WINDOW;
    return {top, left, min(WINDOW, height - top), min(WINDOW, width - left)};
}

// The keys of a window: first the real tokens, then, if there is padding, one key for all of it.
struct Keys {
    int real, count, groups;
    float padded;  // what the padded key's score is raised by, before scaling; minus infinity without padding
};

__device__ __forceinline__ Keys keys_of(Window window) {
    const int real = window.tokens(), count = min(real + 1, TOKENS);
    constexpr int group_tokens = 16 * GROUP;
    return {real, count, (count + group_tokens - 1) / group_tokens, __fdividef(__log2f(TOKENS - real), scale())};
}

struct Shared {
    scalar key[16 * SLABS][PITCH];
    scalar value[16 * SLABS][PITCH];
};

// Where a thread finds the keys that it copies.
__device__ __forceinline__ void find_keys(const scalar* from[STEPS], const scalar* qkv, const scalar* bias,
                                          Window window, int width, int channels, const Keys& keys) {
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        const int vector = step * THREADS + threadIdx.x;
        const int token = vector / TILES, column = vector % TILES * 8;
        from[step] = (token < keys.real ? qkv + window.place(token, width) * 3 * channels : bias) + column;
    }
}

// Starts copying keys and values, and zeros after them as far as warps read.
__device__ __forceinline__ void fetch_keys(Shared& shared, const scalar* const from[STEPS], int channels,
                                           const Keys& keys) {
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        const int vector = step * THREADS + threadIdx.x;
        const int token = vector / TILES, column = vector % TILES * 8;
        if (token >= keys.groups * GROUP * 16) break;
        copy_async(&shared.key[token][column], from[step] + channels, token < keys.count);
        copy_async(&shared.value[token][column], from[step] + 2 * channels, token < keys.count);
    }
}

// Four threads hold a 4×4 matrix, each a row. Afterwards each holds a column.
__device__ __forceinline__ void transpose(pair part[4]) {
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const pair got = __shfl_xor_sync(0xffffffffu, odd ? part[i] : part[i + 1], 1);
        (odd ? part[i] : part[i + 1]) = got;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const pair got = __shfl_xor_sync(0xffffffffu, high ? part[i] : part[i + 2], 2);
        (high ? part[i] : part[i + 2]) = got;
    }
}

// Rows of queries in pieces of sixteen bytes, of which a thread loads every fourth.
struct Row {
    Eight quad[QUADS];
};

__device__ __forceinline__ Row load_row(const scalar* from) {
    Row row;
#pragma unroll
    for (int quad = 0; quad < QUADS; ++quad) {
        const int tile = 4 * quad + threadIdx.x % 4;
        row.quad[quad] = HEAD_DIM % 32 == 0 || tile < TILES ? load_eight_ahead(from + 8 * tile) : Eight{};
    }
    return row;
}

// Two rows of queries as `mma` takes its first operand.
__device__ __forceinline__ void arrange_queries(pair query[STEPS][4], Row upper, Row lower) {
#pragma unroll
    for (int quad = 0; quad < QUADS; ++quad) {
        transpose(upper.quad[quad].part);
        transpose(lower.quad[quad].part);
#pragma unroll
        for (int i = 0; i < 4 && 4 * quad + i < TILES; ++i) {
            query[2 * quad + i / 2][i % 2 * 2] = upper.quad[quad].part[i];
            query[2 * quad + i / 2][i % 2 * 2 + 1] = lower.quad[quad].part[i];
        }
    }
}

// Raises the padded token's score and hides the keys past the last.
__device__ __forceinline__ void adjust_scores(float (*score)[4], int slab, const Keys& keys) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const int key = 16 * slab + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
        if (key >= keys.real) score[i / 4][i % 4] = key == keys.real ? score[i / 4][i % 4] + keys.padded : LOWEST;
    }
}

// Products of 16 queries with the 16 keys of a slab, not scaled.
__device__ __forceinline__ void score_slab(float (*score)[4], const pair query[STEPS][4], const Shared& shared,
                                           int slab) {
    const int lane = threadIdx.x % 32;
    const int row = 16 * slab + lane % 8 + lane / 16 * 8, column = lane / 8 % 2 * 8;
#pragma unroll
    for (int i = 0; i < 8; ++i) score[i / 4][i % 4] = 0.0f;
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        pair key[4];
        load_tiles(key, &shared.key[row][16 * step + column]);
        mma(score[0], query[step], key);
        mma(score[1], query[step], key + 2);
    }
}

// Adds to `mixed` the slab's values, weighted.
__device__ __forceinline__ void mix_slab(float mixed[TILES][4], const float (*weight)[4], const Shared& shared,
                                         int slab) {
    const int lane = threadIdx.x % 32;
    const pair weights[4] = {to_pair(weight[0][0], weight[0][1]), to_pair(weight[0][2], weight[0][3]),
                             to_pair(weight[1][0], weight[1][1]), to_pair(weight[1][2], weight[1][3])};
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        pair value[4];
        load_tiles_transposed(value, &shared.value[16 * slab + lane % 16][16 * step + lane / 16 * 8]);
        mma(mixed[2 * step], weights, value);
        mma(mixed[2 * step + 1], weights, value + 2);
    }
}

// Takes a group of slabs of keys into the softmax.
__device__ __forceinline__ void attend(Softmax& softmax, const pair query[STEPS][4], const Shared& shared,
                                       int first_slab, const Keys& keys) {
    float score[2 * GROUP][4];
#pragma unroll
    for (int slab = 0; slab < GROUP; ++slab) score_slab(score + 2 * slab, query, shared, first_slab + slab);
    if (16 * (first_slab + GROUP) > keys.real) {
#pragma unroll
        for (int slab = 0; slab < GROUP; ++slab) adjust_scores(score + 2 * slab, first_slab + slab, keys);
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) raise_peak(softmax, score, row, scale());
#pragma unroll
    for (int slab = 0; slab < GROUP; ++slab) {
#pragma unroll
        for (int i = 0; i < 4; ++i) weigh(softmax, score[2 * slab + i / 2], i % 2, scale());
        mix_slab(softmax.mixed, score + 2 * slab, shared, first_slab + slab);
    }
}

// Divides by the sums of the weights and writes the rows that exist.
__device__ __forceinline__ void store_rows(const Softmax& softmax, stored* output, int first, int real,
                                           const int place[2], int channels, float inverse_scale) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        const float share = __fdividef(1.0f, quad_sum(softmax.sum[row]));
        const bool exists = first + threadIdx.x % 32 / 4 + 8 * row < real;
        stored* to = output + place[row] * channels;
#pragma unroll
        for (int quad = 0; quad < QUADS; ++quad) {
            Eight values = {};
#pragma unroll
            for (int i = 0; i < 4 && 4 * quad + i < TILES; ++i) {
                const float* mixed = softmax.mixed[4 * quad + i] + 2 * row;
                values.part[i] = to_stored(mixed[0] * share, mixed[1] * share, inverse_scale);
            }
            transpose(values.part);
            const int tile = 4 * quad + threadIdx.x % 4;
            if (exists && (HEAD_DIM % 32 == 0 || tile < TILES)) store_four_pairs(to + 8 * tile, values);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    window_attention(const scalar* qkv, const scalar* __restrict__ bias, stored* __restrict__ output,
                     int height, int width, int heads, float inverse_scale) {
    __shared__ __align__(16) Shared shared;
    const Window window = window_of(blockIdx.z, height, width);
    const Keys keys = keys_of(window);
    const int channels = heads * HEAD_DIM, head = blockIdx.x * HEAD_DIM;
    const long long image = static_cast<long long>(blockIdx.y) * height * width;
    qkv += image * 3 * channels + head;
    output += image * channels + head;

    const int first = threadIdx.x / 32 * 16;  // of this warp's queries
    const int upper = first + threadIdx.x % 32 / 4, lower = upper + 8;
    const int place[2] = {window.place(min(upper, keys.real - 1), width),
                          window.place(min(lower, keys.real - 1), width)};
    const scalar* from[STEPS];
    find_keys(from, qkv, bias + head, window, width, channels, keys);

    wait_for_predecessor();
    fetch_keys(shared, from, channels, keys);
    commit_copies();
    const Row upper_row = load_row(qkv + place[0] * 3 * channels);
    const Row lower_row = load_row(qkv + place[1] * 3 * channels);
    pair query[STEPS][4];
    arrange_queries(query, upper_row, lower_row);
    wait_copies<0>();
    __syncthreads();
    if (first >= keys.real) return;

    Softmax softmax = {{}, {LOWEST, LOWEST}, {}};
#pragma unroll 1
    for (int group = 0; group < keys.groups; ++group) attend(softmax, query, shared, group * GROUP, keys);
    store_rows(softmax, output, first, keys.real, place, channels, inverse_scale);
}
