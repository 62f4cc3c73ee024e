#include "driver_device.h"

#include <climits>

#include "../error.h"
#include "api.h"

namespace masked_rnn::cuda {

using api::check;
using api::cublas;
using api::driver;

namespace {

// cuBLAS gives the same bits again only where each stream has its own handle, and a handle holds
// some megabytes of the device.
constexpr size_t kMaxHandles = 8;
constexpr unsigned long long kPooledBytes = 1ull << 30;  // kept for the next call

int attribute(int which, api::CUdevice device) {
  int value = 0;
  check(driver().cuDeviceGetAttribute(&value, which, device), "asking for the device's limits");
  return value;
}

std::string text_of(const Launch& launch) {
  auto dims = [](const std::array<unsigned, 3>& d) {
    return std::to_string(d[0]) + "x" + std::to_string(d[1]) + "x" + std::to_string(d[2]);
  };
  std::string text = "grid " + dims(launch.grid) + ", block " + dims(launch.block) + ", " +
                     std::to_string(launch.shared_bytes) + " bytes of shared memory";
  if (launch.cluster > 1) text += ", clusters of " + std::to_string(launch.cluster);
  if (launch.cooperative) text += ", cooperative";
  return text;
}

// A Launch in the driver's terms.
class Configuration {
 public:
  Configuration(const Launch& launch, Stream stream) {
    config_ = {launch.grid[0],      launch.grid[1],  launch.grid[2], launch.block[0],
               launch.block[1],     launch.block[2], launch.shared_bytes,
               stream,              attributes_,     0};
    if (launch.cluster > 1) {
      api::CUlaunchAttribute& a = attributes_[config_.numAttrs++];
      a.id = api::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
      a.value.clusterDim = {launch.cluster, 1, 1};
    }
    if (launch.cooperative) {
      api::CUlaunchAttribute& a = attributes_[config_.numAttrs++];
      a.id = api::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
      a.value.cooperative = 1;
    }
  }
  Configuration(const Configuration&) = delete;
  Configuration& operator=(const Configuration&) = delete;

  const api::CUlaunchConfig* get() const { return &config_; }

 private:
  api::CUlaunchAttribute attributes_[2] = {};
  api::CUlaunchConfig config_;
};

void check_cublas(int status, const std::string& doing) {
  if (status == api::CUBLAS_STATUS_SUCCESS) return;
  const std::string message =
      "CUDA: " + doing + ": " + cublas().library + " says " + std::to_string(status);
  if (status == api::CUBLAS_STATUS_ALLOC_FAILED) throw ResourceExhausted(message);
  throw DeviceError(message);
}

int cublas_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return api::CUDA_R_32F;
    case DType::kFloat64: return api::CUDA_R_64F;
    case DType::kBFloat16: return api::CUDA_R_16BF;
    case DType::kFloat16: return api::CUDA_R_16F;
  }
  return api::CUDA_R_32F;
}

// Devices live as long as the process: kernels may run until its end.
const DriverDevice& device_of(void* context, int ordinal) {
  static auto& mutex = *new std::mutex;
  static auto& devices = *new std::map<void*, std::unique_ptr<DriverDevice>>;
  const std::lock_guard lock(mutex);
  std::unique_ptr<DriverDevice>& device = devices[context];
  if (!device) {
    device = std::make_unique<DriverDevice>(context, ordinal, embedded_sources(),
                                            DiskCache(DiskCache::default_folder()));
  }
  return *device;
}

}  // namespace

struct DriverDevice::Kernel {
  std::mutex mutex;
  api::CUfunction function = nullptr;  // null until it is loaded
};

struct DriverDevice::Handle {
  Stream stream;
  api::cublasHandle_t handle;
};

const DriverDevice& DriverDevice::current() {
  api::CUcontext context = nullptr;
  check(driver().cuCtxGetCurrent(&context), "asking for the current context");
  if (!context) return of_ordinal(0);
  api::CUdevice ordinal = 0;
  check(driver().cuCtxGetDevice(&ordinal), "asking for the current device");
  return device_of(context, ordinal);
}

const DriverDevice& DriverDevice::of_ordinal(int ordinal) {
  int count = 0;
  check(driver().cuDeviceGetCount(&count), "counting devices");
  if (ordinal < 0 || ordinal >= count) {
    throw InvalidArgument("device is " + std::to_string(ordinal) + ", needed: less than " +
                          std::to_string(count) + ", the number of CUDA devices");
  }
  // Retained once and never released, as the devices live until the end.
  static auto& mutex = *new std::mutex;
  static auto& contexts = *new std::map<int, api::CUcontext>;
  api::CUcontext context = nullptr;
  {
    const std::lock_guard lock(mutex);
    api::CUcontext& kept = contexts[ordinal];
    if (!kept) {
      api::CUdevice device = 0;
      check(driver().cuDeviceGet(&device, ordinal), "opening device " + std::to_string(ordinal));
      check(driver().cuDevicePrimaryCtxRetain(&kept, device),
            "opening device " + std::to_string(ordinal));
    }
    context = kept;
  }
  return device_of(context, ordinal);
}

DriverDevice::Active::Active(const DriverDevice& device) {
  api::CUcontext now = nullptr;
  check(driver().cuCtxGetCurrent(&now), "asking for the current context");
  if (now == device.context_) return;
  check(driver().cuCtxPushCurrent_v2(device.context_), "entering the device's context");
  pushed_ = true;
}

DriverDevice::Active::~Active() {
  api::CUcontext popped = nullptr;
  if (pushed_) driver().cuCtxPopCurrent_v2(&popped);
}

DriverDevice::DriverDevice(void* context, int ordinal, const std::vector<Source>& sources,
                           DiskCache cache)
    : context_(context), ordinal_(ordinal), sources_(sources), cache_(std::move(cache)) {
  const Active active(*this);
  api::CUdevice device = 0;
  check(driver().cuDeviceGet(&device, ordinal), "opening device " + std::to_string(ordinal));
  char name[256] = "";
  driver().cuDeviceGetName(name, sizeof name - 1, device);
  info_.name = name;
  info_.capability = 10 * attribute(api::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device) +
                     attribute(api::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
  info_.multiprocessors = attribute(api::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
  info_.shared_bytes_per_block =
      attribute(api::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device);
  info_.l2_bytes = attribute(api::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, device);
  if (attribute(api::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, device)) {
    // Our own, so that how much it keeps is no setting of anybody else's.
    api::CUmemPoolProps properties = {};
    properties.allocType = api::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = api::CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = ordinal;
    check(driver().cuMemPoolCreate(&pool_, &properties), "making a memory pool");
    unsigned long long kept = kPooledBytes;
    check(driver().cuMemPoolSetAttribute(pool_, api::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &kept),
          "making a memory pool");
  }
}

DriverDevice::~DriverDevice() = default;

void DriverDevice::load(const std::string& name, Kernel& kernel) const {
  const Compiler compiler(sources_);
  const std::string key = compiler.key(name, info_.capability);
  // In the cache: the entry's name, a line end, the image.
  std::optional<std::string> kept = cache_.get(key);
  if (!kept) {
    const Compiled compiled = compiler.compile(name, info_.capability);
    kept = compiled.entry + "\n" + compiled.image;
    cache_.put(key, *kept);
  }
  const size_t line = kept->find('\n');
  const std::string entry = kept->substr(0, line), image = kept->substr(line + 1);
  api::CUmodule module = nullptr;
  check(driver().cuModuleLoadData(&module, image.c_str()), "loading " + name);
  api::CUfunction function = nullptr;
  check(driver().cuModuleGetFunction(&function, module, entry.c_str()), "loading " + name);
  int fixed = 0;
  check(driver().cuFuncGetAttribute(&fixed, api::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function),
        "loading " + name);
  check(driver().cuFuncSetAttribute(function, api::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                    int(info_.shared_bytes_per_block) - fixed),
        "giving " + name + " all shared memory");
  if (info_.capability >= 90) {
    check(driver().cuFuncSetAttribute(
              function, api::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1),
          "allowing " + name + " large clusters");
  }
  kernel.function = function;
}

void* DriverDevice::function(const std::string& name) const {
  Kernel* kernel = nullptr;
  {
    const std::lock_guard lock(kernels_mutex_);
    std::unique_ptr<Kernel>& entry = kernels_[name];
    if (!entry) entry = std::make_unique<Kernel>();
    kernel = entry.get();
  }
  const std::lock_guard lock(kernel->mutex);  // other kernels may be compiled meanwhile
  if (!kernel->function) load(name, *kernel);
  return kernel->function;
}

void DriverDevice::launch(const std::string& kernel, const Launch& launch, void** arguments,
                          Stream stream) const {
  const Active active(*this);
  void* const function = this->function(kernel);
  const Configuration configuration(launch, stream);
  const api::CUresult result =
      driver().cuLaunchKernelEx(configuration.get(), function, arguments, nullptr);
  if (result != api::CUDA_SUCCESS) {
    check(result, "launching " + kernel + " (" + text_of(launch) + ")");
  }
}

int DriverDevice::resident(const std::string& kernel, const Launch& launch) const {
  const Active active(*this);
  void* const function = this->function(kernel);
  int count = 0;
  if (launch.cluster > 1) {
    const Configuration configuration(launch, nullptr);
    check(driver().cuOccupancyMaxActiveClusters(&count, function, configuration.get()),
          "asking how many clusters of " + kernel + " fit");
    return count;
  }
  const unsigned threads = launch.block[0] * launch.block[1] * launch.block[2];
  check(driver().cuOccupancyMaxActiveBlocksPerMultiprocessor(&count, function, int(threads),
                                                             launch.shared_bytes),
        "asking how many blocks of " + kernel + " fit");
  return count * info_.multiprocessors;
}

void DriverDevice::set_zero(void* memory, size_t bytes, Stream stream) const {
  if (bytes == 0) return;
  const Active active(*this);
  check(driver().cuMemsetD8Async(reinterpret_cast<api::CUdeviceptr>(memory), 0, bytes, stream),
        "clearing " + std::to_string(bytes) + " bytes");
}

bool DriverDevice::multiply(const Product& p, Stream stream) const {
  for (const int64_t size : {p.m, p.n, p.k, p.a_row, p.b_row, p.c_row, p.count}) {
    if (size < 0 || size > INT_MAX) return false;  // cuBLAS counts in int
  }
  if (p.m == 0 || p.n == 0 || p.count == 0) return true;
  if (p.k == 0) return false;
  const Active active(*this);
  const std::string doing = "a product of " + std::to_string(p.m) + "x" + std::to_string(p.k) +
                            " and " + std::to_string(p.k) + "x" + std::to_string(p.n);
  // A handle is used by one thread at a time, and queueing takes microseconds.
  const std::lock_guard lock(handles_mutex_);
  auto found = handles_.begin();
  while (found != handles_.end() && found->stream != stream) ++found;
  if (found == handles_.end()) {
    if (handles_.size() >= kMaxHandles) {
      cublas().cublasDestroy_v2(handles_.back().handle);
      handles_.pop_back();
    }
    api::cublasHandle_t handle = nullptr;
    check_cublas(cublas().cublasCreate_v2(&handle), "starting cuBLAS");
    handles_.push_front({stream, handle});
    // Sums of 16-bit products stay in float32 throughout.
    check_cublas(
        cublas().cublasSetMathMode(handle, api::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION),
        "starting cuBLAS");
    check_cublas(cublas().cublasSetStream_v2(handle, stream), "starting cuBLAS");
  } else {
    handles_.splice(handles_.begin(), handles_, found);
  }
  const bool is_double = p.dtype == DType::kFloat64;
  const int compute = is_double ? api::CUBLAS_COMPUTE_64F
                      : p.dtype == DType::kFloat32 && p.tf32 ? api::CUBLAS_COMPUTE_32F_FAST_TF32
                                                             : api::CUBLAS_COMPUTE_32F;
  const float alpha = float(p.alpha), beta = float(p.beta);
  const void* scale_ab = is_double ? static_cast<const void*>(&p.alpha) : &alpha;
  const void* scale_c = is_double ? static_cast<const void*>(&p.beta) : &beta;
  // cuBLAS counts by columns: what it sees is the transpose, c' = op(b)' op(a)'.
  auto op = [](bool transpose) { return transpose ? api::CUBLAS_OP_T : api::CUBLAS_OP_N; };
  check_cublas(cublas().cublasGemmStridedBatchedEx(
                   handles_.front().handle, op(p.transpose_b), op(p.transpose_a), int(p.n),
                   int(p.m), int(p.k), scale_ab, p.b, cublas_type(p.dtype), int(p.b_row),
                   p.b_stride, p.a, cublas_type(p.dtype), int(p.a_row), p.a_stride, scale_c, p.c,
                   cublas_type(p.result), int(p.c_row), p.c_stride, int(p.count), compute,
                   api::CUBLAS_GEMM_DEFAULT),
               doing);
  return true;
}

void* DriverDevice::allocate(size_t bytes, Stream stream) const {
  if (bytes == 0) return nullptr;
  const Active active(*this);
  api::CUdeviceptr memory = 0;
  const std::string doing = "allocating " + std::to_string(bytes) + " bytes on " + info_.name;
  if (pool_) {
    check(driver().cuMemAllocFromPoolAsync(&memory, bytes, pool_, stream), doing);
  } else {
    check(driver().cuMemAlloc_v2(&memory, bytes), doing);
  }
  return reinterpret_cast<void*>(memory);
}

void DriverDevice::free(void* memory, Stream stream) const noexcept {
  if (!memory) return;
  if (!pool_) return free(memory);
  try {
    const Active active(*this);
    driver().cuMemFreeAsync(reinterpret_cast<api::CUdeviceptr>(memory), stream);
  } catch (const std::exception&) {
    // At the end of a process the driver may be gone, and the memory with it.
  }
}

void DriverDevice::free(void* memory) const noexcept {
  if (!memory) return;
  try {
    const Active active(*this);
    driver().cuMemFree_v2(reinterpret_cast<api::CUdeviceptr>(memory));
  } catch (const std::exception&) {
  }
}

void DriverDevice::wait_for(Stream waiting, Stream stream) const {
  if (waiting == stream) return;
  const Active active(*this);
  api::CUevent event = nullptr;
  check(driver().cuEventCreate(&event, api::CU_EVENT_DISABLE_TIMING), "making an event");
  api::CUresult result = driver().cuEventRecord(event, stream);
  if (result == api::CUDA_SUCCESS) result = driver().cuStreamWaitEvent(waiting, event, 0);
  driver().cuEventDestroy_v2(event);  // it goes when it has happened
  check(result, "making one stream wait for another");
}

void DriverDevice::synchronize(Stream stream) const {
  const Active active(*this);
  check(driver().cuStreamSynchronize(stream), "waiting for a stream");
}

void DriverDevice::synchronize() const {
  const Active active(*this);
  check(driver().cuCtxSynchronize(), "waiting for the device");
}

Stream DriverDevice::own_stream() const {
  const std::lock_guard lock(stream_mutex_);
  if (!own_stream_) {
    const Active active(*this);
    check(driver().cuStreamCreate(&own_stream_, api::CU_STREAM_NON_BLOCKING), "making a stream");
  }
  return own_stream_;
}

std::string unusable_because() {
  try {
    driver();
    api::nvrtc();
    cublas();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

}  // namespace masked_rnn::cuda
