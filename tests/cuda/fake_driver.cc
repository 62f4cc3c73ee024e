// A libcuda.so.1 without a GPU: device memory is the host's, launches are written to a log, and any
// function can be made to fail. Alone, as tests/test_cuda_device.py builds it, it runs no kernel;
// together with csrc/cusim/driver.cc, as CMake does, launches run on the CPU shim.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "core/cuda/api.h"
#include "core/cuda/device.h"
#include "core/error.h"

using namespace masked_rnn::cuda::api;

// The device that runs kernels, in csrc/cusim/driver.cc; null where that is not linked.
__attribute__((weak)) const masked_rnn::cuda::Device* emulated_device();

namespace {

std::mutex mutex;
std::string log_text;
std::map<std::string, int> failures;  // of a function: the result of its next call
std::set<void*> allocated;
thread_local CUcontext current = nullptr;
thread_local std::string launch_error;  // what the emulated device said last
int primary_context, device_pool;

// CUdevice_attribute: those that benchmarks/on_gpu/devices.py asks for besides.
enum { kClockKhz = 13, kMemoryClockKhz = 36, kBusBits = 37, kSharedBytes = 81, kRegisters = 82 };

int environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

template <class... T>
void log(const char* format, T... values) {
  char line[512];
  std::snprintf(line, sizeof line, format, values...);
  const std::lock_guard lock(mutex);
  log_text += line;
  log_text += '\n';
}

CUresult planned(const char* function) {
  const std::lock_guard lock(mutex);
  const auto found = failures.find(function);
  if (found == failures.end()) return CUDA_SUCCESS;
  const CUresult result = found->second;
  failures.erase(found);
  return result;
}

CUresult allocate(CUdeviceptr* memory, size_t bytes) {
  void* block = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(block, 0xff, bytes);
  const std::lock_guard lock(mutex);
  allocated.insert(block);
  *memory = reinterpret_cast<CUdeviceptr>(block);
  return CUDA_SUCCESS;
}

CUresult release(CUdeviceptr memory) {
  void* block = reinterpret_cast<void*>(memory);
  const std::lock_guard lock(mutex);
  if (allocated.erase(block) == 0) return 1;  // CUDA_ERROR_INVALID_VALUE
  std::free(block);
  return CUDA_SUCCESS;
}

const masked_rnn::cuda::Device* emulated() {
  return emulated_device == nullptr ? nullptr : emulated_device();
}

masked_rnn::cuda::Launch launch_of(const CUlaunchConfig* c) {
  masked_rnn::cuda::Launch launch;
  launch.grid = {c->gridDimX, c->gridDimY, c->gridDimZ};
  launch.block = {c->blockDimX, c->blockDimY, c->blockDimZ};
  launch.shared_bytes = c->sharedMemBytes;
  for (unsigned i = 0; i < c->numAttrs; ++i) {
    if (c->attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) {
      launch.cluster = c->attrs[i].value.clusterDim.x;
    }
    if (c->attrs[i].id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) {
      launch.cooperative = c->attrs[i].value.cooperative != 0;
    }
  }
  return launch;
}

void log_launch(const char* what, const CUlaunchConfig* c, CUfunction function, CUstream stream) {
  const masked_rnn::cuda::Launch launch = launch_of(c);
  log("%s %s grid %u,%u,%u block %u,%u,%u shared %u cluster %u cooperative %u stream %p", what,
      static_cast<const char*>(function), c->gridDimX, c->gridDimY, c->gridDimZ, c->blockDimX,
      c->blockDimY, c->blockDimZ, c->sharedMemBytes, launch.cluster, unsigned(launch.cooperative),
      stream);
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))
#define FAKE(name)                                                   \
  if (const CUresult result = planned(#name); result != CUDA_SUCCESS) return result

API const char* fake_log() {
  static thread_local std::string copy;
  const std::lock_guard lock(mutex);
  copy = log_text;
  return copy.c_str();
}
API void fake_fail(const char* function, int result) {
  const std::lock_guard lock(mutex);
  failures[function] = result;
}
API int fake_allocations() {
  const std::lock_guard lock(mutex);
  return int(allocated.size());
}

// NVRTC opens libcuda too, asks for this, and goes on without it.
API CUresult cuGetExportTable(const void** table, const void*) {
  *table = nullptr;
  return 500;  // CUDA_ERROR_NOT_FOUND
}
API CUresult cuInit(unsigned) { return environment("FAKE_CUDA_INIT", CUDA_SUCCESS); }
API CUresult cuDriverGetVersion(int* version) {
  *version = environment("FAKE_CUDA_VERSION", 12040);
  return CUDA_SUCCESS;
}
API CUresult cuGetErrorName(CUresult result, const char** name) {
  *name = result == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_FAKE";
  return CUDA_SUCCESS;
}
API CUresult cuGetErrorString(CUresult result, const char** text) {
  *text = result == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory"
          : result == CUDA_ERROR_NO_DEVICE   ? "no CUDA-capable device is detected"
          : launch_error.empty()             ? "an error of the test"
                                             : launch_error.c_str();
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGetCount(int* count) {
  *count = 1;
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGetName(char* name, int size, CUdevice) {
  std::snprintf(name, size_t(size), "%s", emulated() ? emulated()->info().name.c_str() : "Fake GPU");
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGetAttribute(int* value, int which, CUdevice) {
  const int capability =
      emulated() ? emulated()->info().capability : environment("FAKE_CUDA_CAPABILITY", 90);
  *value = which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR   ? capability / 10
           : which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? capability % 10
           : which == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
               ? (emulated() ? emulated()->info().multiprocessors : 132)
           : which == CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE            ? 50 << 20
           : which == CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED
               ? environment("FAKE_CUDA_POOLS", 1)
           : which == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN ? 227 << 10
           : which == kClockKhz || which == kMemoryClockKhz                 ? 1000000
           : which == kBusBits                                              ? 1024
           : which == kSharedBytes                                          ? 228 << 10
           : which == kRegisters                                            ? 65536
                                                                            : -1;
  return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  *context = &primary_context;
  return CUDA_SUCCESS;
}
API CUresult cuCtxGetCurrent(CUcontext* context) {
  *context = current;
  return CUDA_SUCCESS;
}
API CUresult cuCtxGetDevice(CUdevice* device) {
  *device = 0;
  return CUDA_SUCCESS;
}
API CUresult cuCtxPushCurrent_v2(CUcontext context) {
  current = context;
  return CUDA_SUCCESS;
}
API CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  *context = current;
  current = nullptr;
  return CUDA_SUCCESS;
}
API CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  FAKE(cuModuleLoadData);
  const auto* text = static_cast<const char*>(image);
  const bool cubin = std::memcmp(text, "\177ELF", 4) == 0;
  if (!cubin && !std::strstr(text, ".version")) return 200;  // CUDA_ERROR_INVALID_IMAGE
  log("load %s", cubin ? "cubin" : "PTX");
  *module = const_cast<void*>(image);
  return CUDA_SUCCESS;
}
API CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char* name) {
  *function = strdup(name);
  return CUDA_SUCCESS;
}
API CUresult cuFuncGetAttribute(int* value, int, CUfunction) {
  *value = 0;
  return CUDA_SUCCESS;
}
API CUresult cuFuncSetAttribute(CUfunction, int which, int value) {
  log("attribute %d %d", which, value);
  return CUDA_SUCCESS;
}
API CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** arguments,
                              void**) {
  FAKE(cuLaunchKernelEx);
  if (!current) return 201;  // CUDA_ERROR_INVALID_CONTEXT
  log_launch("launch", config, function, config->hStream);
  if (arguments) log("argument %lld", *static_cast<long long*>(arguments[0]));
  if (!emulated()) return CUDA_SUCCESS;
  try {
    emulated()->launch(static_cast<const char*>(function), launch_of(config), arguments,
                       config->hStream);
    return CUDA_SUCCESS;
  } catch (const masked_rnn::ResourceExhausted& error) {
    launch_error = error.what();
    return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
  } catch (const std::exception& error) {
    launch_error = error.what();
    return 719;  // CUDA_ERROR_LAUNCH_FAILED
  }
}
API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* count, CUfunction function,
                                                         int threads, size_t shared_bytes) {
  *count = 2048 / threads;
  if (emulated()) {
    masked_rnn::cuda::Launch launch;
    launch.block[0] = unsigned(threads);
    launch.shared_bytes = unsigned(shared_bytes);
    *count = emulated()->resident(static_cast<const char*>(function), launch) /
             emulated()->info().multiprocessors;
  }
  return CUDA_SUCCESS;
}
API CUresult cuOccupancyMaxActiveClusters(int* count, CUfunction f, const CUlaunchConfig* config) {
  log_launch("occupancy", config, f, nullptr);
  *count = emulated() ? emulated()->resident(static_cast<const char*>(f), launch_of(config)) : 7;
  return CUDA_SUCCESS;
}
API CUresult cuMemsetD8Async(CUdeviceptr memory, unsigned char value, size_t bytes, CUstream) {
  std::memset(reinterpret_cast<void*>(memory), value, bytes);
  return CUDA_SUCCESS;
}
API CUresult cuMemAlloc_v2(CUdeviceptr* memory, size_t bytes) {
  FAKE(cuMemAlloc_v2);
  return allocate(memory, bytes);
}
API CUresult cuMemFree_v2(CUdeviceptr memory) { return release(memory); }
API CUresult cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps*) {
  *pool = &device_pool;
  return CUDA_SUCCESS;
}
API CUresult cuMemPoolSetAttribute(CUmemoryPool, int, void*) { return CUDA_SUCCESS; }
API CUresult cuMemAllocFromPoolAsync(CUdeviceptr* memory, size_t bytes, CUmemoryPool, CUstream) {
  FAKE(cuMemAllocFromPoolAsync);
  return allocate(memory, bytes);
}
API CUresult cuMemFreeAsync(CUdeviceptr memory, CUstream) { return release(memory); }
API CUresult cuStreamCreate(CUstream* stream, unsigned) {
  *stream = new char;
  return CUDA_SUCCESS;
}
API CUresult cuStreamSynchronize(CUstream) { return CUDA_SUCCESS; }
API CUresult cuCtxSynchronize() { return CUDA_SUCCESS; }
API CUresult cuStreamWaitEvent(CUstream stream, CUevent, unsigned) {
  log("stream %p waits", stream);
  return CUDA_SUCCESS;
}
API CUresult cuEventCreate(CUevent* event, unsigned) {
  *event = new char;
  return CUDA_SUCCESS;
}
API CUresult cuEventRecord(CUevent, CUstream) { return CUDA_SUCCESS; }
API CUresult cuEventDestroy_v2(CUevent event) {
  delete static_cast<char*>(event);
  return CUDA_SUCCESS;
}
