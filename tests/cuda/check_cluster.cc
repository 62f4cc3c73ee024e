// A call by the kernels of clusters on the CPU shim, beside one by the general kernels: prints
// PASS, a line that says what is wrong, or what the shim reports. With -DFAULT_... one fault in
// the kernels of clusters. tests/test_cuda_cluster.py builds and runs it, linked with libcusim.a.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "core/cuda/kernels/product.cuh"
#include "core/cuda/kernels/step.cuh"
#include "core/cuda/rnn.h"
#include "core/error.h"
#include "cusim/device.h"

#if defined(FAULT_MISSING_WAIT)  // for what the other blocks send
#define mbarrier_wait(barrier, parity) ((void)(barrier))
#elif defined(FAULT_EARLY_PHASE)  // ends before all is there
#define mbarrier_arrive_expect(barrier, bytes) mbarrier_arrive_expect(barrier, (bytes) / 2)
#elif defined(FAULT_MISSING_BARRIER)  // before the gates' gradients are multiplied
#define __syncthreads() ((void)0)
#endif
#include "core/cuda/kernels/cluster.cuh"

namespace masked_rnn::cuda {
namespace {

template <class Arguments, void (*kKernel)(Arguments)>
void run(void** arguments) {
  kKernel(*static_cast<const Arguments*>(arguments[0]));
}

const cusim::Device& device() {
#define KERNEL(Arguments, ...) {#__VA_ARGS__, run<Arguments, __VA_ARGS__>}
  static const cusim::Device device({
      KERNEL(CountSteps, count_steps),
      KERNEL(SortRows, sort_rows),
      KERNEL(AddUpSteps, add_up_steps),
      KERNEL(ConvertWeights, convert_weights<BFloat16>),
      KERNEL(GatherInputs, gather_inputs<BFloat16>),
      KERNEL(GatherStates, gather_states<BFloat16>),
      KERNEL(SumOutputGradients, sum_output_gradients<BFloat16>),
      KERNEL(PutInputGradients, put_input_gradients<BFloat16>),
      KERNEL(StoreGradient, store_gradient<BFloat16>),
      KERNEL(StoreBiasGradient, store_bias_gradient<BFloat16>),
      KERNEL(StartStates, start_states<BFloat16>),
      KERNEL(FinishForward, finish_states<BFloat16>),
      KERNEL(FinishForward, fill_outputs<BFloat16>),
      KERNEL(StartGradients, start_gradients<BFloat16>),
      KERNEL(FinishBackward, finish_gradients<BFloat16>),
      KERNEL(FinishBackward, zero_masked_inputs<BFloat16>),
      KERNEL(Multiply, multiply<float>),
      KERNEL(AddParts, add_parts<float>),
      KERNEL(ZeroTail, zero_tail<float>),
      KERNEL(ForwardStep, forward_step<Lstm, TanhSigmoid, BFloat16>),
      KERNEL(BackwardStep, backward_step<Lstm, TanhSigmoid, BFloat16>),
      KERNEL(ForwardStep, forward_cluster<Lstm, TanhSigmoid, BFloat16, 64, 4>),
      KERNEL(BackwardStep, backward_cluster<Lstm, TanhSigmoid, BFloat16, 64, 4>),
  });
#undef KERNEL
  return device;
}

struct Array {
  explicit Array(int64_t n) : size(n), memory(static_cast<size_t>(n) * sizeof(BFloat16)) {}
  BFloat16* data() const { return static_cast<BFloat16*>(memory.data()); }
  int64_t size;
  cusim::Memory memory;
};

Array drawn(int64_t n, float scale) {
  uint32_t state = static_cast<uint32_t>(n);
  Array array(n);
  for (int64_t i = 0; i < n; ++i) {
    state = state * 1664525u + 1013904223u;
    put(array.data()[i], (float(state >> 8) / float(1 << 24) - 0.5f) * scale);
  }
  return array;
}

// Outputs, then gradients of the inputs, of one call.
std::vector<float> call(const std::string& kernel) {
  constexpr int64_t B = 11, T = 6, I = 3, H = 50, width = 4 * H;
  const Array inputs = drawn(B * T * I, 2), weights = drawn(I * width, 1);
  const Array recurrent_weights = drawn(H * width, 0.4f), d_outputs = drawn(B * T * H, 1);
  std::vector<uint8_t> mask(B * T);
  for (size_t i = 0; i < mask.size(); ++i) mask[i] = i * 7 % 10 < 7;
  Problem p;
  p.cell = Cell::kLstm;
  p.dtype = DType::kBFloat16;
  p.batch = B, p.time = T, p.features = I, p.units = H;
  p.inputs = inputs.data(), p.kernel = weights.data();
  p.recurrent_kernel = recurrent_weights.data();
  p.mask = mask.data();
  Options options;
  options.kernel = kernel;
  const Plan plan(device(), p, options);
  const Array outputs(B * T * H), state_h(B * H), state_c(B * H), d_inputs(B * T * I);
  const Array d_kernel(I * width), d_recurrent_kernel(H * width);
  const cusim::Memory reserve(plan.reserve_bytes());
  const cusim::Memory forward(plan.forward_workspace_bytes(true));
  plan.forward({outputs.data(), state_h.data(), state_c.data(), reserve.data()}, forward.data(),
               nullptr);
  BackwardArrays arrays;
  arrays.reserve = reserve.data();
  arrays.d_outputs = d_outputs.data();
  arrays.d_inputs = d_inputs.data(), arrays.d_kernel = d_kernel.data();
  arrays.d_recurrent_kernel = d_recurrent_kernel.data();
  const cusim::Memory backward(plan.backward_workspace_bytes());
  plan.backward(arrays, backward.data(), nullptr);
  std::vector<float> all;
  for (const Array* array : {&outputs, &d_inputs}) {
    for (int64_t i = 0; i < array->size; ++i) all.push_back(value_of(array->data()[i]));
  }
  return all;
}

bool close(const std::vector<float>& got, const std::vector<float>& want) {
  for (size_t i = 0; i < got.size(); ++i) {
    if (!(std::fabs(got[i] - want[i]) <= 2e-2f)) return false;
  }
  return true;
}

}  // namespace
}  // namespace masked_rnn::cuda

int main() {
  using masked_rnn::cuda::call;
  try {
    const bool passed = masked_rnn::cuda::close(call("cluster"), call("general"));
    std::puts(passed ? "PASS" : "FAIL: wrong numbers");
    return passed ? 0 : 1;
  } catch (const std::exception& e) {
    std::printf("FAIL: %s\n", e.what());
    return 1;
  }
}
