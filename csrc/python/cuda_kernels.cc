// Kernels that Python calls on their own: the mask of lengths, and what a step's exchange costs.

#include "cuda_kernels.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "cuda/kernels/tiles.h"
#include "cuda_target.h"
#include "error.h"
#include "gil.h"

namespace masked_rnn::python {
namespace {

template <class Arguments>
void launch(const Target& target, const char* kernel, const cuda::Launch& how,
            Arguments arguments) {
  void* pointers[] = {&arguments};
  const WithoutGil without_gil;
  target.device.launch(kernel, how, pointers, target.stream);
}

// The mask [B,T] of rows with `lengths` [B] real steps each, 0 to T.
CudaArray mask_of_lengths(const py::array_t<int32_t, py::array::c_style>& lengths, int64_t time,
                          int ordinal, const py::object& stream_object, uintptr_t stream) {
  const Target target(ordinal, stream_object, stream);
  const int64_t batch = lengths.size();
  CudaArray mask = target.array("uint8", {batch, time});
  if (time == 0) return mask;
  cuda::MaskOfLengths some{};
  some.time = time;
  for (int64_t first = 0; first < batch; first += some.rows) {
    some.mask = static_cast<uint8_t*>(mask.data()) + first * time;
    some.rows = int32_t(std::min<int64_t>(batch - first, cuda::kLengthsOfLaunch));
    std::copy_n(lengths.data() + first, some.rows, some.length);
    const int64_t blocks = (some.rows * time + cuda::kThreads - 1) / cuda::kThreads;
    if (blocks > INT32_MAX) {
      throw ResourceExhausted("sequence_length needs " + std::to_string(blocks) +
                              " blocks, more than a GPU takes");
    }
    cuda::Launch how;
    how.grid[0] = unsigned(blocks);
    how.block[0] = cuda::kThreads;
    launch(target, "mask_of_lengths", how, some);
  }
  return mask;
}

// Queues `rounds` exchanges between `blocks` blocks of `threads` threads: in clusters of `cluster`
// blocks, or, where that is 1, through a barrier of the grid. Every element of the result, float32
// [blocks * threads], is `rounds` where each exchange gave what it should.
CudaArray exchange(int blocks, int cluster, int threads, int rounds, int ordinal,
                   const py::object& stream_object, uintptr_t stream) {
  if (blocks < 1 || cluster < 1 || threads < 1 || threads > 1024 || rounds < 0) {
    throw InvalidArgument("blocks, cluster, threads and rounds are no numbers of an exchange");
  }
  const Target target(ordinal, stream_object, stream);
  const int64_t size = int64_t(blocks) * threads;
  CudaArray result = target.array("float32", {size});
  const int64_t bytes = (2 * size + 1) * int64_t(sizeof(float));
  const Workspace workspace(target, bytes);
  target.device.set_zero(workspace.data(), size_t(bytes), target.stream);
  cuda::ExchangeRounds arguments{};
  arguments.words = static_cast<float*>(workspace.data());
  arguments.arrived = reinterpret_cast<unsigned*>(arguments.words + 2 * size);
  arguments.result = static_cast<float*>(result.data());
  arguments.rounds = rounds;
  cuda::Launch how;
  how.grid[0] = unsigned(blocks);
  how.block[0] = unsigned(threads);
  how.cluster = unsigned(cluster);
  how.cooperative = cluster == 1;
  if (cluster > 1) how.shared_bytes = unsigned(16 + 2 * 16 * cluster * threads);
  launch(target, cluster == 1 ? "exchange_by_grid" : "exchange_by_cluster", how, arguments);
  return result;
}

}  // namespace

void define_cuda_kernels(py::module_& m) {
  m.def("cuda_mask_of_lengths", &mask_of_lengths, py::arg("lengths"), py::arg("time"),
        py::arg("device"), py::arg("stream_object"), py::arg("stream"));
  m.def("cuda_exchange", &exchange, py::arg("blocks"), py::arg("cluster"), py::arg("threads"),
        py::arg("rounds"), py::arg("device"), py::arg("stream_object"), py::arg("stream"),
        "What benchmarks/gpu.py times.");
}

}  // namespace masked_rnn::python
