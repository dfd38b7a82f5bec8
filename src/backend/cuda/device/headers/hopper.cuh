// What Hopper has for blocks that work in clusters and for copies that run by themselves: barriers in shared memory,
// another block's shared memory, dependent launches, the tensor copy engine. Compute capability 9.0 and later.
//
// Macro: XVLA_SPIN_LIMIT, the polls of a barrier after which `wait` traps, so that the host is told of a lost device instead
// of waiting for ever. What it waits for comes within microseconds. A poll may sleep for a time of the chip's own choosing,
// 4 us on an H200: that makes about four seconds, less than the host's own limits on waiting.
#ifndef XVLA_SPIN_LIMIT
#define XVLA_SPIN_LIMIT (1 << 20)
#endif

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

// `barrier` may be another block's. Not a release at cluster scope, which would flush all stores: it announces that
// something has been read.
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
#pragma unroll 1
    for (int polls = 0; !is_over(barrier, parity); ++polls) {
        if (polls > XVLA_SPIN_LIMIT) __trap();
    }
}

// As `wait`, without the limit, which made ten policy steps 2 % longer where the multiplying warps had it: for barriers
// that another warp of the block watches with `wait`.
__device__ __forceinline__ void wait_watched(unsigned int barrier, unsigned int parity) {
    while (!is_over(barrier, parity)) {
    }
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

__device__ __forceinline__ uint2 load_two(unsigned int from) {
    uint2 words;
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(words.x), "=r"(words.y) : "r"(from) : "memory");
    return words;
}

// Dependent launches: what the kernels before wrote may be touched after the one, the kernel after may start its blocks
// after the other.
__device__ __forceinline__ void wait_for_kernels_before() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void let_next_kernel_start() {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// Tensor copies: the box at (column, row) of the map's tensor. The driver makes the map (cuTensorMapEncodeTiled).

struct __align__(64) TensorMap {
    unsigned long long opaque[16];
};

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

// Plain copies: a multiple of sixteen bytes that lie together, from an address that is a multiple of sixteen too.

template <int BYTES>
__device__ __forceinline__ void copy_bytes(unsigned int to, const unsigned char* from, unsigned int barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
        "l"(__cvta_generic_to_global(from)), "n"(BYTES), "r"(barrier)
        : "memory");
}

template <int BYTES>
__device__ __forceinline__ void prefetch_bytes(const unsigned char* from) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(from)), "n"(BYTES)
                 : "memory");
}
