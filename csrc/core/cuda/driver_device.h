// A Device that is a GPU: NVIDIA's driver, kernels compiled on first use, cuBLAS for products.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "compiler.h"
#include "device.h"
#include "disk_cache.h"

namespace masked_rnn::cuda {

class MASKED_RNN_API DriverDevice : public Device {
 public:
  // The device of the calling thread's CUDA context, which whoever calls us has made.
  static const DriverDevice& current();
  // By number, in the context that all libraries of a process share (the primary one).
  static const DriverDevice& of_ordinal(int ordinal);

  // Makes the device's context the calling thread's, while this lives.
  class Active {
   public:
    explicit Active(const DriverDevice& device);
    ~Active();
    Active(const Active&) = delete;
    Active& operator=(const Active&) = delete;

   private:
    bool pushed_ = false;
  };

  DriverDevice(void* context, int ordinal, const std::vector<Source>& sources, DiskCache cache);
  ~DriverDevice() override;

  int ordinal() const { return ordinal_; }
  const DeviceInfo& info() const override { return info_; }
  void launch(const std::string& kernel, const Launch& launch, void** arguments,
              Stream stream) const override;
  int resident(const std::string& kernel, const Launch& launch) const override;
  void set_zero(void* memory, size_t bytes, Stream stream) const override;
  bool multiply(const Product& product, Stream stream) const override;

  // Device memory for the use of `stream`, and back to it once the stream's work so far is done.
  void* allocate(size_t bytes, Stream stream) const;
  void free(void* memory, Stream stream) const noexcept;
  // Waits for all that uses it.
  void free(void* memory) const noexcept;

  // Work queued on `waiting` from now on starts after what `stream` has been given so far.
  void wait_for(Stream waiting, Stream stream) const;
  void synchronize(Stream stream) const;
  void synchronize() const;
  // A stream of our own, for callers that have none; always the same one.
  Stream own_stream() const;

 private:
  struct Kernel;
  struct Handle;

  void* function(const std::string& kernel) const;
  void load(const std::string& name, Kernel& kernel) const;

  void* const context_;
  const int ordinal_;
  const std::vector<Source>& sources_;
  const DiskCache cache_;
  DeviceInfo info_;
  void* pool_ = nullptr;  // null: the device has no memory pools

  mutable std::mutex kernels_mutex_;
  mutable std::map<std::string, std::unique_ptr<Kernel>> kernels_;
  mutable std::mutex handles_mutex_;
  mutable std::list<Handle> handles_;  // the one used last first
  mutable std::mutex stream_mutex_;
  mutable Stream own_stream_ = nullptr;
};

// "" where GPUs can be used; else the sentence that says what is missing.
MASKED_RNN_API std::string unusable_because();

}  // namespace masked_rnn::cuda
