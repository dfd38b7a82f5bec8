// A linear layer on Hopper's tensor cores, for a few hundred rows:
//
//   output[row, feature] = act(Σ input[row, k]·weight[feature, k] + bias[feature]) + residual[row, feature]
//
//   input [rows, in_width], weight [out_width, in_width], bias [out_width], residual and output [rows, out_width];
//   residual may be output. in_width is a multiple of 64, at least 64·SPLIT; out_width a multiple of 64. Compute
//   capability 9.0.
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
// SPLIT, up to 8; ACTIVATION, 0 none, 1 GELU by tanh; BIAS and RESIDUAL, 0 or 1. XVLA_SPIN_LIMIT traps after so many
// polls of a barrier instead of hanging.
//
// With TILE_ROWS = GROUP_ROWS·ROW_GROUPS and KEPT = ⌈GROUP_ROWS / 8 / SPLIT⌉:
//   grid (SPLIT, out_width / 64, ⌈rows / TILE_ROWS⌉), cluster (SPLIT, 1, 1), block 128·ROW_GROUPS + 32,
//   dynamic shared memory STAGES·(64 + TILE_ROWS)·128 + (SPLIT - 1)·KEPT·ROW_GROUPS·2048 + 16·STAGES + 8 bytes.
//
// Tensor maps (cuTensorMapEncodeTiled): rank 2, 16-bit elements, dimensions {in_width, out_width or rows}, stride
// {2·in_width} bytes, box {64, 64} for weight_map and {64, TILE_ROWS} for input_map, element strides {1, 1}, no
// interleave, 128-byte swizzle, out-of-bounds fill with zeros (NONE).

constexpr int TILE_OUT = 64;  // the features that a warpgroup multiplies
constexpr int TILE_ROWS = GROUP_ROWS * ROW_GROUPS;
constexpr int TILE_IN = 64;
constexpr int ROW_BYTES = 2 * TILE_IN;  // one row of the 128-byte swizzle
constexpr int WEIGHT_BYTES = TILE_OUT * ROW_BYTES;
constexpr int INPUT_BYTES = TILE_ROWS * ROW_BYTES;
constexpr int STAGE_BYTES = WEIGHT_BYTES + INPUT_BYTES;

constexpr int WORKERS = 128 * ROW_GROUPS;  // threads that multiply; one more warp loads

constexpr int CHUNKS = GROUP_ROWS / 8;
constexpr int KEPT = (CHUNKS + SPLIT - 1) / SPLIT;   // chunks of eight rows that a block finishes, at most
constexpr int RECEIVED_BYTES = KEPT * WORKERS * 16;  // from one other block of the split
constexpr int STAGED_PITCH = TILE_OUT + 4;           // floats; padded so that the transposition has no bank conflicts
constexpr int STAGED_CHUNK = ROW_GROUPS * 8 * STAGED_PITCH;
constexpr int STAGED_BYTES = KEPT * STAGED_CHUNK * 4;

static_assert(GROUP_ROWS % 8 == 0 && GROUP_ROWS <= 256, "the width of wgmma");
static_assert(TILE_ROWS <= 256, "a box holds 256 rows");
static_assert(SPLIT <= 8, "larger clusters are not portable");
static_assert(STAGED_BYTES <= STAGES * STAGE_BYTES, "the result is staged where the tiles were");

struct __align__(64) TensorMap {
    unsigned long long opaque[16];
};

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
    __device__ unsigned int received(int source) const { return weight(STAGES) + source * RECEIVED_BYTES; }
    __device__ unsigned int full(int stage) const { return received(SPLIT - 1) + 8 * stage; }
    __device__ unsigned int empty(int stage) const { return full(STAGES + stage); }
    __device__ unsigned int complete() const { return full(2 * STAGES); }  // all partial sums received
};

// Barriers in shared memory (mbarrier). A phase is over when all have arrived and all announced bytes have.

__device__ __forceinline__ void init_barrier(unsigned int barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine and to the cluster.
__device__ __forceinline__ void fence_barrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async;" ::: "memory");
}

__device__ __forceinline__ void arrive_expecting(unsigned int barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// `barrier` may be another block's. Not a release at cluster scope, which would flush all stores: what is announced is
// that the tensor cores have read a tile, and they have when await_products returns.
__device__ __forceinline__ void arrive_remote(unsigned int barrier) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ bool is_over(unsigned int barrier, unsigned int parity) {
    unsigned int over;
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(over)
        : "r"(barrier), "r"(parity)
        : "memory");
    return over != 0;
}

__device__ __forceinline__ void wait(unsigned int barrier, unsigned int parity) {
#ifdef XVLA_SPIN_LIMIT
    for (int polls = 0; !is_over(barrier, parity); ++polls) {
        if (polls > XVLA_SPIN_LIMIT) __trap();
    }
#else
    while (!is_over(barrier, parity)) {
    }
#endif
}

// Where the block `rank` of the cluster has what is at `address` here.
__device__ __forceinline__ unsigned int remote_address(unsigned int address, unsigned int rank) {
    unsigned int remote;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
    return remote;
}

// Relaxed, since fence_barrier_init has released what matters.
__device__ __forceinline__ void synchronize_cluster() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__device__ __forceinline__ void synchronize_workers() {
    asm volatile("bar.sync 1, %0;" ::"n"(WORKERS) : "memory");
}

// Stores sixteen bytes in another block's shared memory and announces them to the barrier beside it.
__device__ __forceinline__ void send_four(unsigned int to, const float values[4], unsigned int barrier) {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
        "f"(values[0]), "f"(values[1]), "f"(values[2]), "f"(values[3]), "r"(barrier)
        : "memory");
}

__device__ __forceinline__ void load_four(unsigned int from, float values[4]) {
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(values[0]), "=f"(values[1]), "=f"(values[2]), "=f"(values[3])
                 : "r"(from)
                 : "memory");
}

// Dependent launches: what the kernels before wrote may be touched after the one, the kernel after may start its blocks
// after the other.
__device__ __forceinline__ void wait_for_kernels_before() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void let_next_kernel_start() {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// Tensor copies: the box at (column, row) of the map's tensor.

__device__ __forceinline__ void copy_box(unsigned int to, const TensorMap& map, int column, int row,
                                         unsigned int barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            to),
        "l"(&map), "r"(column), "r"(row), "r"(barrier)
        : "memory");
}

__device__ __forceinline__ void prefetch_box(const TensorMap& map, int column, int row) {
    asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(&map), "r"(column), "r"(row)
                 : "memory");
}

// Products of a warpgroup (wgmma).

__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void await_products(float (&sums)[4 * CHUNKS]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
    if constexpr (PENDING == 0) {
        // Keeps the compiler from reading the sums before the wait.
#pragma unroll
        for (int i = 0; i < 4 * CHUNKS; ++i) asm volatile("" : "+f"(sums[i])::"memory");
    }
}

// Describes a tile of 64 columns to wgmma: its rows are 128 bytes in the 128-byte swizzle (1 in the top bits), groups
// of eight rows are 1024 bytes apart. The other stride has no meaning here and is 1. All in units of sixteen bytes.
__device__ __forceinline__ unsigned long long tile_descriptor(unsigned int address) {
    return (1ull << 62) | (static_cast<unsigned long long>(1024 >> 4) << 32) | (1ull << 16) |
           ((address & 0x3ffffu) >> 4);
}

// The registers of one wgmma, four for each eight rows. They have to be spelled out, and C++ cannot count in strings.
#define REGISTERS_8(FIRST, NEXT) FIRST(3, 4, 5, 6)
#define REGISTERS_16(FIRST, NEXT) REGISTERS_8(FIRST, NEXT) NEXT(7, 8, 9, 10)
#define REGISTERS_24(FIRST, NEXT) REGISTERS_16(FIRST, NEXT) NEXT(11, 12, 13, 14)
#define REGISTERS_32(FIRST, NEXT) REGISTERS_24(FIRST, NEXT) NEXT(15, 16, 17, 18)
#define REGISTERS_40(FIRST, NEXT) REGISTERS_32(FIRST, NEXT) NEXT(19, 20, 21, 22)
#define REGISTERS_48(FIRST, NEXT) REGISTERS_40(FIRST, NEXT) NEXT(23, 24, 25, 26)
#define REGISTERS_56(FIRST, NEXT) REGISTERS_48(FIRST, NEXT) NEXT(27, 28, 29, 30)
#define REGISTERS_64(FIRST, NEXT) REGISTERS_56(FIRST, NEXT) NEXT(31, 32, 33, 34)
#define REGISTERS_72(FIRST, NEXT) REGISTERS_64(FIRST, NEXT) NEXT(35, 36, 37, 38)
#define REGISTERS_80(FIRST, NEXT) REGISTERS_72(FIRST, NEXT) NEXT(39, 40, 41, 42)
#define REGISTERS_88(FIRST, NEXT) REGISTERS_80(FIRST, NEXT) NEXT(43, 44, 45, 46)
#define REGISTERS_96(FIRST, NEXT) REGISTERS_88(FIRST, NEXT) NEXT(47, 48, 49, 50)
#define REGISTERS_104(FIRST, NEXT) REGISTERS_96(FIRST, NEXT) NEXT(51, 52, 53, 54)
#define REGISTERS_112(FIRST, NEXT) REGISTERS_104(FIRST, NEXT) NEXT(55, 56, 57, 58)
#define REGISTERS_120(FIRST, NEXT) REGISTERS_112(FIRST, NEXT) NEXT(59, 60, 61, 62)
#define REGISTERS_128(FIRST, NEXT) REGISTERS_120(FIRST, NEXT) NEXT(63, 64, 65, 66)
#define REGISTERS_136(FIRST, NEXT) REGISTERS_128(FIRST, NEXT) NEXT(67, 68, 69, 70)
#define REGISTERS_144(FIRST, NEXT) REGISTERS_136(FIRST, NEXT) NEXT(71, 72, 73, 74)
#define REGISTERS_152(FIRST, NEXT) REGISTERS_144(FIRST, NEXT) NEXT(75, 76, 77, 78)
#define REGISTERS_160(FIRST, NEXT) REGISTERS_152(FIRST, NEXT) NEXT(79, 80, 81, 82)
#define REGISTERS_168(FIRST, NEXT) REGISTERS_160(FIRST, NEXT) NEXT(83, 84, 85, 86)
#define REGISTERS_176(FIRST, NEXT) REGISTERS_168(FIRST, NEXT) NEXT(87, 88, 89, 90)
#define REGISTERS_184(FIRST, NEXT) REGISTERS_176(FIRST, NEXT) NEXT(91, 92, 93, 94)
#define REGISTERS_192(FIRST, NEXT) REGISTERS_184(FIRST, NEXT) NEXT(95, 96, 97, 98)
#define REGISTERS_200(FIRST, NEXT) REGISTERS_192(FIRST, NEXT) NEXT(99, 100, 101, 102)
#define REGISTERS_208(FIRST, NEXT) REGISTERS_200(FIRST, NEXT) NEXT(103, 104, 105, 106)
#define REGISTERS_216(FIRST, NEXT) REGISTERS_208(FIRST, NEXT) NEXT(107, 108, 109, 110)
#define REGISTERS_224(FIRST, NEXT) REGISTERS_216(FIRST, NEXT) NEXT(111, 112, 113, 114)
#define REGISTERS_232(FIRST, NEXT) REGISTERS_224(FIRST, NEXT) NEXT(115, 116, 117, 118)
#define REGISTERS_240(FIRST, NEXT) REGISTERS_232(FIRST, NEXT) NEXT(119, 120, 121, 122)
#define REGISTERS_248(FIRST, NEXT) REGISTERS_240(FIRST, NEXT) NEXT(123, 124, 125, 126)
#define REGISTERS_256(FIRST, NEXT) REGISTERS_248(FIRST, NEXT) NEXT(127, 128, 129, 130)

#define FIRST_NAMES(a, b, c, d) "%" #a ", %" #b ", %" #c ", %" #d
#define NEXT_NAMES(a, b, c, d) ", %" #a ", %" #b ", %" #c ", %" #d
#define OPERANDS(a, b, c, d) , "+f"(sums[a - 3]), "+f"(sums[b - 3]), "+f"(sums[c - 3]), "+f"(sums[d - 3])
#define JOINED(left, right) left##right
#define REGISTERS(rows) JOINED(REGISTERS_, rows)
#define QUOTED_TEXT(text) #text
#define QUOTED(macro) QUOTED_TEXT(macro)
#ifdef XVLA_BF16
#define PRODUCT_TYPES "f32.bf16.bf16"
#else
#define PRODUCT_TYPES "f32.f16.f16"
#endif

// sums = weight·inputᵀ over 16 columns, plus the sums before if `add` is not 0. With lane = 4·group + member, the sums
// 4·chunk + i of a thread belong to row 8·chunk + 2·member + i % 2 and feature 16·warp + group + 8·(i / 2). The inputs
// are called outputs so that they come first and the numbers of the sums do not depend on GROUP_ROWS.
__device__ __forceinline__ void multiply(float (&sums)[4 * CHUNKS], unsigned long long weight,
                                         unsigned long long input, int add) {
    asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %2, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n" QUOTED(GROUP_ROWS) "k16." PRODUCT_TYPES
                 " {" REGISTERS(GROUP_ROWS)(FIRST_NAMES, NEXT_NAMES) "}, %0, %1, add, 1, 1, 0, 0;\n\t}"
                 : "+l"(weight), "+l"(input), "+r"(add) REGISTERS(GROUP_ROWS)(OPERANDS, OPERANDS)
                 :
                 : "memory");
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

// The announcement covers both tiles of the stage.
__device__ __forceinline__ void load_weight(Shared shared, const TensorMap& map, const Task& task, int stage,
                                            int step) {
    arrive_expecting(shared.full(stage), STAGE_BYTES);
    copy_box(shared.weight(stage), map, (task.first_step + step) * TILE_IN, task.first_feature, shared.full(stage));
}

__device__ __forceinline__ void load_input(Shared shared, const TensorMap& map, const Task& task, int stage, int step) {
    const int column = (task.first_step + step) * TILE_IN;
    copy_box(shared.input(stage), map, column, task.first_row, shared.full(stage));
}

// Everything that can be loaded before the kernels before have ended.
__device__ __forceinline__ void load_ahead(Shared shared, const TensorMap& weight_map, const Task& task) {
    for (int step = 0; step < STAGES && step < task.steps; ++step) load_weight(shared, weight_map, task, step, step);
#pragma unroll 1
    for (int step = STAGES; step < task.steps; ++step) {
        prefetch_box(weight_map, (task.first_step + step) * TILE_IN, task.first_feature);
    }
}

__device__ __forceinline__ void load_tiles_of(Shared shared, const TensorMap& weight_map, const TensorMap& input_map,
                                              const Task& task) {
    wait_for_kernels_before();
    for (int step = 0; step < STAGES && step < task.steps; ++step) load_input(shared, input_map, task, step, step);
    Place place;
    for (int step = STAGES; step < task.steps; ++step) {
        wait(shared.empty(place.stage), place.parity);
        load_weight(shared, weight_map, task, place.stage, step);
        load_input(shared, input_map, task, place.stage, step);
        place.advance();
    }
}

// Tells the loading warp that one more warp has done with this stage.
__device__ __forceinline__ void release(Shared shared, const Task& task, int stage) {
    if (threadIdx.x % 32 == 0) arrive_remote(remote_address(shared.empty(stage), task.split_rank));
}

__device__ __forceinline__ void multiply_tiles(Shared shared, const Task& task, float (&sums)[4 * CHUNKS]) {
    const int group = threadIdx.x / 128;
    const int input_offset = group * GROUP_ROWS * ROW_BYTES;
    Place place;
    int stage_before = 0;
    for (int step = 0; step < task.steps; ++step) {
        wait(shared.full(place.stage), place.parity);
        const unsigned long long weight = tile_descriptor(shared.weight(place.stage));
        const unsigned long long input = tile_descriptor(shared.input(place.stage) + input_offset);
        begin_products();
#pragma unroll
        for (int part = 0; part < TILE_IN / 16; ++part) {
            multiply(sums, weight + 2 * part, input + 2 * part, step + part);
        }
        commit_products();
        await_products<1>(sums);
        // A release that no load waits for could reach a block that has ended.
        if (step > 0 && step - 1 + STAGES < task.steps) release(shared, task, stage_before);
        stage_before = place.stage;
        place.advance();
    }
    await_products<0>(sums);
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

__device__ __forceinline__ pair finished(float low, float high, pair bias, pair residual) {
    return to_pair(activate(low + low_float(bias)) + low_float(residual),
                   activate(high + high_float(bias)) + high_float(residual));
}

extern "C" __global__ void __launch_bounds__(WORKERS + 32)
    matmul(const __grid_constant__ TensorMap weight_map, const __grid_constant__ TensorMap input_map,
           const scalar* __restrict__ bias, const scalar* residual, scalar* output, int rows, int in_width,
           int out_width) {
    extern __shared__ __align__(1024) unsigned char memory[];
    const Shared shared{shared_address(memory)};
    const Task task = task_of(in_width);
    const bool loads = threadIdx.x == WORKERS;
    if (loads) {
        init_barriers(shared, task);
        load_ahead(shared, weight_map, task);
    }
    __syncwarp();
    synchronize_cluster();
    let_next_kernel_start();
    if (threadIdx.x >= WORKERS) {
        if (loads) load_tiles_of(shared, weight_map, input_map, task);
        return;
    }

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
        *reinterpret_cast<Four*>(output + stripe.offset(i, out_width)) =
            Four{finished(four.x, four.y, shift.part[0], added.part[0]),
                 finished(four.z, four.w, shift.part[1], added.part[1])};
    }
}
