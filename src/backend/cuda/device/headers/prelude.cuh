// What every kernel file here begins with. NVRTC compiles prelude + file at run time, once per precision and set of
// sizes, with no header at hand: everything needed is in these lines.
//
// Defined by the caller: XVLA_BF16 for bfloat16, nothing for IEEE half; OUTPUT_FP8 1 for kernels that store their result
// for a product in FP8. Sizes that shape registers or shared memory are macros too; each file names its own.

typedef unsigned short scalar;  // the bits of one half or bfloat16
typedef unsigned int pair;      // the bits of two, the first in the low half

// Sixteen bytes: what one thread loads or stores at once.
struct __align__(16) Eight {
    pair part[4];
};

__device__ __forceinline__ float to_float(scalar bits) {
#ifdef XVLA_BF16
    return __uint_as_float(static_cast<unsigned int>(bits) << 16);
#else
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#endif
}

__device__ __forceinline__ scalar to_scalar(float value) {
    scalar bits;
#ifdef XVLA_BF16
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#endif
    return bits;
}

__device__ __forceinline__ pair to_pair(float low, float high) {
    pair bits;
#ifdef XVLA_BF16
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
#endif
    return bits;
}

__device__ __forceinline__ float low_float(pair bits) { return to_float(static_cast<scalar>(bits & 0xffffu)); }
__device__ __forceinline__ float high_float(pair bits) { return to_float(static_cast<scalar>(bits >> 16)); }

__device__ __forceinline__ Eight load_eight(const scalar* from) { return *reinterpret_cast<const Eight*>(from); }
__device__ __forceinline__ void store_eight(scalar* to, Eight values) { *reinterpret_cast<Eight*>(to) = values; }

// Loads from global memory that are issued where they stand. The compiler moves a load of constant data (.nc) down to
// its first use, past barriers too, where its latency is waited for again; an asm volatile load without .nc stays.
__device__ __forceinline__ pair load_pair_ahead(const scalar* from) {
    pair values;
    asm volatile("ld.global.b32 %0, [%1];" : "=r"(values) : "l"(from));
    return values;
}

__device__ __forceinline__ Eight load_eight_ahead(const scalar* from) {
    Eight values;
    asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(values.part[0]), "=r"(values.part[1]), "=r"(values.part[2]), "=r"(values.part[3])
                 : "l"(from));
    return values;
}

__device__ __forceinline__ void unpack(Eight packed, float values[8]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        values[2 * i] = low_float(packed.part[i]);
        values[2 * i + 1] = high_float(packed.part[i]);
    }
}

__device__ __forceinline__ Eight pack(const float values[8]) {
    Eight packed;
#pragma unroll
    for (int i = 0; i < 4; ++i) packed.part[i] = to_pair(values[2 * i], values[2 * i + 1]);
    return packed;
}

// Two values as E4M3 in the low half, the first in the lowest byte: the nearest, ties to even, within ±448. Compute
// capability 8.9 and later.
__device__ __forceinline__ pair to_fp8_pair(float low, float high) {
    unsigned short bits;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(bits) : "f"(high), "f"(low));
    return bits;
}

// How a kernel stores its result: in 16 bits, or with OUTPUT_FP8 as E4M3 of value·inverse_scale, for a product in FP8.
#ifndef OUTPUT_FP8
#define OUTPUT_FP8 0
#endif

#if OUTPUT_FP8
typedef unsigned char stored;
#else
typedef scalar stored;
#endif

// Two values as they are stored; those in FP8 take the low half.
__device__ __forceinline__ pair to_stored(float low, float high, float inverse_scale) {
#if OUTPUT_FP8
    return to_fp8_pair(low * inverse_scale, high * inverse_scale);
#else
    return to_pair(low, high);
#endif
}

__device__ __forceinline__ void store_two(stored* to, pair values) {
#if OUTPUT_FP8
    *reinterpret_cast<unsigned short*>(to) = static_cast<unsigned short>(values);
#else
    *reinterpret_cast<pair*>(to) = values;
#endif
}

// Four times two from `to_stored`.
__device__ __forceinline__ void store_four_pairs(stored* to, Eight values) {
#if OUTPUT_FP8
    *reinterpret_cast<uint2*>(to) =
        make_uint2(values.part[0] | values.part[1] << 16, values.part[2] | values.part[3] << 16);
#else
    *reinterpret_cast<Eight*>(to) = values;
#endif
}

__device__ __forceinline__ void store_values(stored* to, const float values[8], float inverse_scale) {
    Eight packed;
#pragma unroll
    for (int i = 0; i < 4; ++i) packed.part[i] = to_stored(values[2 * i], values[2 * i + 1], inverse_scale);
    store_four_pairs(to, packed);
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

// c += a·b on the tensor cores: a is 16×16 by rows, b is 16×8 by columns, c is 16×8 in single precision.
//
// With lane = 4·group + member: c[0], c[1] are row `group`, columns 2·member and + 1; c[2], c[3] the same of row
// group + 8. a[0]: row group, columns 2·member..+1; a[1]: row group + 8; a[2], a[3]: those rows, columns + 8.
// b[0]: rows 2·member..+1 of column group; b[1]: rows + 8.
__device__ __forceinline__ void mma(float c[4], const pair a[4], const pair b[2]) {
#ifdef XVLA_BF16
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ unsigned int shared_address(const void* pointer) {
    return static_cast<unsigned int>(__cvta_generic_to_shared(pointer));
}

// Four 8×8 tiles from shared memory into the fragments that `mma` takes; lane i gives the address of row i % 8 of tile
// i / 8, sixteen bytes aligned.
__device__ __forceinline__ void load_tiles(pair tiles[4], const scalar* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(shared_address(row)));
}

// The same, each tile transposed on the way.
__device__ __forceinline__ void load_tiles_transposed(pair tiles[4], const scalar* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(shared_address(row)));
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

// Lets the kernel after this one in the stream begin, and waits until the one before is done and its results are
// visible. Launched with programmatic stream serialization, a kernel may begin while its predecessor still runs; what
// it reads of weights beforehand is free. Inputs that the predecessor wrote must not be `__restrict__`: the compiler
// may read those too early.
__device__ __forceinline__ void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
