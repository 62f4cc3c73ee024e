// One call on one stream: how its kernels are named and launched.
#pragma once

#include <string>

#include "choose.h"
#include "device.h"
#include "kernels/tiles.h"
#include "memory.h"
#include "rnn.h"

namespace masked_rnn::cuda {

class Queue {
 public:
  // `parts`: room for the sums of a product whose depth is split in `depth_parts`.
  Queue(const Device& device, const Problem& problem, const Options& options,
        const Shared& shared, Stream stream, int64_t depth_parts = 1, void* parts = nullptr);

  // Compaction, and the weights in the compute type.
  void prepare() const;

  // Blocks of kThreads of "name<Storage>", or "name<Real>".
  template <class Arguments>
  void by_storage(const char* name, int64_t blocks, const Arguments& arguments) const {
    launch(std::string(name) + "<" + storage_ + ">", {blocks, 1, 1}, kThreads, 0, arguments);
  }
  template <class Arguments>
  void by_real(const char* name, int64_t blocks, const Arguments& arguments) const {
    launch(std::string(name) + "<" + real_ + ">", {blocks, 1, 1}, kThreads, 0, arguments);
  }
  // "name<Cell, Activations, Storage>"
  std::string of_cell(const char* name) const;
  // A grid with a zero in it is no launch. `shared` elements of the compute type.
  template <class Arguments>
  void launch(const std::string& kernel, std::array<int64_t, 3> grid, int threads, int shared,
              const Arguments& arguments) const {
    void* pointers[] = {const_cast<Arguments*>(&arguments)};
    launch_at(kernel, grid, threads, shared, pointers);
  }
  template <class Arguments>
  void launch(const std::string& kernel, const Launch& how, const Arguments& arguments) const {
    void* pointers[] = {const_cast<Arguments*>(&arguments)};
    device_.launch(kernel, how, pointers, stream_);
  }
  void set_zero(void* memory, int64_t elements) const;

  // c (+)= a @ b in the compute type, by the device's library or the own kernel.
  void multiply(const Multiply& product) const;

  Call call(int64_t first, int64_t end) const { return {problem, steps, first, end}; }

  const Problem& problem;
  const Steps steps;
  const void *kernel, *recurrent_kernel;  // in the compute type
  const int64_t element;                  // its bytes

 private:
  void launch_at(const std::string& kernel, std::array<int64_t, 3> grid, int threads, int shared,
                 void** arguments) const;
  bool multiply_by_library(const Multiply& product) const;

  const Device& device_;
  const Options& options_;
  const Shared& shared_;
  const Stream stream_;
  const std::string storage_, real_;
  const int64_t depth_parts_;
  void* const parts_;
};

constexpr int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }
// Blocks of kThreads with one thread an element, and with one warp a row.
constexpr int64_t element_blocks(int64_t elements) { return ceil_div(elements, kThreads); }
constexpr int64_t row_blocks(int64_t rows) { return ceil_div(rows, kPackRows); }

}  // namespace masked_rnn::cuda
