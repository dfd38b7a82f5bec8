// What tch lacks of libtorch's CUDA interface: the current stream, recordings with a memory pool of their own, and the
// caching allocator's counters. These are plain functions, and no C++ type crosses the boundary.
//
// Each function returns null on success, else a message that lives until the thread's next call. No exception escapes.

#include <ATen/Context.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdint>
#include <exception>
#include <mutex>
#include <string>

namespace {

thread_local std::string last_error;

template <typename Body>
const char* guarded(Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    last_error = error.what_without_backtrace();
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "unknown C++ exception";
  }
  return last_error.c_str();
}

// Lets convolutions in single precision round to nothing coarser. libtorch's default for them, unlike for matrix products,
// is TF32, which keeps 10 bits of 23.
void keep_single_precision() {
  static std::once_flag once;
  std::call_once(once, [] {
    at::globalContext().setFloat32Precision(
        at::Float32Backend::CUDA, at::Float32Op::CONV, at::Float32Precision::IEEE);
  });
}

// A recording of what a stream was given, and the pool that the recorded operators' memory came from.
//
// at::cuda::CUDAGraph does the same, but when the driver refuses a recording, its capture_end throws before it tells the
// allocator that the recording is over. From then on the allocator of this process frees and reuses hardly anything.
// Here the allocator is told first.
class Recording {
 public:
  Recording() : device_(c10::cuda::current_device()), pool_(at::cuda::graph_pool_handle()) {}
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  ~Recording() {
    // Neither a stream that reports a failure nor the allocator may end the process from here.
    guarded([&] { end_capture(); });
    if (executable_ != nullptr) {
      (void)cudaGraphExecDestroy(executable_);
    }
    if (pool_in_use_) {
      guarded([&] { c10::cuda::CUDACachingAllocator::releasePool(device_, pool_); });
    }
  }

  void begin() {
    stream_ = c10::cuda::getCurrentCUDAStream(device_).stream();
    c10::cuda::CUDACachingAllocator::beginAllocateToPool(
        device_, pool_, [stream = stream_](cudaStream_t other) { return other == stream; });
    pool_in_use_ = recording_ = true;
    // Other threads may keep using the device.
    const auto begun = cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
    if (begun != cudaSuccess) {
      leave_pool();
      C10_CUDA_CHECK(begun);
    }
  }

  void end() {
    const auto graph = end_capture();
    TORCH_CHECK(graph != nullptr, "nothing was recorded");
    const auto made = cudaGraphInstantiateWithFlags(&executable_, graph, cudaGraphInstantiateFlagAutoFreeOnLaunch);
    (void)cudaGraphDestroy(graph);
    C10_CUDA_CHECK(made);
  }

  void replay() const {
    c10::cuda::CUDAGuard guard(device_);
    C10_CUDA_CHECK(cudaGraphLaunch(executable_, c10::cuda::getCurrentCUDAStream(device_).stream()));
  }

 private:
  cudaGraph_t end_capture() {
    if (!recording_) {
      return nullptr;
    }
    cudaGraph_t graph = nullptr;
    const auto ended = cudaStreamEndCapture(stream_, &graph);
    leave_pool();
    C10_CUDA_CHECK(ended);
    return graph;
  }

  void leave_pool() {
    recording_ = false;
    c10::cuda::CUDACachingAllocator::endAllocateToPool(device_, pool_);
  }

  c10::DeviceIndex device_;
  c10::MempoolId_t pool_;
  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
  bool recording_ = false;
  bool pool_in_use_ = false;
};

Recording* as_recording(void* recording) {
  return static_cast<Recording*>(recording);
}

}  // namespace

extern "C" {

// Counters of libtorch's caching allocator on one device. The Rust side declares the same fields in the same order.
struct XvlaMemory {
  int64_t allocated_bytes;        // in tensors now
  int64_t peak_allocated_bytes;   // at most, since the last reset
  int64_t reserved_bytes;         // taken from the driver now
  int64_t peak_reserved_bytes;
  int64_t allocations;            // requests so far
  int64_t driver_allocations;     // of those, how many went to the driver
};

// Makes `stream` (a cudaStream_t) the one that libtorch's operators of this thread run on. What is single precision stays so.
const char* xvla_use_stream(int device, void* stream) {
  return guarded([&] {
    keep_single_precision();
    c10::cuda::set_device(static_cast<c10::DeviceIndex>(device));
    c10::cuda::setCurrentCUDAStream(
        c10::cuda::getStreamFromExternal(static_cast<cudaStream_t>(stream), static_cast<c10::DeviceIndex>(device)));
  });
}

// Makes libtorch's operators of this thread run on the default stream. What is single precision stays so.
const char* xvla_use_default_stream(int device) {
  return guarded([&] {
    keep_single_precision();
    c10::cuda::setCurrentCUDAStream(c10::cuda::getDefaultCUDAStream(static_cast<c10::DeviceIndex>(device)));
  });
}

// Whether everything is done that this thread's current stream was given. A failure of any of it is an error.
const char* xvla_is_idle(int device, bool* idle) {
  return guarded([&] { *idle = c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device)).query(); });
}

// A recording on the device that this thread uses at the moment.
const char* xvla_recording_new(void** recording) {
  return guarded([&] { *recording = new Recording(); });
}

void xvla_recording_free(void* recording) {
  // Freeing a recording of a device that failed reports that failure again; there is nothing left to do about it.
  guarded([&] { delete as_recording(recording); });
}

// Begins to record what this thread queues on its current stream, which must not be the default one.
const char* xvla_recording_begin(void* recording) {
  return guarded([&] { as_recording(recording)->begin(); });
}

// Ends it, also after a failure. Stream and allocator are then as they were before, whatever this returns.
const char* xvla_recording_end(void* recording) {
  return guarded([&] { as_recording(recording)->end(); });
}

const char* xvla_recording_replay(void* recording) {
  return guarded([&] { as_recording(recording)->replay(); });
}

const char* xvla_memory(int device, XvlaMemory* memory) {
  return guarded([&] {
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(static_cast<c10::DeviceIndex>(device));
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    memory->allocated_bytes = stats.allocated_bytes[all].current;
    memory->peak_allocated_bytes = stats.allocated_bytes[all].peak;
    memory->reserved_bytes = stats.reserved_bytes[all].current;
    memory->peak_reserved_bytes = stats.reserved_bytes[all].peak;
    memory->allocations = stats.allocation[all].allocated;
    memory->driver_allocations = stats.num_device_alloc;
  });
}

const char* xvla_memory_reset_peak(int device) {
  return guarded([&] { c10::cuda::CUDACachingAllocator::resetPeakStats(static_cast<c10::DeviceIndex>(device)); });
}

// Returns memory that no tensor uses to the driver.
const char* xvla_memory_release() {
  return guarded([] { c10::cuda::CUDACachingAllocator::emptyCache(); });
}

}  // extern "C"
