"""PyTorch's own speed on a network of X-VLA's shape: eager and torch.compile, without any code of this project.

Weights are random, because speed does not depend on their values. Batch 1, every view valid.

    python tools/gpu_reference.py --json reference.json
    python tools/gpu_reference.py --device cpu --dtype float32 --modes eager --steps 1 --iters 8 --warmup 2

What is timed is a frame: inputs in (pinned) host memory -> actions in host memory. `e2e_ms` is the wall clock of all
of it; `vlm_ms` and `policy_ms` lie between CUDA events (the wall clock on the CPU), and nothing waits between the
two. cuDNN chooses convolutions by trying them, and Python's garbage collector is off while the clock runs; what else
was done for speed stands in reference_network.py.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from reference_network import ACTION_DIM, PRESETS, Network, Sizes, build_network

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
MODES = ("eager", "compile")


@dataclass(frozen=True)
class HostInputs:
    """One observation in host memory, pinned where there is a GPU."""

    images: Tensor  # [1, V, 3, H, W] f32
    ids: Tensor  # [1, L] i64
    state: Tensor  # [1, P] f32
    noise: Tensor  # [1, T, A] f32
    domain: Tensor  # [1] i64


def make_inputs(sizes: Sizes, views: int, tokens: int, pin: bool) -> HostInputs:
    """Random values of the right shapes."""
    generator = torch.Generator().manual_seed(1)
    side = sizes.image_side
    inputs = [
        torch.randn(1, views, 3, side, side, generator=generator),
        torch.randint(sizes.vocabulary, (1, tokens), generator=generator),
        torch.randn(1, ACTION_DIM, generator=generator),
        torch.randn(1, sizes.chunk, ACTION_DIM, generator=generator),
        torch.tensor([3]),
    ]
    return HostInputs(*(tensor.pin_memory() if pin else tensor for tensor in inputs))


class Clock:
    """Marks the boundaries between stages: by CUDA events on a GPU, which make nobody wait."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.marks: list[Any] = []

    def mark(self) -> None:
        """A stage begins or ends here."""
        if not self.cuda:
            self.marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append(event)

    def intervals_ms(self) -> list[float]:
        """Time between neighbouring marks; all of them must have been reached."""
        pairs = zip(self.marks, self.marks[1:], strict=False)
        if self.cuda:
            return [begin.elapsed_time(end) for begin, end in pairs]
        return [(end - begin) * 1e3 for begin, end in pairs]


class Runner:
    """Runs frames in one mode."""

    def __init__(self, network: Network, mode: str, device: torch.device, dtype: torch.dtype) -> None:
        wrap = compiled if mode == "compile" else lambda function: function
        self.encode, self.context, self.step = map(
            wrap, (network.vlm.forward, network.policy.context, network.policy.step)
        )
        self.postprocess = network.policy.postprocess
        self.device, self.dtype = device, dtype
        # Dispatching is cheaper in inference mode; the compiler knows the other one better.
        self.no_gradients = torch.no_grad if mode == "compile" else torch.inference_mode
        self.zeros = torch.zeros(1, network.sizes.chunk, ACTION_DIM, device=device, dtype=dtype)

    def times(self, steps: int) -> list[Tensor]:
        """t of each denoising step, on the device."""
        return [torch.tensor([step / steps], device=self.device) for step in range(steps, 0, -1)]

    def frame(self, inputs: HostInputs, times: list[Tensor], clock: Clock) -> Tensor:
        """From inputs on the host to actions [1, T, A] on the host."""
        with self.no_gradients():
            torch.compiler.cudagraph_mark_step_begin()
            images, state, noise = map(self._upload, (inputs.images, inputs.state, inputs.noise))
            ids, domain = (tensor.to(self.device, non_blocking=True) for tensor in (inputs.ids, inputs.domain))
            clock.mark()
            features, aux = self.encode(images, ids)
            clock.mark()
            context = self.context(features, aux, domain)
            actions = self.zeros
            for t in times:
                actions = self.step(context, noise, actions, state, domain, t)
            clock.mark()
            return self.postprocess(actions).float().cpu()

    def _upload(self, tensor: Tensor) -> Tensor:
        """To the device first: `to` with both arguments would convert on the host."""
        return tensor.to(self.device, non_blocking=True).to(self.dtype)


def compiled(function: Callable) -> Callable:
    """Compiled, and replayed as CUDA graphs."""
    return torch.compile(function, mode="reduce-overhead", dynamic=False)


def time_frame(runner: Runner, inputs: HostInputs, times: list[Tensor]) -> dict[str, float]:
    """Stage times of one frame, ms."""
    clock = Clock(runner.device)
    start = time.perf_counter()
    actions = runner.frame(inputs, times, clock)
    e2e_ms = (time.perf_counter() - start) * 1e3
    if not bool(actions.isfinite().all()):
        raise ValueError("actions are not finite")
    vlm_ms, policy_ms = clock.intervals_ms()
    return {"vlm_ms": vlm_ms, "policy_ms": policy_ms, "e2e_ms": e2e_ms}


def summarise(values: list[float]) -> dict[str, float]:
    """Extremes, mean, and percentiles by nearest rank."""
    ordered = sorted(values)
    summary = {f"p{p}": ordered[math.ceil(p / 100 * len(ordered)) - 1] for p in (50, 90, 99)}
    return {"min": ordered[0], **summary, "max": ordered[-1], "mean": sum(ordered) / len(ordered)}


def gpu_memory(device: torch.device) -> dict[str, int] | None:
    """Peaks of PyTorch's allocator, and what all processes on the GPU hold, which should be this one alone."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info()
    return {
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
        "process_bytes": total - free,
    }


def measure(runner: Runner, inputs: HostInputs, steps: int, iterations: int, warmup: int) -> dict[str, Any]:
    """Stage times and memory at one number of denoising steps."""
    times = runner.times(steps)
    for _ in range(warmup):
        time_frame(runner, inputs, times)
    if runner.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    gc.collect()
    gc.disable()
    samples = [time_frame(runner, inputs, times) for _ in range(iterations)]
    gc.enable()
    stages = {stage: summarise([sample[stage] for sample in samples]) for stage in samples[0]}
    host_peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    memory = {"gpu_memory": gpu_memory(runner.device), "host_peak_bytes": host_peak_bytes}
    return {"steps": steps, "stages": stages, **memory, "samples": samples}


def since_process_start_s() -> float:
    """Seconds since this process began, the interpreter's own start included."""
    fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s


def run_mode(network: Network, mode: str, inputs: HostInputs, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything about one mode. The time to the first action leaves out what other modes took before it."""
    runner = Runner(network, mode, torch.device(arguments.device), DTYPES[arguments.dtype])
    start = time.perf_counter()
    time_frame(runner, inputs, runner.times(arguments.steps[0]))
    first_frame_s = time.perf_counter() - start
    runs = [measure(runner, inputs, steps, arguments.iters, arguments.warmup) for steps in arguments.steps]
    result = {"mode": mode, "first_action_ms": (arguments.ready_s + first_frame_s) * 1e3, "runs": runs}
    if mode == "compile":
        result["compile_s"] = first_frame_s
        result["compiler"] = compiler_facts()
    return result


def compiler_facts() -> dict[str, int]:
    """Whether the graphs came out whole and were captured: both should be zero."""
    counters = torch._dynamo.utils.counters
    return {
        "graph_breaks": sum(counters["graph_break"].values()),
        "cudagraph_skips": counters["inductor"]["cudagraph_skips"],
    }


def try_mode(network: Network, mode: str, inputs: HostInputs, arguments: argparse.Namespace) -> dict[str, Any]:
    """As `run_mode`, or why the mode failed: a compiler that does not work here must not hide the other numbers."""
    try:
        return run_mode(network, mode, inputs, arguments)
    except Exception as error:
        first_line = next(iter(str(error).splitlines()), "")
        reason = f"{type(error).__name__}: {first_line}"
        print(f"{mode}: {reason}", file=sys.stderr)
        return {"mode": mode, "error": reason, "runs": []}


def gpu_driver() -> str | None:
    """Version of the NVIDIA driver, as nvidia-smi tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def environment(device: torch.device) -> dict[str, Any]:
    """Machine and versions."""
    cuda = device.type == "cuda"
    return {
        "machine": {
            "gpu": torch.cuda.get_device_name() if cuda else None,
            "gpu_driver": gpu_driver() if cuda else None,
            "cores": len(os.sched_getaffinity(0)),
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if cuda else None,
            "transformers": transformers.__version__,
        },
    }


def print_table(report: dict[str, Any]) -> None:
    """Percentiles per mode, steps and stage; then what fits no table."""
    print(f"{'mode':10}{'steps':>6}  {'stage':10}{'p50 ms':>10}{'p90 ms':>10}{'p99 ms':>10}")
    for mode in report["modes"]:
        for run in mode["runs"]:
            for stage, summary in run["stages"].items():
                numbers = "".join(f"{summary[name]:10.3f}" for name in ("p50", "p90", "p99"))
                print(f"{mode['mode']:10}{run['steps']:6}  {stage:10}{numbers}")
    for mode in report["modes"]:
        print(f"{mode['mode']}: {notes(mode)}")


def notes(mode: dict[str, Any]) -> str:
    """What one mode cost besides time per frame."""
    if "error" in mode:
        return mode["error"]
    told = [f"first action {mode['first_action_ms'] / 1e3:.1f} s after the process began"]
    if "compile_s" in mode:
        told.append(f"compilation {mode['compile_s']:.1f} s")
        told += [f"{name.replace('_', ' ')} {count}" for name, count in mode["compiler"].items()]
    memory = mode["runs"][-1]["gpu_memory"]
    if memory:
        told += [f"{name.removesuffix('_bytes')} {size / 1e9:.2f} GB" for name, size in memory.items()]
    return ", ".join(told)


def parse_arguments() -> argparse.Namespace:
    """The command line; lists become lists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda or cpu (default: %(default)s)")
    parser.add_argument("--dtype", default="float16", choices=DTYPES, help="(default: %(default)s)")
    parser.add_argument("--modes", default=",".join(MODES), help="of eager and compile (default: %(default)s)")
    parser.add_argument("--steps", default="1,10", help="numbers of denoising steps (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="text tokens (default: %(default)s)")
    parser.add_argument("--views", type=int, default=3, help="camera views (default: %(default)s)")
    parser.add_argument("--iters", type=int, default=200, help="frames that count (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=20, help="frames before those (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads on the CPU (default: PyTorch's own choice)")
    parser.add_argument("--preset", default="base", choices=PRESETS, help="tiny is to try this (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="F", help="write everything, every sample included")
    arguments = parser.parse_args()
    arguments.steps = [int(steps) for steps in arguments.steps.split(",")]
    arguments.modes = arguments.modes.split(",")
    if unknown := set(arguments.modes) - set(MODES):
        parser.error(f"--modes: {', '.join(sorted(unknown))}: choose from {', '.join(MODES)}")
    if min(arguments.iters, *arguments.steps) < 1:
        parser.error("--iters and --steps must be at least 1")
    return arguments


def main() -> None:
    """Builds the network once and measures every mode."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.benchmark = True
    device, sizes = torch.device(arguments.device), PRESETS[arguments.preset]

    network = build_network(sizes, device, DTYPES[arguments.dtype])
    parameters = sum(parameter.numel() for parameter in network.parameters())
    inputs = make_inputs(sizes, arguments.views, arguments.tokens, pin=device.type == "cuda")
    if device.type == "cuda":
        # Give back what only building took.
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    arguments.ready_s = since_process_start_s()

    # An empty cache, so that compilation takes as long as on a machine that has just been set up.
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        modes = [try_mode(network, mode, inputs, arguments) for mode in arguments.modes]

    named = ("preset", "device", "dtype", "tokens", "views", "iters", "warmup")
    configuration = {name: getattr(arguments, name) for name in named}
    configuration |= {"parameters": parameters, "threads": torch.get_num_threads(), "sizes": asdict(sizes)}
    report = {
        "finished_unix_s": int(time.time()),
        **environment(device),
        "configuration": configuration,
        "modes": modes,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print_table(report)


if __name__ == "__main__":
    main()
