// DaViT's channel attention (Ding et al. 2022): channels attend to the channels of their group, tokens being features,
//
//   S[i, j] = sum over t of q[t, i] k[t, j] / sqrt(tokens),  P = softmax of S over j
//   output[t, i] = sum over j of P[i, j] v[t, j]
//
// qkv [images, tokens, 3C] with the last axis ordered [3][groups][GROUP_DIM]; output [images, tokens, C],
// with OUTPUT_FP8 stored as E4M3 of the values times inverse_scale.
//
// Macro: GROUP_DIM, the channels of a group: 16, 32 or 64. A block scores SLICE = 7168 / GROUP_DIM tokens at a time.
// Block 256 for a GROUP_DIM of 16 or 32, 512 for 64; no dynamic shared memory.
// A map of up to SLICE tokens takes one kernel:
//   channel_attention  grid (1, groups, images)
// A larger one takes two, with partial [images, groups, slices, GROUP_DIM, GROUP_DIM], slices = ceil(tokens / SLICE):
//   channel_scores     grid (slices, groups, images)
//   channel_mix        grid (any, groups, images); each block sums all slices, so about two blocks per SM are best

#include "softmax.cuh"

constexpr int SLICE = 7168 / GROUP_DIM;
constexpr int SIDE = GROUP_DIM / 16;    // the scores are SIDE×SIDE squares of 16×16
constexpr int SQUARES = SIDE * SIDE;
constexpr int WARPS = SQUARES > 8 ? SQUARES : 8;
constexpr int PARTS = WARPS / SQUARES;  // warps that share a square, each with tokens of its own
constexpr int THREADS = 32 * WARPS;
constexpr int PITCH = GROUP_DIM + 8;    // rows that ldmatrix reads together then start in different banks
constexpr int MATRIX = GROUP_DIM * GROUP_DIM;
constexpr int VECTORS = GROUP_DIM / 8;

// Queries and keys of a slice; then, in the same place, the scores of each part.
union Scoring {
    struct {
        scalar query[SLICE][PITCH];
        scalar key[SLICE][PITCH];
    } slice;
    float score[PARTS][MATRIX];
};

// Sixteen tokens' values as `mma` takes its first operand.
struct Values {
    pair part[SIDE][4];
};

// Where the block's group lies: rows of qkv are 3·channels apart, and so are q, k and v at multiples of `channels`.
struct Group {
    const scalar* query;
    int tokens, channels;

    __device__ __forceinline__ const scalar* row(int token) const {
        return query + static_cast<long long>(token) * 3 * channels;
    }
};

__device__ __forceinline__ Group block_group(const scalar* qkv, int tokens, int groups) {
    const int channels = groups * GROUP_DIM;
    const long long image = static_cast<long long>(blockIdx.z) * tokens * 3 * channels;
    return {qkv + image + blockIdx.y * GROUP_DIM, tokens, channels};
}

__device__ __forceinline__ stored* block_output(stored* output, const Group& group) {
    const long long image = static_cast<long long>(blockIdx.z) * group.tokens * group.channels;
    return output + image + blockIdx.y * GROUP_DIM;
}

// Brings queries and keys of `count` tokens in, and zeros up to a multiple of 16. Threads without a token load the last
// one again, so that no load waits for a branch.
__device__ __forceinline__ void load_slice(Scoring& shared, const Group& group, int first, int count) {
    constexpr int ROUNDS = (SLICE * VECTORS + THREADS - 1) / THREADS;
    const int padded = (count + 15) / 16 * 16;
    Eight query[ROUNDS], key[ROUNDS];
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        const int token = (round * THREADS + threadIdx.x) / VECTORS, column = threadIdx.x % VECTORS * 8;
        const scalar* from = group.row(first + min(token, count - 1)) + column;
        query[round] = load_eight_ahead(from);
        key[round] = load_eight_ahead(from + group.channels);
    }
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        const int token = (round * THREADS + threadIdx.x) / VECTORS, column = threadIdx.x % VECTORS * 8;
        if (token < padded) {
            store_eight(&shared.slice.query[token][column], token < count ? query[round] : Eight{});
            store_eight(&shared.slice.key[token][column], token < count ? key[round] : Eight{});
        }
    }
}

// Scores of a slice: each warp one square over its part of the tokens. Ends with the parts in shared memory.
__device__ __forceinline__ void score_slice(Scoring& shared, const Group& group, int first) {
    const int lane = threadIdx.x % 32, square = threadIdx.x / 32 % SQUARES, part = threadIdx.x / 32 / SQUARES;
    const int row = square / SIDE * 16, column = square % SIDE * 16;
    const int count = min(SLICE, group.tokens - first);
    load_slice(shared, group, first, count);
    __syncthreads();

    float score[2][4] = {};
#pragma unroll 4
    for (int token = 16 * part; token < count; token += 16 * PARTS) {
        pair query[4], key[4];
        load_tiles_transposed(query, &shared.slice.query[token + lane % 8 + lane / 16 * 8][row + lane / 8 % 2 * 8]);
        load_tiles_transposed(key, &shared.slice.key[token + lane % 16][column + lane / 16 * 8]);
        mma(score[0], query, key);
        mma(score[1], query, key + 2);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const int to_row = row + lane / 4 + i / 2 % 2 * 8, to_column = column + i / 4 * 8 + lane % 4 * 2 + i % 2;
        shared.score[part][to_row * GROUP_DIM + to_column] = score[i / 4][i % 4];
    }
    __syncthreads();
}

// Adds every eighth score from `first` on, over all parts.
__device__ __forceinline__ void add_parts(float sum[VECTORS], const float* first, int parts) {
#pragma unroll 4
    for (int part = 0; part < parts; ++part) {
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) sum[i] += first[part * MATRIX + 8 * i];
    }
}

// weights = softmax of the scores' sum over parts; eight threads share a row.
__device__ __forceinline__ void softmax(scalar (*weights)[PITCH], const float* score, int parts, int tokens) {
    const float scale = exponent_scale(tokens);
    const int row = threadIdx.x / 8, first = threadIdx.x % 8;
    if (row >= GROUP_DIM) return;
    float weight[VECTORS] = {}, maximum = LOWEST;
    add_parts(weight, score + row * GROUP_DIM + first, parts);
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        weight[i] *= scale;
        maximum = fmaxf(maximum, weight[i]);
    }
    const float sum = weigh_row<8>(weight, maximum);
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) weights[row][first + 8 * i] = to_scalar(__fdividef(weight[i], sum));
}

// The values of tokens 16·tile to 16·tile + 15; past the last token, that token's.
__device__ __forceinline__ Values load_values(const Group& group, int tile) {
    const int upper = 16 * tile + threadIdx.x % 32 / 4, last = group.tokens - 1;
    const scalar* rows[2] = {group.row(min(upper, last)), group.row(min(upper + 8, last))};
    Values values;
#pragma unroll
    for (int step = 0; step < SIDE; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int column = 16 * step + i / 2 * 8 + threadIdx.x % 4 * 2;
            values.part[step][i] = load_pair_ahead(rows[i % 2] + 2 * group.channels + column);
        }
    }
    return values;
}

// Writes 16 channels of the tile's tokens.
__device__ __forceinline__ void store_square(const float mixed[2][4], stored* output, const Group& group, int tile,
                                             float inverse_scale) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int token = 16 * tile + threadIdx.x % 32 / 4 + 8 * half;
        stored* to = output + static_cast<long long>(token) * group.channels + threadIdx.x % 4 * 2;
        if (token < group.tokens) {
            store_two(to, to_stored(mixed[0][2 * half], mixed[0][2 * half + 1], inverse_scale));
            store_two(to + 8, to_stored(mixed[1][2 * half], mixed[1][2 * half + 1], inverse_scale));
        }
    }
}

// Mixes every `stride`th tile of 16 tokens from `tile` on; `values` are those of the first, loaded ahead.
__device__ __forceinline__ void mix(const scalar (*weights)[PITCH], Values values, const Group& group, stored* output,
                                    int tile, int stride, float inverse_scale) {
    const int lane = threadIdx.x % 32;
    pair weight[SIDE][SIDE][4];
#pragma unroll
    for (int to = 0; to < SIDE; ++to) {
#pragma unroll
        for (int from = 0; from < SIDE; ++from) {
            const int row = 16 * to + lane % 8 + lane / 16 * 8;
            load_tiles(weight[to][from], &weights[row][16 * from + lane / 8 % 2 * 8]);
        }
    }
    for (; 16 * tile < group.tokens; tile += stride) {
        const Values ahead = load_values(group, tile + stride);
#pragma unroll
        for (int to = 0; to < SIDE; ++to) {
            float mixed[2][4] = {};
#pragma unroll
            for (int from = 0; from < SIDE; ++from) {
                mma(mixed[0], values.part[from], weight[to][from]);
                mma(mixed[1], values.part[from], weight[to][from] + 2);
            }
            store_square(mixed, output + 16 * to, group, tile, inverse_scale);
        }
        values = ahead;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    channel_attention(const scalar* qkv, stored* __restrict__ output, int tokens, int groups, float inverse_scale) {
    wait_for_predecessor();
    __shared__ __align__(16) Scoring scoring;
    __shared__ __align__(16) scalar weights[GROUP_DIM][PITCH];
    const Group group = block_group(qkv, tokens, groups);
    const int tile = threadIdx.x / 32;
    const Values values = load_values(group, tile);
    score_slice(scoring, group, 0);
    softmax(weights, scoring.score[0], PARTS, tokens);
    __syncthreads();
    mix(weights, values, group, block_output(output, group), tile, WARPS, inverse_scale);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    channel_scores(const scalar* qkv, float* __restrict__ partial, int tokens, int groups) {
    wait_for_predecessor();
    __shared__ __align__(16) Scoring scoring;
    score_slice(scoring, block_group(qkv, tokens, groups), blockIdx.x * SLICE);
    partial += ((static_cast<long long>(blockIdx.z) * groups + blockIdx.y) * gridDim.x + blockIdx.x) * MATRIX;
#pragma unroll
    for (int round = 0; round < MATRIX / THREADS; ++round) {
        const int i = round * THREADS + threadIdx.x;
        float sum = 0.0f;
#pragma unroll
        for (int part = 0; part < PARTS; ++part) sum += scoring.score[part][i];
        partial[i] = sum;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    channel_mix(const scalar* qkv, const float* partial, stored* __restrict__ output,
                int tokens, int groups, float inverse_scale) {
    wait_for_predecessor();
    __shared__ __align__(16) scalar weights[GROUP_DIM][PITCH];
    const Group group = block_group(qkv, tokens, groups);
    const int slices = (tokens + SLICE - 1) / SLICE, tile = blockIdx.x * WARPS + threadIdx.x / 32;
    const Values values = load_values(group, tile);
    softmax(weights, partial + (static_cast<long long>(blockIdx.z) * groups + blockIdx.y) * slices * MATRIX, slices,
            tokens);
    __syncthreads();
    mix(weights, values, group, block_output(output, group), tile, gridDim.x * WARPS, inverse_scale);
}
