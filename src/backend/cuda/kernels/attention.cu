// Multi-head attention without a mask: output = softmax(q·kᵀ / √HEAD_DIM)·v for each head, where softmax is computed
// online over tiles of keys (FlashAttention-2, Dao 2023).
//
//   qkv    [tokens, 3, heads, HEAD_DIM]   what one fused projection gives; fewer than 2³¹ scalars
//   output [queries, heads·HEAD_DIM]      the first `queries` tokens only; queries ≤ tokens
//
// Macros: HEAD_DIM (16, 32, 64 or 128) and, if the defaults do not suit, ROW_WARPS (1 to 4).
// Grid (⌈queries / (16·ROW_WARPS)⌉, heads), block 32·ROW_WARPS·KEY_WARPS threads, no dynamic shared memory.
//
// A few hundred tokens make about one block a multiprocessor, so the time is that of one block. Warps therefore share
// out the keys of a tile as well as the queries. Each keeps a softmax over its own keys; those of the same queries are
// merged at the end.

#ifndef ROW_WARPS
#define ROW_WARPS (HEAD_DIM > 64 ? 2 : 3)
#endif

constexpr int KEY_WARPS = 3;
constexpr int THREADS = 32 * ROW_WARPS * KEY_WARPS;
constexpr int WARP_KEYS = HEAD_DIM > 64 ? 16 : 32;  // of one tile, those of one warp
constexpr int TILE_KEYS = KEY_WARPS * WARP_KEYS;
constexpr int TILE_SCALARS = TILE_KEYS * HEAD_DIM;
constexpr int STAGES = 2;             // tiles of keys and values in shared memory: one in use, one on its way
constexpr int CHUNKS = HEAD_DIM / 8;  // sixteen-byte chunks in a row
constexpr int KEY_GROUPS = WARP_KEYS / 8;
constexpr float LOG2_E = 1.4426950408889634f;

static_assert(HEAD_DIM == 16 || HEAD_DIM == 32 || HEAD_DIM == 64 || HEAD_DIM == 128, "a swizzle needs a power of two");

// One warp's sixteen queries over the keys it has seen. Fragments as `mma` lays them out; index 0 of `peak` and `sum`
// is row `group`, index 1 row group + 8.
struct Softmax {
    float mixed[CHUNKS][4];  // Σ exp(score - peak)·value
    float peak[2];           // the largest score, before scaling
    float sum[2];            // Σ exp(score - peak) over this lane's columns alone
};

constexpr int MERGE_BYTES = (KEY_WARPS - 1) * ROW_WARPS * 32 * sizeof(Softmax);
constexpr int STAGE_BYTES = STAGES * 2 * TILE_SCALARS * sizeof(scalar);
constexpr int SHARED_BYTES = STAGE_BYTES > MERGE_BYTES ? STAGE_BYTES : MERGE_BYTES;

__device__ __forceinline__ float negative_infinity() { return __int_as_float(0xff800000); }

__device__ __forceinline__ float exp2_fast(float exponent) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
    return power;
}

// Scores become exponents of two: exp(x / √HEAD_DIM) = 2^(x·exponent_scale).
__device__ __forceinline__ float exponent_scale() { return LOG2_E * rsqrtf(static_cast<float>(HEAD_DIM)); }

// Where a chunk of a row lies in a tile. The exclusive or spreads the same chunk of eight rows over all banks.
__device__ __forceinline__ int tile_offset(int row, int chunk) {
    constexpr int rows_per_line = CHUNKS < 8 ? 8 / CHUNKS : 1;
    constexpr int mask = CHUNKS < 8 ? CHUNKS - 1 : 7;
    return row * HEAD_DIM + 8 * (chunk ^ (row / rows_per_line & mask));
}

// Starts a copy of sixteen bytes to shared memory, or of zeros.
__device__ __forceinline__ void copy_async(scalar* to, const scalar* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `pending` groups of this thread's copies are under way.
template <int pending>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" : : "n"(pending) : "memory");
}

// Starts copying keys and values of TILE_KEYS tokens from `first`. Past the last token come zeros, because a weight of
// zero would not silence a NaN.
__device__ __forceinline__ void fetch_tile(scalar* keys, const scalar* head_keys, int first, int tokens, int heads) {
    const int value_offset = heads * HEAD_DIM, token_stride = 3 * value_offset, chunk = threadIdx.x % CHUNKS;
    constexpr int rows_at_once = THREADS / CHUNKS;
#pragma unroll
    for (int begin = 0; begin < TILE_KEYS; begin += rows_at_once) {
        const int row = begin + threadIdx.x / CHUNKS;
        if (TILE_KEYS % rows_at_once != 0 && row >= TILE_KEYS) break;
        const bool valid = first + row < tokens;
        const scalar* from = head_keys + (valid ? first + row : 0) * token_stride + 8 * chunk;
        scalar* to = keys + tile_offset(row, chunk);
        copy_async(to, from, valid);
        copy_async(to + TILE_SCALARS, from + value_offset, valid);
    }
}

// Sixteen queries from row `first` as the left operand of `mma`. Rows past the end repeat the last one.
__device__ __forceinline__ void load_queries(pair queries[HEAD_DIM / 16][4], const scalar* head_queries, int first,
                                             int tokens, int heads) {
    const int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
    const int token_stride = 3 * heads * HEAD_DIM;
    const scalar* upper = head_queries + min(first + group, tokens - 1) * token_stride + 2 * member;
    const scalar* lower = head_queries + min(first + group + 8, tokens - 1) * token_stride + 2 * member;
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; ++step) {
        queries[step][0] = *reinterpret_cast<const pair*>(upper + 16 * step);
        queries[step][1] = *reinterpret_cast<const pair*>(lower + 16 * step);
        queries[step][2] = *reinterpret_cast<const pair*>(upper + 16 * step + 8);
        queries[step][3] = *reinterpret_cast<const pair*>(lower + 16 * step + 8);
    }
}

// scores = q·kᵀ for this warp's keys, which begin at `first_row` of the tile.
__device__ __forceinline__ void multiply_keys(float scores[KEY_GROUPS][4], const pair queries[HEAD_DIM / 16][4],
                                              const scalar* keys, int first_row) {
    const int lane = threadIdx.x % 32;
    const int row = first_row + lane % 8 + lane / 16 * 8, half = lane / 8 % 2;
#pragma unroll
    for (int group = 0; group < KEY_GROUPS; ++group) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[group][i] = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; ++step) {
#pragma unroll
        for (int group = 0; group < KEY_GROUPS; group += 2) {
            pair tiles[4];
            load_tiles(tiles, keys + tile_offset(row + 8 * group, 2 * step + half));
            mma(scores[group], queries[step], tiles);
            mma(scores[group + 1], queries[step], tiles + 2);
        }
    }
}

// Takes keys past the last token, of which this warp's first key is not one, out of the softmax.
__device__ __forceinline__ void mask_past_end(float scores[KEY_GROUPS][4], int first_key, int tokens) {
    const int column = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int group = 0; group < KEY_GROUPS; ++group) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (first_key + 8 * group + column + i % 2 >= tokens) scores[group][i] = negative_infinity();
        }
    }
}

// Scores become weights exp(score - peak), and what was summed before is rescaled to the new peak.
__device__ __forceinline__ void add_weights(Softmax& softmax, float scores[KEY_GROUPS][4]) {
    const float scale = exponent_scale();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float peak = softmax.peak[half];
#pragma unroll
        for (int group = 0; group < KEY_GROUPS; ++group) {
            peak = fmaxf(peak, fmaxf(scores[group][2 * half], scores[group][2 * half + 1]));
        }
        peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, 1));
        peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, 2));
        const float decay = exp2_fast((softmax.peak[half] - peak) * scale);
        softmax.peak[half] = peak;
        softmax.sum[half] *= decay;
#pragma unroll
        for (int group = 0; group < KEY_GROUPS; ++group) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; ++i) {
                scores[group][i] = exp2_fast(fmaf(scores[group][i], scale, -peak * scale));
                softmax.sum[half] += scores[group][i];
            }
        }
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk) {
            softmax.mixed[chunk][2 * half] *= decay;
            softmax.mixed[chunk][2 * half + 1] *= decay;
        }
    }
}

// mixed += weights·v for this warp's keys, which begin at `first_row` of the tile.
__device__ __forceinline__ void multiply_values(Softmax& softmax, const float weights[KEY_GROUPS][4],
                                                const scalar* values, int first_row) {
    const int lane = threadIdx.x % 32;
    const int row = first_row + lane % 16, half = lane / 16;
#pragma unroll
    for (int group = 0; group < KEY_GROUPS; group += 2) {
        const float *near = weights[group], *far = weights[group + 1];
        const pair left[4] = {to_pair(near[0], near[1]), to_pair(near[2], near[3]), to_pair(far[0], far[1]),
                              to_pair(far[2], far[3])};
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk += 2) {
            pair tiles[4];
            load_tiles_transposed(tiles, values + tile_offset(row + 8 * group, chunk + half));
            mma(softmax.mixed[chunk], left, tiles);
            mma(softmax.mixed[chunk + 1], left, tiles + 2);
        }
    }
}

// This warp's part of one tile; `first_key` is the token of its first key.
__device__ __forceinline__ void attend(Softmax& softmax, const pair queries[HEAD_DIM / 16][4], const scalar* keys,
                                       int first_row, int first_key, int tokens) {
    float scores[KEY_GROUPS][4];
    multiply_keys(scores, queries, keys, first_row);
    if (first_key + WARP_KEYS > tokens) mask_past_end(scores, first_key, tokens);
    add_weights(softmax, scores);
    multiply_values(softmax, scores, keys + TILE_SCALARS, first_row);
}

__device__ __forceinline__ Softmax no_keys_yet() {
    Softmax softmax;
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
#pragma unroll
        for (int i = 0; i < 4; ++i) softmax.mixed[chunk][i] = 0.0f;
    }
    softmax.peak[0] = softmax.peak[1] = negative_infinity();
    softmax.sum[0] = softmax.sum[1] = 0.0f;
    return softmax;
}

// A Softmax in shared memory is CHUNKS + 1 quadruples, each beside those of the other lanes of its warp.
__device__ __forceinline__ void put(const Softmax& softmax, float4* to) {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        const float* mixed = softmax.mixed[chunk];
        to[32 * chunk] = make_float4(mixed[0], mixed[1], mixed[2], mixed[3]);
    }
    to[32 * CHUNKS] = make_float4(softmax.peak[0], softmax.peak[1], softmax.sum[0], softmax.sum[1]);
}

// Adds the softmax of other keys that `put` left. Here some key has been seen, so that this peak is finite.
__device__ __forceinline__ void merge(Softmax& softmax, const float4* from) {
    const float4 other = from[32 * CHUNKS];
    const float other_peak[2] = {other.x, other.y}, other_sum[2] = {other.z, other.w};
    float kept[2], added[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float peak = fmaxf(softmax.peak[half], other_peak[half]);
        kept[half] = exp2_fast((softmax.peak[half] - peak) * exponent_scale());
        added[half] = exp2_fast((other_peak[half] - peak) * exponent_scale());
        softmax.peak[half] = peak;
        softmax.sum[half] = softmax.sum[half] * kept[half] + other_sum[half] * added[half];
    }
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        const float4 values = from[32 * chunk];
        const float other_mixed[4] = {values.x, values.y, values.z, values.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            softmax.mixed[chunk][i] = softmax.mixed[chunk][i] * kept[i / 2] + other_mixed[i] * added[i / 2];
        }
    }
}

// Divides by the sum of weights and writes the rows that are queries; `first` is the warp's first row.
__device__ __forceinline__ void store(const Softmax& softmax, scalar* head_output, int first, int queries, int heads) {
    const int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float sum = softmax.sum[half];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const float inverse = __fdividef(1.0f, sum);
        const int row = first + group + 8 * half;
        if (row >= queries) continue;
        scalar* to = head_output + row * heads * HEAD_DIM + 2 * member;
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk) {
            const float* mixed = softmax.mixed[chunk] + 2 * half;
            *reinterpret_cast<pair*>(to + 8 * chunk) = to_pair(mixed[0] * inverse, mixed[1] * inverse);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention(const scalar* qkv, scalar* __restrict__ output, int tokens, int queries, int heads) {
    wait_for_predecessor();
    __shared__ __align__(128) unsigned char shared[SHARED_BYTES];
    scalar* stages = reinterpret_cast<scalar*>(shared);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row_warp = warp % ROW_WARPS, key_warp = warp / ROW_WARPS;
    const int first_query = 16 * (blockIdx.x * ROW_WARPS + row_warp);
    const int first_row = key_warp * WARP_KEYS;
    const scalar* head_queries = qkv + blockIdx.y * HEAD_DIM;
    const scalar* head_keys = head_queries + heads * HEAD_DIM;

    pair query[HEAD_DIM / 16][4];
    load_queries(query, head_queries, first_query, tokens, heads);
#pragma unroll
    for (int stage = 0; stage < STAGES; ++stage) {
        fetch_tile(stages + stage * 2 * TILE_SCALARS, head_keys, stage * TILE_KEYS, tokens, heads);
        commit_copies();
    }

    Softmax softmax = no_keys_yet();
    const int tiles = (tokens + TILE_KEYS - 1) / TILE_KEYS;
    for (int tile = 0; tile < tiles; ++tile) {
        scalar* stage = stages + tile % STAGES * 2 * TILE_SCALARS;
        wait_copies<STAGES - 1>();
        __syncthreads();
        const int first_key = tile * TILE_KEYS + first_row;
        if (first_key < tokens) attend(softmax, query, stage, first_row, first_key, tokens);
        __syncthreads();
        const int next = tile + STAGES;
        if (next < tiles) fetch_tile(stage, head_keys, next * TILE_KEYS, tokens, heads);
        commit_copies();
    }

    wait_copies<0>();
    __syncthreads();
    float4* left = reinterpret_cast<float4*>(shared) + row_warp * 32 * (CHUNKS + 1) + lane;
    constexpr int left_by_one = ROW_WARPS * 32 * (CHUNKS + 1);
    if (key_warp > 0) put(softmax, left + (key_warp - 1) * left_by_one);
    __syncthreads();
    if (key_warp > 0) return;
#pragma unroll
    for (int other = 0; other < KEY_WARPS - 1; ++other) merge(softmax, left + other * left_by_one);
    store(softmax, output + blockIdx.y * HEAD_DIM, first_query, queries, heads);
}
