// Multi-head attention without a mask: output = softmax(q·kᵀ / √HEAD_DIM)·v for each head, where softmax is computed
// online over tiles of keys (FlashAttention-2, Dao 2023).
//
//   qkv    [tokens, 3, heads, HEAD_DIM]   what one fused projection gives; fewer than 2³¹ scalars
//   output [queries, heads·HEAD_DIM]      the first `queries` tokens only; queries ≤ tokens. With OUTPUT_FP8 stored as
//                                         E4M3 of the values times inverse_scale
//
// Macros: HEAD_DIM (16, 32, 64 or 128) and ROW_WARPS (1 to 3, here r), the sixteens of queries that a block takes. The
// fastest is the smallest that gives no more blocks than multiprocessors, or else 3.
// Grid (⌈queries / (16·r)⌉, heads), block 128·r threads.
// Dynamic shared memory in bytes, for k = min(16·⌈tokens / 16⌉, 128) keys at once if HEAD_DIM = 128, and else for
// k = min(32·⌈tokens / 32⌉, 384): max(4·HEAD_DIM·k + 32·HEAD_DIM·r, 256·(HEAD_DIM + 8)·r). This can be more than
// the 48 KiB that need no asking: up to 102 KiB for r = 3, and 98 KiB for r = 1.
//
// A few hundred tokens make about one block a multiprocessor, so the time is that of one block. All its loads are
// therefore started at once, and warps share out the keys of a tile as well as the queries. Each keeps a softmax over
// its own keys; those of the same queries are merged at the end.

#include "softmax.cuh"

#ifndef ROW_WARPS
#define ROW_WARPS 3
#endif

constexpr int KEY_WARPS = 4;
constexpr int THREADS = 32 * ROW_WARPS * KEY_WARPS;
constexpr int WARP_KEYS = HEAD_DIM > 64 ? 16 : 32;  // of one tile, those of one warp
constexpr int TILE_KEYS = KEY_WARPS * WARP_KEYS;
constexpr int TILE_SCALARS = TILE_KEYS * 2 * HEAD_DIM;  // in a row of a tile, the key of a token and then its value
constexpr int STAGES = HEAD_DIM > 64 ? 2 : 3;           // tiles in shared memory
constexpr int CHUNKS = HEAD_DIM / 8;                    // sixteen-byte chunks in a key, a value or a query
constexpr int ROWS_AT_ONCE = THREADS / CHUNKS;          // those that the block copies with one chunk a thread
constexpr int KEY_GROUPS = WARP_KEYS / 8;
constexpr int MERGE_CHUNKS = CHUNKS > KEY_WARPS ? CHUNKS / KEY_WARPS : 1;  // of a row, those that one warp merges

static_assert(HEAD_DIM == 16 || HEAD_DIM == 32 || HEAD_DIM == 64 || HEAD_DIM == 128, "a swizzle needs a power of two");

using Softmax = OnlineSoftmax<CHUNKS>;

__device__ __forceinline__ float scale() { return exponent_scale(HEAD_DIM); }

// The score of a key that does not count. A warp may see no key at all: its peak is then minus infinity, which weighs
// nothing beside any other.
__device__ __forceinline__ float negative_infinity() { return __int_as_float(0xff800000); }

// Rounded up to what a warp reads.
__device__ __forceinline__ int up_to_warp_keys(int tokens) { return (tokens + WARP_KEYS - 1) / WARP_KEYS * WARP_KEYS; }

// Where a chunk lies among rows of `row_chunks`. The exclusive or spreads the same chunk of eight rows over all banks.
template <int row_chunks>
__device__ __forceinline__ int offset(int row, int chunk) {
    constexpr int rows_per_line = row_chunks < 8 ? 8 / row_chunks : 1;
    constexpr int mask = row_chunks < 8 ? row_chunks - 1 : 7;
    return 8 * (row * row_chunks + (chunk ^ (row / rows_per_line & mask)));
}

// Starts copying keys and values of up to TILE_KEYS tokens from `first`. Past the last token come zeros as far as warps
// read, because a weight of zero would not silence a NaN.
__device__ __forceinline__ void fetch_tile(scalar* tile, const scalar* head_keys, int first, int tokens, int heads) {
    const int value_offset = heads * HEAD_DIM, token_stride = 3 * value_offset;
    const int left = tokens - first, rows = min(TILE_KEYS, up_to_warp_keys(left));
    const int first_row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    const scalar* from = head_keys + (first + first_row) * token_stride + 8 * chunk;
    scalar* key = tile + offset<2 * CHUNKS>(first_row, chunk);
    scalar* value = tile + offset<2 * CHUNKS>(first_row, CHUNKS + chunk);
    static_assert(ROWS_AT_ONCE % 8 == 0, "a thread's chunks lie below one another");
#pragma unroll
    for (int begin = 0; begin < TILE_KEYS; begin += ROWS_AT_ONCE) {
        const int row = begin + first_row;
        if (row < rows) {
            copy_async(key + begin * 2 * HEAD_DIM, from, row < left);
            copy_async(value + begin * 2 * HEAD_DIM, from + value_offset, row < left);
        }
        from += ROWS_AT_ONCE * token_stride;
    }
}

// Starts copying the block's queries from row `first`. Rows past the end repeat the last one.
__device__ __forceinline__ void fetch_queries(scalar* to, const scalar* head_queries, int first, int tokens,
                                              int heads) {
    const int chunk = threadIdx.x % CHUNKS;
#pragma unroll
    for (int begin = 0; begin < 16 * ROW_WARPS; begin += ROWS_AT_ONCE) {
        const int row = begin + threadIdx.x / CHUNKS;
        if (row >= 16 * ROW_WARPS) break;
        const scalar* from = head_queries + min(first + row, tokens - 1) * 3 * heads * HEAD_DIM + 8 * chunk;
        copy_async(to + offset<CHUNKS>(row, chunk), from, true);
    }
}

// The sixteen queries from `first_row` as the left operand of `mma`.
__device__ __forceinline__ void load_queries(pair queries[HEAD_DIM / 16][4], const scalar* rows, int first_row) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; ++step) {
        load_tiles(queries[step], rows + offset<CHUNKS>(first_row + lane % 16, 2 * step + lane / 16));
    }
}

// scores = q·kᵀ for this warp's keys, which begin at `first_row` of the tile.
__device__ __forceinline__ void multiply_keys(float scores[KEY_GROUPS][4], const pair queries[HEAD_DIM / 16][4],
                                              const scalar* tile, int first_row) {
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
            load_tiles(tiles, tile + offset<2 * CHUNKS>(row, 2 * step + half) + 8 * group * 2 * HEAD_DIM);
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

// mixed += weights·v for this warp's keys, which begin at `first_row` of the tile.
__device__ __forceinline__ void multiply_values(Softmax& softmax, const float weights[KEY_GROUPS][4],
                                                const scalar* tile, int first_row) {
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
            const int at = offset<2 * CHUNKS>(row, CHUNKS + chunk + half) + 8 * group * 2 * HEAD_DIM;
            load_tiles_transposed(tiles, tile + at);
            mma(softmax.mixed[chunk], left, tiles);
            mma(softmax.mixed[chunk + 1], left, tiles + 2);
        }
    }
}

// This warp's part of one tile; `first_key` is the token of its first key.
__device__ __forceinline__ void attend(Softmax& softmax, const pair queries[HEAD_DIM / 16][4], const scalar* tile,
                                       int first_row, int first_key, int tokens) {
    float scores[KEY_GROUPS][4];
    multiply_keys(scores, queries, tile, first_row);
    if (first_key + WARP_KEYS > tokens) mask_past_end(scores, first_key, tokens);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        raise_peak(softmax, scores, row, scale());
#pragma unroll
        for (int group = 0; group < KEY_GROUPS; ++group) weigh(softmax, scores[group], row, scale());
    }
    multiply_values(softmax, scores, tile, first_row);
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
constexpr int LEFT_QUADRUPLES = 32 * (CHUNKS + 1);
constexpr int LEFT_BY_ONE = ROW_WARPS * LEFT_QUADRUPLES;  // from one key warp to the next

__device__ __forceinline__ void put(const Softmax& softmax, float4* to) {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        const float* mixed = softmax.mixed[chunk];
        to[32 * chunk] = make_float4(mixed[0], mixed[1], mixed[2], mixed[3]);
    }
    to[32 * CHUNKS] = make_float4(softmax.peak[0], softmax.peak[1], softmax.sum[0], softmax.sum[1]);
}

// What each key warp's part of a row weighs in the whole. The first has seen a key, so that the peak is finite.
__device__ __forceinline__ void merge_shares(float shares[KEY_WARPS][2], const float4* from) {
    float4 ends[KEY_WARPS];
#pragma unroll
    for (int part = 0; part < KEY_WARPS; ++part) ends[part] = from[part * LEFT_BY_ONE + 32 * CHUNKS];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float peak = negative_infinity(), sum = 0.0f;
#pragma unroll
        for (int part = 0; part < KEY_WARPS; ++part) peak = fmaxf(peak, half == 0 ? ends[part].x : ends[part].y);
#pragma unroll
        for (int part = 0; part < KEY_WARPS; ++part) {
            shares[part][half] = power_of_two(((half == 0 ? ends[part].x : ends[part].y) - peak) * scale());
            sum += shares[part][half] * (half == 0 ? ends[part].z : ends[part].w);
        }
        const float inverse = __fdividef(1.0f, sum);
#pragma unroll
        for (int part = 0; part < KEY_WARPS; ++part) shares[part][half] *= inverse;
    }
}

// Merges MERGE_CHUNKS chunks from `first_chunk` of what the key warps left, and writes the rows that are queries.
// `from` is the first key warp's, and `first_row` the first of the sixteen rows.
__device__ __forceinline__ void merge(stored* head_output, const float4* from, int first_chunk, int first_row,
                                      int queries, int heads, float inverse_scale) {
    const int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
    float shares[KEY_WARPS][2];
    merge_shares(shares, from);
#pragma unroll
    for (int chunk = first_chunk; chunk < first_chunk + MERGE_CHUNKS; ++chunk) {
        float merged[4] = {};
#pragma unroll
        for (int part = 0; part < KEY_WARPS; ++part) {
            const float4 mixed = from[part * LEFT_BY_ONE + 32 * chunk];
            merged[0] += shares[part][0] * mixed.x;
            merged[1] += shares[part][0] * mixed.y;
            merged[2] += shares[part][1] * mixed.z;
            merged[3] += shares[part][1] * mixed.w;
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = first_row + group + 8 * half;
            stored* to = head_output + row * heads * HEAD_DIM + 8 * chunk + 2 * member;
            if (row < queries) store_two(to, to_stored(merged[2 * half], merged[2 * half + 1], inverse_scale));
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention(const scalar* qkv, stored* __restrict__ output, int tokens, int queries, int heads,
              float inverse_scale) {
    extern __shared__ __align__(128) unsigned char shared[];
    const int tiles = (tokens + TILE_KEYS - 1) / TILE_KEYS;
    const int rows = min(up_to_warp_keys(tokens), STAGES * TILE_KEYS);
    scalar* stages = reinterpret_cast<scalar*>(shared);
    scalar* query_rows = stages + rows * 2 * HEAD_DIM;
    const int warp = threadIdx.x / 32, key_warp = warp / ROW_WARPS, row_warp = warp % ROW_WARPS;
    const int first_query = 16 * ROW_WARPS * blockIdx.x, first_row = key_warp * WARP_KEYS;
    const scalar* head_queries = qkv + blockIdx.y * HEAD_DIM;
    const scalar* head_keys = head_queries + heads * HEAD_DIM;

    wait_for_predecessor();
    fetch_queries(query_rows, head_queries, first_query, tokens, heads);
    commit_copies();
#pragma unroll
    for (int stage = 0; stage < STAGES; ++stage) {
        fetch_tile(stages + stage * TILE_SCALARS, head_keys, stage * TILE_KEYS, tokens, heads);
        commit_copies();
    }
    wait_copies<STAGES>();
    __syncthreads();
    pair query[HEAD_DIM / 16][4];
    load_queries(query, query_rows, 16 * row_warp);

    Softmax softmax = no_keys_yet();
#pragma unroll 1
    for (int tile = 0; tile < tiles; ++tile) {
        scalar* stage = stages + tile % STAGES * TILE_SCALARS;
        wait_copies<STAGES - 1>();
        __syncthreads();
        const int first_key = tile * TILE_KEYS + first_row;
        if (first_key < tokens) attend(softmax, query, stage, first_row, first_key, tokens);
        const int next = tile + STAGES;
        if (next < tiles) {
            __syncthreads();
            fetch_tile(stage, head_keys, next * TILE_KEYS, tokens, heads);
        }
        commit_copies();
    }

    for (float& sum : softmax.sum) sum = quad_sum(sum);
    __syncthreads();
    const int first_chunk = key_warp * MERGE_CHUNKS;
    float4* left = reinterpret_cast<float4*>(shared) + row_warp * LEFT_QUADRUPLES + threadIdx.x % 32;
    put(softmax, left + key_warp * LEFT_BY_ONE);
    __syncthreads();
    if (first_chunk >= CHUNKS) return;
    merge(output + blockIdx.y * HEAD_DIM, left, first_chunk, first_query + 16 * row_warp, queries, heads,
          inverse_scale);
}
