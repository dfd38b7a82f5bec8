"""The image kernels (resize.cu) against Pillow and torch, on a GPU; `--time` prints what each launch takes."""

import sys
import unittest

import kernels

try:
    import numpy
    import torch
    from PIL import Image

    MISSING = None
except ImportError as error:
    MISSING = str(error)

DEVICE = "cuda"
BLOCK = (32, 4)
FRACTION_BITS = 22
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
VIEWS = 3
# (width, height) of the source and of the result.
SIZES = [
    ((640, 480), (224, 224)),
    ((1280, 720), (224, 224)),
    ((224, 224), (224, 224)),
    ((640, 224), (224, 224)),
    ((224, 300), (224, 224)),
    ((97, 61), (224, 224)),
    ((61, 397), (50, 33)),
    ((397, 61), (33, 50)),
    ((5, 3), (7, 2)),
    ((1, 1), (7, 5)),
]
# Largest difference in steps of 8-bit pixels: rounding in single precision passes, a wrong byte does not.
WORST_STEPS = 0.01


def catmull_rom(distance):
    x = abs(distance)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return -0.5 * (((x - 5) * x + 8) * x - 4) if x < 2 else 0.0


def bicubic_window(source, target, index):
    """First source pixel of one output pixel, and its weights in fixed point, as Pillow computes them."""
    scale = source / target
    stretch = max(1.0, scale)
    center = (index + 0.5) * scale
    start = max(0, int(center - 2 * stretch + 0.5))
    end = min(source, int(center + 2 * stretch + 0.5))
    weights = numpy.array([catmull_rom((pixel - center + 0.5) / stretch) for pixel in range(start, end)])
    scaled = weights / weights.sum() * 2**FRACTION_BITS
    return start, numpy.trunc(scaled + numpy.copysign(0.5, scaled)).astype(numpy.int32)


def bicubic_table(source, target):
    """starts [target] and weights [taps, target]; no window exceeds the axis."""
    windows = [bicubic_window(source, target, index) for index in range(target)]
    taps = max(len(weights) for _, weights in windows)
    starts = numpy.minimum([start for start, _ in windows], source - taps).astype(numpy.int32)
    table = numpy.zeros((taps, target), numpy.int32)
    for index, (start, weights) in enumerate(windows):
        first = start - starts[index]
        table[first : first + len(weights), index] = weights
    return on_device(starts), on_device(table)


def bilinear_table(source, target):
    """starts [target] and weights [2, target]: torch's source coordinate, in its precision."""
    scale = numpy.float32(source) / numpy.float32(target)
    half = numpy.float32(0.5)
    positions = numpy.maximum(scale * (numpy.arange(target, dtype=numpy.float32) + half) - half, 0)
    starts = numpy.minimum(positions.astype(numpy.int32), source - 1)
    second = numpy.clip(positions - starts.astype(numpy.float32), 0, 1)
    return on_device(starts), on_device(numpy.stack([1 - second, second]).astype(numpy.float32))


def on_device(array):
    return torch.from_numpy(array).to(DEVICE)


def byte_buffer(shape):
    """Bytes that are all 255, in a buffer of whole words, which the kernels read."""
    length = numpy.prod(shape).item()
    words = torch.full((-(-length // 4) * 4,), 255, dtype=torch.uint8, device=DEVICE)
    return words[:length].view(shape)


def random_images(size):
    """Noise [views, height, width, 3], which is the hardest input for rounding and clamping."""
    width, height = size
    images = byte_buffer((VIEWS, height, width, 3))
    images.random_(0, 256)
    return images


def poisoned_planes(size):
    width, height = size
    return torch.full((VIEWS, 3, height, width), torch.nan, device=DEVICE)


def grid(columns, rows, rows_per_block):
    return -(-columns // BLOCK[0]), -(-rows // rows_per_block), VIEWS


def launch_later(name, launch_grid, *arguments):
    kernel = kernels.module("resize", torch.float16).get_function(name)
    return name, lambda: kernels.launch(kernel, launch_grid, BLOCK, *arguments)


def rows_pass(images, target, suffix):
    _, height, source, _ = images.shape
    width = target.shape[-1] if suffix == "planes" else target.shape[2]
    starts, weights = bicubic_table(source, width)
    arguments = (target, images, starts, weights, len(weights), source, width, height)
    return launch_later(f"resample_rows_to_{suffix}", grid(width, height, 16), *arguments)


def columns_pass(images, target, suffix):
    _, source, width, _ = images.shape
    height = target.shape[2] if suffix == "planes" else target.shape[1]
    starts, weights = bicubic_table(source, height)
    arguments = (target, images, starts, weights, len(weights), source, height, width)
    return launch_later(f"resample_columns_to_{suffix}", grid(width, height, 4), *arguments)


def columns_first(source, target):
    """Whether Pillow 13 resizes the columns before the rows."""
    return source[1] - target[1] > 2 * max(0, source[0] - target[0])


def bicubic(images, target):
    """The planes and the named launches that fill them."""
    height, width = images.shape[1:3]
    planes = poisoned_planes(target)
    if columns_first((width, height), target):
        first, last = columns_pass, rows_pass
        between = (width, target[1])
    else:
        first, last = rows_pass, columns_pass
        between = (target[0], height)
    if between == (width, height):
        return planes, [last(images, planes, "planes")]
    halfway = byte_buffer((VIEWS, between[1], between[0], 3))
    return planes, [first(images, halfway, "bytes"), last(halfway, planes, "planes")]


def fitted_size(source, target):
    ratio = max(source[0] / target[0], source[1] / target[1])
    return tuple(min(int(side / ratio), limit) for side, limit in zip(source, target))


def padded_bilinear(images, target):
    """The planes and the named launch of `padded_bilinear`."""
    height, width = images.shape[1:3]
    content_width, content_height = fitted_size((width, height), target)
    planes = poisoned_planes(target)
    columns, rows = bilinear_table(width, content_width), bilinear_table(height, content_height)
    sizes = (height, width, content_height, content_width, target[1], target[0])
    arguments = (planes, images, *columns, *rows, *sizes)
    return planes, [launch_later("padded_bilinear", grid(*target, 4), *arguments)]


def pillow_bicubic(image, target):
    """Bytes [height, width, 3], one axis after the other, so that every version of Pillow uses Pillow 13's order."""
    image = Image.fromarray(image)
    height_first = columns_first(image.size, target)
    between = (image.width, target[1]) if height_first else (target[0], image.height)
    resized = image.resize(between, Image.Resampling.BICUBIC).resize(target, Image.Resampling.BICUBIC)
    return torch.from_numpy(numpy.array(resized))


def normalised(values):
    """Planes [views, 3, height, width] of `values` [views, height, width, 3] in [0, 255]."""
    planes = (values.double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(DEVIATION).double()
    return planes.permute(0, 3, 1, 2)


def expected_bicubic(images, target):
    resized = torch.stack([pillow_bicubic(image.numpy(), target) for image in images])
    return normalised(resized)


def expected_padded_bilinear(images, target):
    width, height = fitted_size((images.shape[2], images.shape[1]), target)
    planes = normalised(images).float()
    content = torch.nn.functional.interpolate(planes, size=(height, width), mode="bilinear", align_corners=False)
    return torch.nn.functional.pad(content, (target[0] - width, 0, target[1] - height, 0))


def largest_steps(found, expected):
    """Largest difference in steps of 8-bit pixels; infinite where nothing was written."""
    deviation = torch.tensor(DEVIATION).double().view(3, 1, 1)
    steps = (found.cpu().double() - expected).abs() * deviation * 255
    return steps.nan_to_num(nan=float("inf")).max().item()


@kernels.requires_gpu
@unittest.skipIf(MISSING, f"needs numpy, torch and Pillow: {MISSING}")
class ResizeKernels(unittest.TestCase):
    def compare(self, resize, expected, source, target):
        torch.manual_seed(0)
        images = random_images(source)
        planes, launches = resize(images, target)
        for _, launch in launches:
            launch()
        worst = largest_steps(planes, expected(images.cpu(), target))
        print(f"{resize.__name__} {source} -> {target}: at most {worst:.1e} of a step off")
        self.assertLess(worst, WORST_STEPS)

    def test_bicubic_gives_pillows_bytes(self):
        for source, target in SIZES:
            with self.subTest(source=source, target=target):
                self.compare(bicubic, expected_bicubic, source, target)

    def test_padded_bilinear_gives_what_torch_gives(self):
        for source, target in SIZES:
            with self.subTest(source=source, target=target):
                self.compare(padded_bilinear, expected_padded_bilinear, source, target)


def print_times():
    print(f"{'kernel':28} {'views x source -> target':36} {'median us':>9}")
    for resize in (bicubic, padded_bilinear):
        for source, target in SIZES[:3]:
            _, launches = resize(random_images(source), target)
            for name, launch in launches:
                size = f"{VIEWS} x {source} -> {target}"
                print(f"{name:28} {size:36} {kernels.median_us(launch):9.2f}")


if __name__ == "__main__":
    if "--time" in sys.argv:
        print_times()
    else:
        unittest.main()
