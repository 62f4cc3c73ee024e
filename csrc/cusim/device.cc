#include "device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "core/error.h"

namespace cusim {

using masked_rnn::DeviceError;
using masked_rnn::DType;
using masked_rnn::ResourceExhausted;
using masked_rnn::cuda::Launch;
using masked_rnn::cuda::Product;
using masked_rnn::cuda::Stream;

namespace {

constexpr int kThreadsPerMultiprocessor = 2048;
constexpr int64_t kSharedPerMultiprocessor = 228 << 10;

int from_environment(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr || *value == '\0' ? otherwise : std::atoi(value);
}

int64_t product(const std::array<unsigned, 3>& sizes) {
  return int64_t(sizes[0]) * sizes[1] * sizes[2];
}

// What the driver would refuse.
void check(const std::string& kernel, const Launch& launch,
           const masked_rnn::cuda::DeviceInfo& info) {
  std::string wrong;
  if (product(launch.block) < 1 || product(launch.block) > 1024) wrong = "threads of a block";
  if (product(launch.grid) < 1 || launch.grid[0] > 0x7fffffffu || launch.grid[1] > 65535 ||
      launch.grid[2] > 65535) {
    wrong = "blocks of the grid";
  }
  if (launch.shared_bytes > info.shared_bytes_per_block) wrong = "bytes of shared memory";
  if (launch.cluster < 1 || launch.cluster > 16 || launch.grid[0] % launch.cluster != 0 ||
      (launch.cluster > 1 && info.capability < 90)) {
    wrong = "blocks of a cluster";
  }
  if (!wrong.empty()) throw ResourceExhausted(kernel + ": the number of " + wrong + " is refused");
}

std::string without_spaces(std::string name) {
  name.erase(std::remove(name.begin(), name.end(), ' '), name.end());
  return name;
}

template <class T>
void multiply_matrices(const Product& p) {
  for (int64_t batch = 0; batch < p.count; ++batch) {
    const T* a = static_cast<const T*>(p.a) + batch * p.a_stride;
    const T* b = static_cast<const T*>(p.b) + batch * p.b_stride;
    T* c = static_cast<T*>(p.c) + batch * p.c_stride;
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.n; ++j) {
        T sum = 0;
        for (int64_t k = 0; k < p.k; ++k) {
          sum += (p.transpose_a ? a[k * p.a_row + i] : a[i * p.a_row + k]) *
                 (p.transpose_b ? b[j * p.b_row + k] : b[k * p.b_row + j]);
        }
        T& to = c[i * p.c_row + j];
        to = T(p.alpha) * sum + (p.beta == 0 ? T(0) : T(p.beta) * to);
      }
    }
  }
}

}  // namespace

DeviceOptions DeviceOptions::from_environment() {
  DeviceOptions options;
  const char* order = std::getenv("CUSIM_ORDER");
  options.schedule = schedule_from(order == nullptr ? "" : order);
  options.capability = cusim::from_environment("CUSIM_CAPABILITY", options.capability);
  options.multiprocessors =
      cusim::from_environment("CUSIM_MULTIPROCESSORS", options.multiprocessors);
  options.library = cusim::from_environment("CUSIM_LIBRARY", 0) != 0;
  return options;
}

Device::Device(const std::vector<Instance>& instances, const DeviceOptions& options)
    : options_(options) {
  info_ = {"cusim", options.capability, options.multiprocessors, 227 << 10, 50 << 20};
  for (const Instance& instance : instances) {
    instances_.emplace(without_spaces(instance.name), instance);
  }
}

const Instance& Device::find(const std::string& kernel) const {
  const auto found = instances_.find(without_spaces(kernel));
  if (found == instances_.end()) throw DeviceError("cusim: no kernel is named " + kernel);
  return found->second;
}

void Device::launch(const std::string& kernel, const Launch& launch, void** arguments,
                    Stream stream) const {
  const Instance& instance = find(kernel);
  check(kernel, launch, info_);
  if (launch.cooperative && product(launch.grid) > resident(kernel, launch)) {
    throw ResourceExhausted(kernel + ": a cooperative grid of " +
                            std::to_string(product(launch.grid)) + " blocks does not fit");
  }
  (void)stream;
  GridShape shape;
  shape.grid = {launch.grid[0], launch.grid[1], launch.grid[2]};
  shape.block = {launch.block[0], launch.block[1], launch.block[2]};
  shape.shared_bytes = launch.shared_bytes;
  shape.cluster = launch.cluster;
  shape.cooperative = launch.cooperative;
  try {
    run_grid(shape, options_.schedule, [&] { instance.run(arguments); });
  } catch (const DeviceError& e) {
    throw DeviceError(kernel + ": " + e.what());
  }
}

bool Device::has(const std::string& kernel) const {
  return instances_.count(without_spaces(kernel)) > 0;
}

int Device::resident(const std::string& kernel, const Launch& launch) const {
  find(kernel);
  check(kernel, launch, info_);
  const int64_t by_threads = kThreadsPerMultiprocessor / product(launch.block);
  const int64_t by_shared = kSharedPerMultiprocessor / (launch.shared_bytes + 1024);
  const int64_t blocks =
      options_.multiprocessors * std::min({by_threads, by_shared, int64_t(32)});
  return static_cast<int>(blocks / launch.cluster);
}

void Device::set_zero(void* memory, size_t bytes, Stream) const {
  if (bytes > 0) std::memset(memory, 0, bytes);
}

bool Device::multiply(const Product& p, Stream) const {
  if (!options_.library || p.dtype != p.result) return false;
  if (p.dtype == DType::kFloat32) {
    multiply_matrices<float>(p);
  } else if (p.dtype == DType::kFloat64) {
    multiply_matrices<double>(p);
  } else {
    return false;
  }
  return true;
}

Memory::Memory(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 256, std::max<size_t>(bytes, 1)) != 0) {
    throw ResourceExhausted("cusim: " + std::to_string(bytes) + " bytes cannot be had");
  }
  data_.reset(memory);
  std::memset(memory, 0xff, bytes);
}

}  // namespace cusim
