#include "queue.h"

#include <limits>

#include "error.h"
#include "instances.h"

namespace masked_rnn::cuda {
Queue::Queue(const Device& device, const Problem& p, const Options& options, const Shared& shared,
             Stream stream, int64_t depth_parts, void* parts)
    : problem(p),
      steps(shared.steps),
      kernel(shared.kernel != nullptr ? shared.kernel : p.kernel),
      recurrent_kernel(shared.recurrent_kernel != nullptr ? shared.recurrent_kernel
                                                          : p.recurrent_kernel),
      element(real_bytes(p.dtype)),
      device_(device),
      options_(options),
      shared_(shared),
      stream_(stream),
      storage_(storage_name(p.dtype)),
      real_(p.dtype == DType::kFloat64 ? "double" : "float"),
      depth_parts_(depth_parts),
      parts_(parts) {}

void Queue::prepare() const {
  const Call whole = call(0, problem.time);
  launch("count_steps", {row_blocks(problem.batch), 1, 1}, kThreads, 0, CountSteps{whole});
  launch("sort_rows", {element_blocks(problem.batch), 1, 1}, kThreads, 0, SortRows{whole});
  AddUpSteps add_up{whole};
  void* arguments[] = {&add_up};
  Launch one_block;
  one_block.block = {kAddUpThreads, 1, 1};
  one_block.shared_bytes = kAddUpThreads * sizeof(int64_t);
  device_.launch("add_up_steps", one_block, arguments, stream_);
  const int64_t width = gates(problem.cell) * problem.units;
  const auto convert = [&](const void* from, void* to, int64_t rows) {
    if (to == nullptr) return;
    by_storage("convert_weights", element_blocks(rows * width),
               ConvertWeights{from, to, rows * width});
  };
  convert(problem.kernel, shared_.kernel, problem.features);
  convert(problem.recurrent_kernel, shared_.recurrent_kernel, problem.units);
}

std::string Queue::of_cell(const char* name) const { return instance_name(problem, name); }

void Queue::launch_at(const std::string& kernel, std::array<int64_t, 3> grid, int threads,
                      int shared, void** arguments) const {
  Launch launch;
  launch.block = {static_cast<unsigned>(threads), 1, 1};
  launch.shared_bytes = static_cast<unsigned>(shared * element);
  for (int i = 0; i < 3; ++i) {
    if (grid[i] == 0) return;
    if (grid[i] > (i == 0 ? std::numeric_limits<int32_t>::max() : 65535)) {
      throw ResourceExhausted("a kernel needs " + std::to_string(grid[i]) +
                              " blocks, more than a GPU takes");
    }
    launch.grid[i] = static_cast<unsigned>(grid[i]);
  }
  device_.launch(kernel, launch, arguments, stream_);
}

void Queue::set_zero(void* memory, int64_t elements) const {
  device_.set_zero(memory, static_cast<size_t>(elements * element), stream_);
}

void Queue::multiply(const Multiply& product) const {
  if (product.m == 0 || product.n == 0) return;
  if (!options_.deterministic && multiply_by_library(product)) return;
  Multiply own = product;
  const int64_t parts = product.limit == Multiply::Limit::kDepth ? depth_parts_ : 1;
  own.parts = parts_;
  launch("multiply<" + real_ + ">",
         {ceil_div(product.m, kProductTile), ceil_div(product.n, kProductTile), parts},
         kProductThreads, kProductShared, own);
  if (parts == 1) return;
  by_real("add_parts", element_blocks(product.m * product.n),
          AddParts{parts_, product.c, product.m, product.n, product.c_row,
                   static_cast<int32_t>(parts), product.accumulate});
}

// A library takes sizes from the host: those of all rows, whose tails are zero.
bool Queue::multiply_by_library(const Multiply& product) const {
  if (product.a == nullptr || product.k == 0) return false;
  Product p;
  p.dtype = p.result = element == 8 ? DType::kFloat64 : DType::kFloat32;
  // Values of 16-bit types are exact in TF32, or rounded as finely as their results.
  p.tf32 = options_.tf32 || bytes_of(problem.dtype) == 2;
  p.m = product.m;
  p.n = product.n;
  p.k = product.k;
  p.a = product.a;
  p.b = product.b;
  p.c = product.c;
  p.transpose_a = product.a_column != 1;
  p.transpose_b = product.b_column != 1;
  p.a_row = p.transpose_a ? product.a_column : product.a_row;
  p.b_row = p.transpose_b ? product.b_column : product.b_row;
  p.c_row = product.c_row;
  p.beta = product.accumulate ? 1 : 0;
  return device_.multiply(p, stream_);
}

}  // namespace masked_rnn::cuda
