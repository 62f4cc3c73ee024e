// What the CUDA part asks of a GPU: launch a kernel by its C++ name, multiply, clear. One
// implementation talks to the CUDA driver (driver.h), one runs the same sources on the CPU for
// the tests. No CUDA header is needed to include this.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "../params.h"

namespace masked_rnn::cuda {

using Stream = void*;  // a CUstream

struct DeviceInfo {
  std::string name;
  int capability = 0;               // 80, 90, 100, ...
  int multiprocessors = 0;
  int64_t shared_bytes_per_block = 0;  // with the opt-in attribute
  int64_t l2_bytes = 0;
};

struct Launch {
  std::array<unsigned, 3> grid{1, 1, 1}, block{1, 1, 1};
  unsigned shared_bytes = 0;  // dynamic
  unsigned cluster = 1;       // blocks of a cluster, along x
  bool cooperative = false;   // all blocks resident, for a barrier over the grid
};

// Row-major: c [m,n] = alpha * op(a) @ op(b) + beta * c, op(x) = x or its transpose; `count`
// products whose arrays lie `*_stride` elements apart. Accumulates in float (double for double).
struct Product {
  DType dtype = DType::kFloat32;         // of a and b
  DType result = DType::kFloat32;        // of c
  bool transpose_a = false, transpose_b = false;
  bool tf32 = false;                     // float32 may be rounded to TF32
  int64_t m = 0, n = 0, k = 0;
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  int64_t a_row = 0, b_row = 0, c_row = 0;  // elements from one row (as stored) to the next
  double alpha = 1, beta = 0;
  int64_t count = 1, a_stride = 0, b_stride = 0, c_stride = 0;
};

// Every member may be called from several threads at once. They throw ResourceExhausted (memory,
// launch resources) or DeviceError (error.h) with one readable sentence.
class Device {
 public:
  virtual ~Device() = default;

  virtual const DeviceInfo& info() const = 0;

  // `kernel` names an instance of a kernel template with all its arguments, as in
  // "forward_step<Gru, TanhSigmoid, float>" (namespace masked_rnn::cuda is understood). The first
  // use compiles it. `arguments` points at each argument's value. Returns while the stream runs.
  virtual void launch(const std::string& kernel, const Launch& launch, void** arguments,
                      Stream stream) const = 0;

  // Whether there is such an instance. A compiler makes any; tests have a list.
  virtual bool has(const std::string&) const { return true; }

  // How many blocks (clusters, where launch.cluster > 1) of this kernel the device holds at once.
  virtual int resident(const std::string& kernel, const Launch& launch) const = 0;

  virtual void set_zero(void* memory, size_t bytes, Stream stream) const = 0;

  // False where this device has no library for products: the caller launches its own kernel.
  virtual bool multiply(const Product& product, Stream stream) const = 0;
};

}  // namespace masked_rnn::cuda
