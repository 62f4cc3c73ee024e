#include "api.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "../error.h"
#include "../per_process.h"
#include "shared_library.h"

namespace masked_rnn::cuda::api {
namespace {

template <class Function>
void find(const SharedLibrary& library, const char* name, Function& function,
          const std::string& too_old) {
  function = reinterpret_cast<Function>(library.find(name));
  if (!function) {
    throw DeviceError("CUDA: " + library.name() + " has no " + name + ": " + too_old);
  }
}

std::atomic<int> started_after_forks{-1};  // -1: the driver has not been started

// The driver serves the process that started it. In a child its calls fail, and ours could wait for
// a lock that a thread of the parent held.
void refuse_forked_child() {
  const int started = started_after_forks.load(std::memory_order_relaxed);
  if (started >= 0 && started != forks()) {
    throw DeviceError(
        "CUDA: this process was forked from one that uses CUDA, and cannot use it; start it with "
        "multiprocessing.get_context(\"spawn\")");
  }
}

// Made by the first call that succeeds, and never destroyed: kernels may run until the end.
template <auto open>
const auto& once() {
  refuse_forked_child();
  static std::mutex mutex;
  static const decltype(open())* opened = nullptr;
  const std::lock_guard lock(mutex);
  if (!opened) opened = new auto(open());
  return *opened;
}

Driver open_driver() {
  const SharedLibrary library(
      {"libcuda.so.1"}, "CUDA: there is no NVIDIA driver on this machine; install NVIDIA's driver");
  Driver driver;
  const std::string too_old = "NVIDIA's driver is too old, needed: version 520 or newer";
#define FUNCTION(name, ...) find(library, #name, driver.name, too_old);
#include "driver_functions.inc"
#undef FUNCTION
  started_after_forks = forks();
  const CUresult started = driver.cuInit(0);
  if (started != CUDA_SUCCESS) {
    started_after_forks = -1;
    const char* reason = nullptr;
    driver.cuGetErrorString(started, &reason);
    throw DeviceError(std::string("CUDA: NVIDIA's driver does not start (") +
                      (reason ? reason : "unknown error") +
                      "); nvidia-smi must list a GPU, and CUDA_VISIBLE_DEVICES must not hide it");
  }
  driver.cuDriverGetVersion(&driver.version);
  return driver;
}

// The versions of a library that the driver is new enough for: the code of a compiler that is newer
// by a major version does not load.
std::vector<std::string> versions_of(const std::string& library) {
  std::vector<std::string> names = {library + ".12"};
  if (driver().version >= 13000) names.push_back(library + ".13");
  return names;
}

Nvrtc open_nvrtc() {
  const SharedLibrary library(
      versions_of("libnvrtc.so"),
      "CUDA: the run-time compiler NVRTC is missing; pip install nvidia-cuda-nvrtc-cu12");
  Nvrtc nvrtc;
#define FUNCTION(name, ...) \
  find(library, #name, nvrtc.name, "pip install --upgrade nvidia-cuda-nvrtc-cu12");
#include "nvrtc_functions.inc"
#undef FUNCTION
  nvrtc.library = library.name();
  int major = 0, minor = 0;
  nvrtc.nvrtcVersion(&major, &minor);
  nvrtc.version = major * 1000 + minor * 10;
  return nvrtc;
}

Cublas open_cublas() {
  const SharedLibrary library(versions_of("libcublas.so"),
                              "CUDA: cuBLAS is missing; pip install nvidia-cublas-cu12");
  Cublas cublas;
#define FUNCTION(name, ...) \
  find(library, #name, cublas.name, "pip install --upgrade nvidia-cublas-cu12");
#include "cublas_functions.inc"
#undef FUNCTION
  cublas.library = library.name();
  return cublas;
}

}  // namespace

const Driver& driver() { return once<open_driver>(); }
const Nvrtc& nvrtc() { return once<open_nvrtc>(); }
const Cublas& cublas() { return once<open_cublas>(); }

void check(CUresult result, const std::string& doing) {
  if (result == CUDA_SUCCESS) return;
  const char *name = nullptr, *text = nullptr;
  driver().cuGetErrorName(result, &name);
  driver().cuGetErrorString(result, &text);
  const std::string message = "CUDA: " + doing + ": " + (text ? text : "unknown error") + " (" +
                              (name ? name : std::to_string(result).c_str()) + ")";
  if (result == CUDA_ERROR_OUT_OF_MEMORY || result == CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES ||
      result == CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE) {
    throw ResourceExhausted(message);
  }
  throw DeviceError(message);
}

}  // namespace masked_rnn::cuda::api
