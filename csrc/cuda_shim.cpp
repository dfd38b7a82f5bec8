// What tch lacks of libtorch's CUDA interface: the current stream, graph capture with its private memory pool, and the
// caching allocator's counters. These are plain functions, and no C++ type crosses the boundary.
//
// Each function returns null on success, else a message that lives until the thread's next call. No exception escapes.

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdint>
#include <exception>
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

at::cuda::CUDAGraph* as_graph(void* graph) {
  return static_cast<at::cuda::CUDAGraph*>(graph);
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

// Makes `stream` (a cudaStream_t) the one that libtorch's operators of this thread run on.
const char* xvla_use_stream(int device, void* stream) {
  return guarded([&] {
    c10::cuda::set_device(static_cast<c10::DeviceIndex>(device));
    c10::cuda::setCurrentCUDAStream(
        c10::cuda::getStreamFromExternal(static_cast<cudaStream_t>(stream), static_cast<c10::DeviceIndex>(device)));
  });
}

// Makes libtorch's operators of this thread run on the default stream again.
const char* xvla_use_default_stream(int device) {
  return guarded([&] {
    c10::cuda::setCurrentCUDAStream(c10::cuda::getDefaultCUDAStream(static_cast<c10::DeviceIndex>(device)));
  });
}

const char* xvla_graph_new(void** graph) {
  return guarded([&] { *graph = new at::cuda::CUDAGraph(); });
}

void xvla_graph_free(void* graph) {
  // Freeing a graph of a device that failed reports that failure again; there is nothing left to do about it.
  guarded([&] { delete as_graph(graph); });
}

// Begins to record what this thread queues on its current stream; memory comes from a pool of the graph's own. Other
// threads may keep using the device.
const char* xvla_graph_begin(void* graph) {
  return guarded([&] { as_graph(graph)->capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal); });
}

const char* xvla_graph_end(void* graph) {
  return guarded([&] { as_graph(graph)->capture_end(); });
}

const char* xvla_graph_replay(void* graph) {
  return guarded([&] { as_graph(graph)->replay(); });
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
