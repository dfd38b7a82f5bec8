// Patches as rows of a matrix (im2col), so that DaViT's strided patch embeddings become products with a weight
// [kernel·kernel·channels, width]. A row's columns run over (ky, kx, channel); outside the image or map they are zero.
//
// image_patches: images [views, 3, height, width] in single precision → output
//   [valid·out_height·out_width, row_length]. Only the valid views are read, image i from views.index[i]. row_length is
//   3·kernel² rounded up to a multiple of 8; the rest of a row is zero.
//   Launch: grid (out_height, valid), block (32, 8), dynamic shared memory
//   2 * 3 * kernel * ((out_width - 1) * stride + kernel) bytes.
// map_patches: input [images, height, width, channels] → output [images·out_height·out_width, kernel·kernel·channels],
//   channels a multiple of 8.
//   Launch: grid (out_width, out_height, images), block (32, kernel²), kernel at most 5; no dynamic shared memory.

// Which views are valid, by value.
struct Views {
    int index[16];
};

// The band of image rows that one row of patches needs, in memory as [ky][x][channel]: a patch's row lies in one piece.
__device__ __forceinline__ void load_band(scalar* band, const float* image, int height, int width, int kernel,
                                          int first_y, int padding, int columns) {
    for (int row = threadIdx.y; row < 3 * kernel; row += blockDim.y) {
        const int ky = row / 3, channel = row % 3, y = first_y + ky;
        const float* from = image + (static_cast<long long>(channel) * height + y) * width - padding;
#pragma unroll 8
        for (int x = threadIdx.x; x < columns; x += 32) {
            const bool inside = y >= 0 && y < height && x >= padding && x < width + padding;
            band[(ky * columns + x) * 3 + channel] = to_scalar(inside ? from[x] : 0.0f);
        }
    }
}

// Columns `column` to `column` + 7 of the patch that starts at `patch` in the band.
__device__ __forceinline__ Eight gather(const scalar* patch, int column, int kernel, int columns) {
    const int run = 3 * kernel;
    int ky = column / run, within = column % run;
    Eight values = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const pair bits = ky < kernel ? patch[ky * columns * 3 + within] : 0;
        values.part[i / 2] |= bits << (i % 2 * 16);
        if (++within == run) {
            within = 0;
            ++ky;
        }
    }
    return values;
}

extern "C" __global__ void __launch_bounds__(256)
    image_patches(const float* images, scalar* __restrict__ output, Views views, int height, int width,
                  int out_height, int out_width, int kernel, int stride, int padding, int row_length) {
    wait_for_predecessor();
    extern __shared__ __align__(16) scalar band[];
    const int columns = (out_width - 1) * stride + kernel, vectors = row_length / 8;
    const float* image = images + static_cast<long long>(views.index[blockIdx.y]) * 3 * height * width;
    load_band(band, image, height, width, kernel, static_cast<int>(blockIdx.x) * stride - padding, padding, columns);
    __syncthreads();

    output += (static_cast<long long>(blockIdx.y) * out_height + blockIdx.x) * out_width * row_length;
    for (int i = threadIdx.y * 32 + threadIdx.x; i < out_width * vectors; i += 256) {
        const int x = i / vectors, column = i % vectors * 8;
        store_eight(output + 8 * i, gather(band + x * stride * 3, column, kernel, columns));
    }
}

extern "C" __global__ void __launch_bounds__(800)
    map_patches(const scalar* input, scalar* __restrict__ output, int height, int width, int channels,
                int out_height, int out_width, int kernel, int stride, int padding) {
    wait_for_predecessor();
    const int tap = threadIdx.y;
    const int y = static_cast<int>(blockIdx.y) * stride - padding + tap / kernel;
    const int x = static_cast<int>(blockIdx.x) * stride - padding + tap % kernel;
    const bool inside = y >= 0 && y < height && x >= 0 && x < width;
    const long long patch = (static_cast<long long>(blockIdx.z) * out_height + blockIdx.y) * out_width + blockIdx.x;
    input += ((static_cast<long long>(blockIdx.z) * height + y) * width + x) * channels;
    output += (patch * kernel * kernel + tap) * channels;
#pragma unroll 4
    for (int channel = 8 * threadIdx.x; channel < channels; channel += 256) {
        store_eight(output + channel, inside ? load_eight(input + channel) : Eight{});
    }
}
