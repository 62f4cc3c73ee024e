// A Device that runs the kernels' own sources on the CPU: the tests' GPU. Memory is the host's.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/cuda/device.h"
#include "grid.h"

namespace cusim {

// An instance of a kernel template: its name with all arguments, and a call of it.
struct Instance {
  const char* name;
  void (*run)(void** arguments);
};

struct DeviceOptions {
  Schedule schedule;
  int capability = 90;
  int multiprocessors = 8;
  bool library = false;  // multiply() works, on whole arrays, as cuBLAS would
  // CUSIM_ORDER (fifo, lifo, a seed), CUSIM_CAPABILITY, CUSIM_MULTIPROCESSORS, CUSIM_LIBRARY
  static DeviceOptions from_environment();
};

class Device final : public masked_rnn::cuda::Device {
 public:
  explicit Device(const std::vector<Instance>& instances,
                  const DeviceOptions& options = DeviceOptions::from_environment());

  const masked_rnn::cuda::DeviceInfo& info() const override { return info_; }
  void launch(const std::string& kernel, const masked_rnn::cuda::Launch& launch,
              void** arguments, masked_rnn::cuda::Stream stream) const override;
  bool has(const std::string& kernel) const override;
  int resident(const std::string& kernel, const masked_rnn::cuda::Launch& launch) const override;
  void set_zero(void* memory, size_t bytes, masked_rnn::cuda::Stream stream) const override;
  bool multiply(const masked_rnn::cuda::Product& product,
                masked_rnn::cuda::Stream stream) const override;

 private:
  const Instance& find(const std::string& kernel) const;

  DeviceOptions options_;
  masked_rnn::cuda::DeviceInfo info_;
  std::unordered_map<std::string, Instance> instances_;
};

// Memory for a call, full of NaN, with an end that AddressSanitizer knows. Aligned to 256 bytes.
class Memory {
 public:
  explicit Memory(size_t bytes);
  void* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> data_;
};

}  // namespace cusim
