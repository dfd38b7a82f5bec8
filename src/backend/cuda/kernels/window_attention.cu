// DaViT's window attention (Ding et al. 2022, after Swin): every token attends to the tokens of its window,
//
//   output[t] = sum over u of softmax_u(q[t]·k[u] / sqrt(HEAD_DIM)) v[u]
//
// qkv [images, height, width, 3C] with the last axis ordered [3][heads][HEAD_DIM]; output [images, height, width, C].
// The map counts as padded right and below until windows tile it. A padded token is attended to, and its q, k and v are
// the projection's bias [3C] alone, because its normed input is zero. All padded keys of a window are therefore equal:
// one key stands for them, its score raised by the logarithm of their number, and the work is that of the real tokens.
//
// One warp takes 16 queries. It scores all keys for the rows' maxima, then once more to weigh the values: that costs
// less than the registers of whole score rows, with which only one block would fit on a multiprocessor.
//
// Macros: WINDOW, the side of a window, and HEAD_DIM, a multiple of 16. Keys and values of a window lie in shared
// memory: 4 * (WINDOW² rounded up to 16) * (HEAD_DIM + 8) bytes, at most 48 KiB.
// Launch: grid (windows, heads, images), windows = ceil(height / WINDOW) * ceil(width / WINDOW), row by row;
// block 2 * (WINDOW² rounded up to 16); no dynamic shared memory.

constexpr int TOKENS = WINDOW * WINDOW;
constexpr int SLABS = (TOKENS + 15) / 16;  // of 16 tokens: what a warp queries, and a step over the keys
constexpr int THREADS = 32 * SLABS;
constexpr int PITCH = HEAD_DIM + 8;  // rows that ldmatrix reads together then start in different banks
constexpr int STEPS = HEAD_DIM / 16;
constexpr float LOG2_E = 1.4426950408889634f;  // the softmax is taken in powers of two
constexpr float LOWEST = -3.4e38f;             // below any score

// What turns a product into an exponent of two.
__device__ __forceinline__ float scale() { return rsqrtf(HEAD_DIM) * LOG2_E; }

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
    int real, count, slabs;
    float padded;  // what the padded key's score is raised by, before scaling; minus infinity without padding
};

__device__ __forceinline__ Keys keys_of(Window window) {
    const int real = window.tokens(), count = min(real + 1, TOKENS);
    return {real, count, (count + 15) / 16, __fdividef(__log2f(TOKENS - real), scale())};
}

struct Shared {
    scalar key[16 * SLABS][PITCH];
    scalar value[16 * SLABS][PITCH];
};

// Brings keys and values in, and zeros after them.
__device__ __forceinline__ void load_keys(Shared& shared, const scalar* qkv, const scalar* bias, Window window,
                                          int width, int channels, const Keys& keys) {
    Eight key[STEPS], value[STEPS];
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        const int vector = step * THREADS + threadIdx.x;
        const int token = vector / (HEAD_DIM / 8), column = vector % (HEAD_DIM / 8) * 8;
        const bool real = token < keys.real;
        const scalar* from = (real ? qkv + window.place(token, width) * 3 * channels : bias) + column;
        key[step] = token < keys.count ? load_eight(from + channels) : Eight{};
        value[step] = token < keys.count ? load_eight(from + 2 * channels) : Eight{};
    }
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        const int vector = step * THREADS + threadIdx.x;
        const int token = vector / (HEAD_DIM / 8), column = vector % (HEAD_DIM / 8) * 8;
        store_eight(&shared.key[token][column], key[step]);
        store_eight(&shared.value[token][column], value[step]);
    }
}

// Two rows of queries as `mma` takes its first operand.
__device__ __forceinline__ void load_queries(pair query[STEPS][4], const scalar* upper, const scalar* lower) {
    const int member = threadIdx.x % 4;
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        const int column = 16 * step + 2 * member;
        query[step][0] = load_pair_ahead(upper + column);
        query[step][1] = load_pair_ahead(lower + column);
        query[step][2] = load_pair_ahead(upper + column + 8);
        query[step][3] = load_pair_ahead(lower + column + 8);
    }
}

// Raises the padded token's score and hides the keys past the last.
__device__ __forceinline__ void adjust_scores(float score[2][4], int slab, const Keys& keys) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const int key = 16 * slab + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
        if (key >= keys.real) score[i / 4][i % 4] = key == keys.real ? score[i / 4][i % 4] + keys.padded : LOWEST;
    }
}

// Products of 16 queries with the 16 keys of a slab, not scaled. Keys that are not real can only lie in the last one.
__device__ __forceinline__ void score_slab(float score[2][4], const pair query[STEPS][4], const Shared& shared,
                                           int slab, const Keys& keys) {
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
    if (slab == keys.slabs - 1) adjust_scores(score, slab, keys);
}

// The largest exponent, in powers of two, of each of the thread's two rows.
__device__ __forceinline__ void row_maxima(float maximum[2], const pair query[STEPS][4], const Shared& shared,
                                           const Keys& keys) {
    maximum[0] = maximum[1] = LOWEST;
#pragma unroll 3
    for (int slab = 0; slab < keys.slabs; ++slab) {
        float score[2][4];
        score_slab(score, query, shared, slab, keys);
#pragma unroll
        for (int i = 0; i < 8; ++i) maximum[i / 2 % 2] = fmaxf(maximum[i / 2 % 2], score[i / 4][i % 4]);
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        maximum[row] = fmaxf(maximum[row], __shfl_xor_sync(0xffffffffu, maximum[row], 1));
        maximum[row] = fmaxf(maximum[row], __shfl_xor_sync(0xffffffffu, maximum[row], 2));
        maximum[row] *= scale();
    }
}

// exp2 in one instruction.
__device__ __forceinline__ float power_of_two(float exponent) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
    return power;
}

// Turns scores into the softmax's numerators and adds them to the thread's part of the rows' sums.
__device__ __forceinline__ void weigh(float score[2][4], float sum[2], const float maximum[2]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        float& weight = score[i / 4][i % 4];
        weight = power_of_two(weight * scale() - maximum[i / 2 % 2]);
        sum[i / 2 % 2] += weight;
    }
}

// Adds to `mixed` the slab's values, weighted.
__device__ __forceinline__ void mix_slab(float mixed[HEAD_DIM / 8][4], const float weight[2][4], const Shared& shared,
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

// Divides by the sums of the weights and writes the rows that exist.
__device__ __forceinline__ void store_rows(const float mixed[HEAD_DIM / 8][4], float sum[2], scalar* upper,
                                           scalar* lower) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        sum[row] += __shfl_xor_sync(0xffffffffu, sum[row], 1);
        sum[row] += __shfl_xor_sync(0xffffffffu, sum[row], 2);
        scalar* to = row == 0 ? upper : lower;
        if (to == nullptr) continue;
        const float share = __fdividef(1.0f, sum[row]);
#pragma unroll
        for (int tile = 0; tile < HEAD_DIM / 8; ++tile) {
            const pair both = to_pair(mixed[tile][2 * row] * share, mixed[tile][2 * row + 1] * share);
            *reinterpret_cast<pair*>(to + 8 * tile + threadIdx.x % 4 * 2) = both;
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    window_attention(const scalar* qkv, const scalar* __restrict__ bias, scalar* __restrict__ output,
                     int height, int width, int heads) {
    wait_for_predecessor();
    __shared__ __align__(16) Shared shared;
    const Window window = window_of(blockIdx.x, height, width);
    const Keys keys = keys_of(window);
    const int channels = heads * HEAD_DIM, head = blockIdx.y * HEAD_DIM;
    const long long image = static_cast<long long>(blockIdx.z) * height * width;
    qkv += image * 3 * channels + head;
    output += image * channels + head;

    const int upper = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, lower = upper + 8;
    const int upper_place = window.place(min(upper, keys.real - 1), width);
    const int lower_place = window.place(min(lower, keys.real - 1), width);
    pair query[STEPS][4];
    load_queries(query, qkv + upper_place * 3 * channels, qkv + lower_place * 3 * channels);
    load_keys(shared, qkv, bias + head, window, width, channels, keys);
    __syncthreads();
    if (threadIdx.x / 32 * 16 >= keys.real) return;

    float maximum[2], mixed[HEAD_DIM / 8][4] = {}, sum[2] = {};
    row_maxima(maximum, query, shared, keys);
#pragma unroll 3
    for (int slab = 0; slab < keys.slabs; ++slab) {
        float score[2][4];
        score_slab(score, query, shared, slab, keys);
        weigh(score, sum, maximum);
        mix_slab(mixed, score, shared, slab);
    }
    store_rows(mixed, sum, upper < keys.real ? output + upper_place * channels : nullptr,
               lower < keys.real ? output + lower_place * channels : nullptr);
}
