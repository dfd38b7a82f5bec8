// A linear layer on Hopper's tensor cores, for a few hundred rows:
//
//   output[row, feature] = act(scale·Σ input[row, k]·weight[feature, k] + bias[feature]) + residual[row, feature]
//
//   input [rows, in_width], weight [out_width, in_width], bias [out_width], residual and output [rows, out_width];
//   residual may be output. in_width is a multiple of TILE_IN, at least TILE_IN·SPLIT; out_width a multiple of 64.
//   Compute capability 9.0.
//
// With SPARSE, of every four weights in a row two are zero (2:4) and weight holds the others, [out_width, in_width / 2];
// metadata tells where they were, and TILE_IN is 128. It has 1024 bytes for each 64 features and TILE_IN columns,
// [out_width / 64, in_width / 128, 128 threads, 2] of 32 bits. With thread = 32·warp + 4·group + member, word i has in
// its low half feature 16·warp + group and in its high half feature 16·warp + group + 8, both of columns 64·i +
// 16·member and the 15 after it: four bits for each four columns, first | second << 2, the first of them lowest.
//
// With FP8, input and weight are E4M3 and TILE_IN is 128; otherwise everything has 16 bits, TILE_IN is 64 and scale is
// not applied. With OUTPUT_FP8 the output is stored as E4M3 of output·inverse_output_scale. Bias and residual have 16
// bits always.
//
// With so few rows the weights come from device memory once a layer, and the tiles of the output are too few to fill
// the GPU. Two things answer that:
//
//   - SPLIT blocks of a cluster share the sum over k. Each then owns every SPLIT-th chunk of eight rows and receives
//     the others' partial sums through distributed shared memory, always added in the same order.
//   - Launched with programmatic stream serialization, a block loads weights while the kernel before still runs, the
//     first into shared memory and the others into the L2 cache; only the rows have to wait.
//
// One warp issues the tensor copies (TMA) into a ring of STAGES tiles; each warpgroup multiplies 64 features by
// GROUP_ROWS rows (wgmma: M are features, N are rows), so that rows are padded to a multiple of 8 only.
//
// Macros: GROUP_ROWS, a multiple of 8 up to 256; ROW_GROUPS, how many warpgroups share the rows of a tile; STAGES;
// SPLIT, up to 8; ACTIVATION, 0 none, 1 GELU by tanh; BIAS and RESIDUAL, 0 or 1; FP8, OUTPUT_FP8 and
// SPARSE, 0 (the default) or 1, FP8 and SPARSE not both.
//
// With TILE_ROWS = GROUP_ROWS·ROW_GROUPS and KEPT = ⌈GROUP_ROWS / 8 / SPLIT⌉:
//   grid (SPLIT, out_width / 64, ⌈rows / TILE_ROWS⌉), cluster (SPLIT, 1, 1), block 128·ROW_GROUPS + 32,
//   dynamic shared memory STAGES·stage + (SPLIT - 1)·KEPT·ROW_GROUPS·2048 + 16·STAGES + 8 bytes, where a stage has
//   (64 + TILE_ROWS)·128 bytes, with SPARSE (64 + 2·TILE_ROWS)·128 + 1024.
//
// Tensor maps (cuTensorMapEncodeTiled): rank 2, 16-bit elements or bytes, dimensions {width, out_width or rows}, stride
// {bytes of width}, box {elements of 128 bytes, 64 for weight_map or TILE_ROWS for input_map}, element strides {1, 1}, no
// interleave, 128-byte swizzle, out-of-bounds fill with zeros (NONE).

#ifndef FP8
#define FP8 0
#endif
#ifndef SPARSE
#define SPARSE 0
#endif

#include "hopper.cuh"
#include "wgmma.cuh"

constexpr int TILE_OUT = 64;  // the features that a warpgroup multiplies
constexpr int TILE_ROWS = GROUP_ROWS * ROW_GROUPS;
constexpr int ROW_BYTES = 128;  // one row of a tile, and of the 128-byte swizzle
constexpr int BOX_IN = FP8 ? ROW_BYTES : ROW_BYTES / 2;  // elements
constexpr int INPUT_BOXES = SPARSE ? 2 : 1;              // that one box of weights is multiplied with
constexpr int TILE_IN = INPUT_BOXES * BOX_IN;
constexpr int WEIGHT_BYTES = TILE_OUT * ROW_BYTES;
constexpr int BOX_BYTES = TILE_ROWS * ROW_BYTES;
constexpr int METADATA_BYTES = SPARSE ? 128 * 8 : 0;
constexpr int STAGE_BYTES = WEIGHT_BYTES + INPUT_BOXES * BOX_BYTES + METADATA_BYTES;

constexpr int WORKERS = 128 * ROW_GROUPS;  // threads that multiply; one more warp loads

constexpr int KEPT = (CHUNKS + SPLIT - 1) / SPLIT;   // chunks of eight rows that a block finishes, at most
constexpr int RECEIVED_BYTES = KEPT * WORKERS * 16;  // from one other block of the split
constexpr int STAGED_PITCH = TILE_OUT + 4;           // floats; padded so that the transposition has no bank conflicts
constexpr int STAGED_CHUNK = ROW_GROUPS * 8 * STAGED_PITCH;
constexpr int STAGED_BYTES = KEPT * STAGED_CHUNK * 4;

static_assert(TILE_ROWS <= 256, "a box holds 256 rows");
static_assert(SPLIT <= 8, "larger clusters are not portable");
static_assert(!FP8 || !SPARSE, "2:4 has 16 bits");
static_assert(STAGED_BYTES <= STAGES * STAGE_BYTES, "the result is staged where the tiles were");

// What one block works on.
struct Task {
    int first_feature;
    int first_row;
    int first_step;  // steps of TILE_IN along k
    int steps;
    int split_rank;  // which part of k, and which block of the cluster
};

__device__ __forceinline__ Task task_of(int in_width) {
    const int all_steps = in_width / TILE_IN, split_rank = SPLIT == 1 ? 0 : blockIdx.x;
    const int first = all_steps * split_rank / SPLIT, end = all_steps * (split_rank + 1) / SPLIT;
    return {static_cast<int>(blockIdx.y) * TILE_OUT, static_cast<int>(blockIdx.z) * TILE_ROWS, first, end - first,
            split_rank};
}

// Addresses in shared memory. The tiles come first because the swizzle counts from multiples of 1024 bytes.
struct Shared {
    unsigned int base;

    __device__ unsigned int weight(int stage) const { return base + stage * STAGE_BYTES; }
    __device__ unsigned int input(int stage) const { return weight(stage) + WEIGHT_BYTES; }
    __device__ unsigned int metadata(int stage) const { return weight(stage + 1) - METADATA_BYTES; }
    __device__ unsigned int received(int source) const { return weight(STAGES) + source * RECEIVED_BYTES; }
    __device__ unsigned int full(int stage) const { return received(SPLIT - 1) + 8 * stage; }
    __device__ unsigned int empty(int stage) const { return full(STAGES + stage); }
    __device__ unsigned int complete() const { return full(2 * STAGES); }  // all partial sums received
};

__device__ __forceinline__ void synchronize_workers() {
    asm volatile("bar.sync 1, %0;" ::"n"(WORKERS) : "memory");
}

// A place in the ring of stages.
struct Place {
    int stage = 0;
    unsigned int parity = 0;

    __device__ void advance() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

__device__ __forceinline__ int chunks_of(int split_rank) { return (CHUNKS - split_rank + SPLIT - 1) / SPLIT; }

__device__ __forceinline__ void init_barriers(Shared shared, const Task& task) {
    for (int stage = 0; stage < STAGES; ++stage) {
        init_barrier(shared.full(stage), 1);
        init_barrier(shared.empty(stage), WORKERS / 32);
    }
    init_barrier(shared.complete(), 1);
    fence_barrier_init();
    if constexpr (SPLIT > 1) {
        arrive_expecting(shared.complete(), (SPLIT - 1) * chunks_of(task.split_rank) * WORKERS * 16);
    }
}

// Where the weights of a block are in device memory.
struct Weights {
    const TensorMap& map;
    const unsigned char* metadata;  // of the block's first step

    __device__ void prefetch(const Task& task, int step) const {
        prefetch_box(map, (task.first_step + step) * BOX_IN, task.first_feature);
        if constexpr (SPARSE) prefetch_bytes<METADATA_BYTES>(metadata + step * METADATA_BYTES);
    }
    // The announcement covers all tiles of the stage.
    __device__ void load(Shared shared, const Task& task, int stage, int step) const {
        const unsigned int full = shared.full(stage);
        arrive_expecting(full, STAGE_BYTES);
        copy_box(shared.weight(stage), map, (task.first_step + step) * BOX_IN, task.first_feature, full);
        if constexpr (SPARSE) {
            copy_bytes<METADATA_BYTES>(shared.metadata(stage), metadata + step * METADATA_BYTES, full);
        }
    }
};

__device__ __forceinline__ const unsigned char* metadata_of(const unsigned char* metadata, const Task& task,
                                                            int in_width) {
    const int first = task.first_feature / TILE_OUT * (in_width / TILE_IN) + task.first_step;
    return metadata + static_cast<size_t>(first) * METADATA_BYTES;
}

__device__ __forceinline__ void load_input(Shared shared, const TensorMap& map, const Task& task, int stage, int step) {
    const int column = (task.first_step + step) * TILE_IN;
#pragma unroll
    for (int box = 0; box < INPUT_BOXES; ++box) {
        copy_box(shared.input(stage) + box * BOX_BYTES, map, column + box * BOX_IN, task.first_row, shared.full(stage));
    }
}

// Everything that can be loaded before the kernels before have ended.
__device__ __forceinline__ void load_ahead(Shared shared, const Weights& weights, const Task& task) {
    for (int step = 0; step < STAGES && step < task.steps; ++step) weights.load(shared, task, step, step);
#pragma unroll 1
    for (int step = STAGES; step < task.steps; ++step) weights.prefetch(task, step);
}

__device__ __forceinline__ void load_tiles_of(Shared shared, const Weights& weights, const TensorMap& input_map,
                                              const Task& task) {
    wait_for_kernels_before();
    for (int step = 0; step < STAGES && step < task.steps; ++step) load_input(shared, input_map, task, step, step);
    Place place;
    for (int step = STAGES; step < task.steps; ++step) {
        wait(shared.empty(place.stage), place.parity);
        weights.load(shared, task, place.stage, step);
        load_input(shared, input_map, task, place.stage, step);
        place.advance();
    }
    // The warps that multiply wait without a limit, so this one sees to it that the last tiles come as well.
    for (int step = max(task.steps - STAGES, 0); step < task.steps; ++step) {
        wait(shared.full(place.stage), place.parity);
        place.advance();
    }
}

// Tells the loading warp that one more warp has done with this stage: the tensor cores have read it when await_products
// has returned.
__device__ __forceinline__ void release(Shared shared, const Task& task, int stage) {
    if (threadIdx.x % 32 == 0) arrive_remote(remote_address(shared.empty(stage), task.split_rank));
}

// Starts the products of one stage. `metadata` must not change until they are done.
__device__ __forceinline__ void multiply_stage(Shared shared, int stage, int step, float (&sums)[4 * CHUNKS],
                                               uint2& metadata) {
    const int group = threadIdx.x / 128;
    const unsigned long long weight = tile_descriptor(shared.weight(stage));
    const unsigned long long input = tile_descriptor(shared.input(stage) + group * GROUP_ROWS * ROW_BYTES);
#if SPARSE
    constexpr int NEXT_BOX = BOX_BYTES / 16;
    metadata = load_two(shared.metadata(stage) + threadIdx.x % 128 * 8);
    begin_products();
    multiply<0>(sums, weight, input, metadata.x, step);
    multiply<1>(sums, weight + 2, input + 4, metadata.x, 1);
    multiply<0>(sums, weight + 4, input + NEXT_BOX, metadata.y, 1);
    multiply<1>(sums, weight + 6, input + NEXT_BOX + 4, metadata.y, 1);
#else
    begin_products();
#pragma unroll
    for (int part = 0; part < ROW_BYTES / 32; ++part) {
        multiply(sums, weight + 2 * part, input + 2 * part, step + part);
    }
#endif
    commit_products();
}

__device__ __forceinline__ void multiply_tiles(Shared shared, const Task& task, float (&sums)[4 * CHUNKS]) {
    // While the products of a stage run, those of the next are issued: they take turns with two sets of registers.
    constexpr int TURNS = SPARSE ? 2 : 1;
    uint2 metadata[TURNS] = {};
    Place place;
    int stage_before = 0;
    for (int first = 0; first < task.steps; first += TURNS) {
#pragma unroll
        for (int turn = 0; turn < TURNS; ++turn) {
            const int step = first + turn;
            if (step >= task.steps) break;
            wait_watched(shared.full(place.stage), place.parity);
            multiply_stage(shared, place.stage, step, sums, metadata[turn]);
            await_products<1>(sums);
            if constexpr (SPARSE) keep(shared.full(0), metadata[TURNS - 1 - turn]);
            // A release that no load waits for could reach a block that has ended.
            if (step > 0 && step - 1 + STAGES < task.steps) release(shared, task, stage_before);
            stage_before = place.stage;
            place.advance();
        }
    }
    await_products<0>(sums);
    if constexpr (SPARSE) {
        for (const uint2 words : metadata) keep(shared.full(0), words);
    }
}

// Sends the chunks that other blocks of the split finish to them, and keeps the others: kept[4·i ...] is this block's
// part of chunk i·SPLIT + split_rank.
__device__ __forceinline__ void exchange(Shared shared, const Task& task, const float (&sums)[4 * CHUNKS],
                                         float (&kept)[4 * KEPT]) {
    const int rank = task.split_rank;
#pragma unroll
    for (int owner = 0; owner < SPLIT; ++owner) {
        if (owner == rank) {
#pragma unroll
            for (int chunk = owner; chunk < CHUNKS; chunk += SPLIT) {
#pragma unroll
                for (int i = 0; i < 4; ++i) kept[chunk / SPLIT * 4 + i] = sums[4 * chunk + i];
            }
        } else {
            const unsigned int complete = remote_address(shared.complete(), owner);
            const unsigned int received = shared.received(rank < owner ? rank : rank - 1) + threadIdx.x * 16;
            const unsigned int to = remote_address(received, owner);
#pragma unroll
            for (int chunk = owner; chunk < CHUNKS; chunk += SPLIT) {
                send_four(to + chunk / SPLIT * WORKERS * 16, sums + 4 * chunk, complete);
            }
        }
    }
}

// Adds what the other blocks of the split have sent.
__device__ __forceinline__ void add_received(Shared shared, const Task& task, float (&kept)[4 * KEPT]) {
    wait(shared.complete(), 0);
#pragma unroll
    for (int source = 0; source < SPLIT - 1; ++source) {
#pragma unroll
        for (int i = 0; i < KEPT; ++i) {
            if (i >= chunks_of(task.split_rank)) continue;
            float partial[4];
            load_four(shared.received(source) + i * WORKERS * 16 + threadIdx.x * 16, partial);
#pragma unroll
            for (int j = 0; j < 4; ++j) kept[4 * i + j] += partial[j];
        }
    }
}

// Writes the finished sums to `staged` [KEPT, ROW_GROUPS, 8 rows, TILE_OUT features].
__device__ __forceinline__ void stage_sums(float* staged, const float (&kept)[4 * KEPT]) {
    const int group = threadIdx.x / 128, lane = threadIdx.x % 32;
    const int feature = threadIdx.x % 128 / 32 * 16 + lane / 4;
    const int row = group * 8 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < KEPT; ++i) {
        float* to = staged + i * STAGED_CHUNK + row * STAGED_PITCH + feature;
        to[0] = kept[4 * i];
        to[STAGED_PITCH] = kept[4 * i + 1];
        to[8] = kept[4 * i + 2];
        to[STAGED_PITCH + 8] = kept[4 * i + 3];
    }
}

__device__ __forceinline__ float activate(float x) {
    if constexpr (ACTIVATION == 1) {
        // x/2·(1 + tanh u) = x / (1 + exp(-2u)) with u = √(2/π)·(x + 0.044715·x³)
        const float minus_2u = -1.5957691216057308f * (x + 0.044715f * x * x * x);
        return __fdividef(x, 1.0f + __expf(minus_2u));
    }
    return x;
}

// Four features of a row, as one thread stores them.
struct __align__(8) Four {
    pair part[2];
};

// What one thread stores: four features of one row in each chunk that the block owns.
struct Stripe {
    int staged;  // where chunk 0 is staged
    int first_row;
    int feature;

    __device__ explicit Stripe(const Task& task) {
        constexpr int ROW_THREADS = TILE_OUT / 4;
        const int row = threadIdx.x / ROW_THREADS, column = threadIdx.x % ROW_THREADS * 4;
        staged = row * STAGED_PITCH + column;
        first_row = task.first_row + row / 8 * GROUP_ROWS + task.split_rank * 8 + row % 8;
        feature = task.first_feature + column;
    }
    __device__ int row(int i) const { return first_row + i * SPLIT * 8; }
    __device__ bool has(int i, const Task& task, int rows) const {
        return i < chunks_of(task.split_rank) && row(i) < rows;
    }
    __device__ size_t offset(int i, int out_width) const {
        return static_cast<size_t>(row(i)) * out_width + feature;
    }
};

// Issued where it stands, so that it is under way while the sums are finished.
__device__ __forceinline__ Four load_ahead(const scalar* from) {
    Four four;
    asm volatile("ld.global.v2.b32 {%0, %1}, [%2];" : "=r"(four.part[0]), "=r"(four.part[1]) : "l"(from));
    return four;
}

// What the sums are multiplied by, and the finished values before they are stored in FP8.
struct Scales {
    float product, inverse_output;
};

__device__ __forceinline__ pair finished(float low, float high, pair bias, pair residual, Scales scales) {
    if constexpr (FP8) {
        low *= scales.product;
        high *= scales.product;
    }
    return to_stored(activate(low + low_float(bias)) + low_float(residual),
                     activate(high + high_float(bias)) + high_float(residual), scales.inverse_output);
}

__device__ __forceinline__ void store_pairs(stored* to, Four values) {
#if OUTPUT_FP8
    *reinterpret_cast<unsigned int*>(to) = values.part[0] | values.part[1] << 16;
#else
    *reinterpret_cast<Four*>(to) = values;
#endif
}

extern "C" __global__ void __launch_bounds__(WORKERS + 32)
    matmul(const __grid_constant__ TensorMap weight_map, const __grid_constant__ TensorMap input_map,
           const scalar* __restrict__ bias, const scalar* residual, stored* output, int rows, int in_width,
           int out_width, float scale, float inverse_output_scale, const unsigned char* __restrict__ metadata) {
    extern __shared__ __align__(1024) unsigned char memory[];
    const Shared shared{shared_address(memory)};
    const Task task = task_of(in_width);
    const Weights weights = {weight_map, metadata_of(metadata, task, in_width)};
    const bool loads = threadIdx.x == WORKERS;
    if (loads) {
        init_barriers(shared, task);
        load_ahead(shared, weights, task);
    }
    __syncwarp();
    synchronize_cluster();
    let_next_kernel_start();
    if (threadIdx.x >= WORKERS) {
        if (loads) load_tiles_of(shared, weights, input_map, task);
        return;
    }

    const Scales scales = {scale, inverse_output_scale};
    const Stripe stripe(task);
    const Four shift = BIAS ? load_ahead(bias + stripe.feature) : Four{};
    float sums[4 * CHUNKS];
    multiply_tiles(shared, task, sums);

    wait_for_kernels_before();
    Four residuals[KEPT] = {};
    if constexpr (RESIDUAL) {
#pragma unroll
        for (int i = 0; i < KEPT; ++i) {
            if (stripe.has(i, task, rows)) residuals[i] = load_ahead(residual + stripe.offset(i, out_width));
        }
    }

    float kept[4 * KEPT];
    exchange(shared, task, sums, kept);
    if constexpr (SPLIT > 1) add_received(shared, task, kept);
    float* staged = reinterpret_cast<float*>(memory);
    synchronize_workers();  // the tiles may still be multiplied
    stage_sums(staged, kept);
    synchronize_workers();
#pragma unroll(RESIDUAL ? KEPT : 2)
    for (int i = 0; i < KEPT; ++i) {
        if (!stripe.has(i, task, rows)) continue;
        const float4 four = *reinterpret_cast<const float4*>(staged + stripe.staged + i * STAGED_CHUNK);
        const Four added = RESIDUAL ? residuals[i] : Four{};
        store_pairs(output + stripe.offset(i, out_width),
                    Four{finished(four.x, four.y, shift.part[0], added.part[0], scales),
                         finished(four.z, four.w, shift.part[1], added.part[1], scales)});
    }
}
