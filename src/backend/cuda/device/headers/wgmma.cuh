// Products of a warpgroup on Hopper's tensor cores (wgmma): 64 features by GROUP_ROWS rows, summed in registers.
// Compute capability 9.0 alone.
//
// Macros: GROUP_ROWS, a multiple of 8 up to 256; FP8 and SPARSE, 0 or 1.

constexpr int CHUNKS = GROUP_ROWS / 8;  // of eight rows

static_assert(GROUP_ROWS % 8 == 0 && GROUP_ROWS <= 256, "the width of wgmma");

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

// Keeps `words` in its registers up to this point. The tensor cores read metadata while a product runs, but the compiler
// gives its registers to something else once the product has been issued. So they are an operand of a store that never
// happens: `address` is one in shared memory and not 0.
__device__ __forceinline__ void keep(unsigned int address, uint2 words) {
    asm volatile("{\n\t.reg .pred never;\n\tsetp.eq.b32 never, %0, 0;\n\t@never st.shared.v2.b32 [%0], {%1, %2};\n\t}" ::"r"(
                     address),
                 "r"(words.x), "r"(words.y)
                 : "memory");
}

// Describes a tile to wgmma: its rows are 128 bytes in the 128-byte swizzle (1 in the top bits), groups
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
#if FP8
#define PRODUCT_TYPES "k32.f32.e4m3.e4m3"
#define AS_THEY_ARE ", 1, 1"  // neither operand negated
#else
#ifdef XVLA_BF16
#define PRODUCT_TYPES PRODUCT_COLUMNS ".f32.bf16.bf16"
#else
#define PRODUCT_TYPES PRODUCT_COLUMNS ".f32.f16.f16"
#endif
#if SPARSE
#define PRODUCT_COLUMNS "k32"
#else
#define PRODUCT_COLUMNS "k16"
#endif
#define AS_THEY_ARE ", 1, 1, 0, 0"  // nor transposed, which FP8 cannot be
#endif

// sums = weight·inputᵀ over 32 bytes of a row of the weight, 16 elements or, in FP8, 32; plus the sums before if `add` is
// not 0. With lane = 4·group + member, the sums 4·chunk + i of a thread belong to row 8·chunk + 2·member + i % 2 and
// feature 16·warp + group + 8·(i / 2). The inputs are called outputs so that they come first and the numbers of the sums
// do not depend on GROUP_ROWS.
//
// With SPARSE those elements are the kept ones of 32 columns, so that 64 bytes of the input belong to them. Each thread
// has a word of metadata for 16 columns of two features, in the low half for feature 16·warp + group, in the high half
// for the one eight after it. SELECTOR 0 takes the first 16 columns from the members 0 and the next from 1; SELECTOR 1
// from 2 and 3.
#if SPARSE
template <int SELECTOR>
__device__ __forceinline__ void multiply(float (&sums)[4 * CHUNKS], unsigned long long weight,
                                         unsigned long long input, unsigned int metadata, int add) {
    // Two words as one operand, so that the numbers of the sums stay.
    unsigned long long words = static_cast<unsigned long long>(metadata) << 32 | static_cast<unsigned int>(add);
#define SPARSE_PRODUCT(selector)                                                                                    \
    asm volatile("{\n\t.reg .pred add;\n\t.reg .b32 last, metadata;\n\tmov.b64 {last, metadata}, %2;\n\t"             \
                 "setp.ne.b32 add, last, 0;\n\t"                                                                    \
                 "wgmma.mma_async.sp.sync.aligned.m64n" QUOTED(GROUP_ROWS) PRODUCT_TYPES                            \
                 " {" REGISTERS(GROUP_ROWS)(FIRST_NAMES, NEXT_NAMES) "}, %0, %1, metadata, " selector ", add"       \
                 AS_THEY_ARE ";\n\t}"                                                                               \
                 : "+l"(weight), "+l"(input), "+l"(words) REGISTERS(GROUP_ROWS)(OPERANDS, OPERANDS)                 \
                 :                                                                                                  \
                 : "memory")
    if constexpr (SELECTOR == 0) {
        SPARSE_PRODUCT("0");
    } else {
        SPARSE_PRODUCT("1");
    }
#undef SPARSE_PRODUCT
}
#else
__device__ __forceinline__ void multiply(float (&sums)[4 * CHUNKS], unsigned long long weight,
                                         unsigned long long input, int add) {
    asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %2, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n" QUOTED(GROUP_ROWS) PRODUCT_TYPES
                 " {" REGISTERS(GROUP_ROWS)(FIRST_NAMES, NEXT_NAMES) "}, %0, %1, add" AS_THEY_ARE ";\n\t}"
                 : "+l"(weight), "+l"(input), "+r"(add) REGISTERS(GROUP_ROWS)(OPERANDS, OPERANDS)
                 :
                 : "memory");
}
#endif
