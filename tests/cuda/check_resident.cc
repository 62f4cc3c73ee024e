// A small call by the resident kernels, exact and in TF32, against the same by the general one, on
// the CPU shim. Prints PASS, or a line that says what is wrong. "check_resident few": on a device
// that does not hold all blocks at once. tests/test_resident.py builds it, with planted faults too.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "core/cuda/kernels/kernels.cu"  // from the first folder that has it

#include "core/cuda/rnn.h"
#include "core/error.h"
#include "cusim/device.h"

namespace masked_rnn::cuda {
namespace {

template <class Arguments, void (*kKernel)(Arguments)>
void run(void** arguments) {
  kKernel(*static_cast<const Arguments*>(arguments[0]));
}

#define MR_INSTANCE(Arguments, ...) {#__VA_ARGS__, run<Arguments, __VA_ARGS__>},
#define MR_CELL(Cell)                                                               \
  MR_INSTANCE(ForwardStep, forward_step<Cell, TanhSigmoid, float>)                  \
  MR_INSTANCE(BackwardStep, backward_step<Cell, TanhSigmoid, float>)                \
  MR_INSTANCE(ResidentForward, resident_forward<Cell, TanhSigmoid, float>)          \
  MR_INSTANCE(ResidentBackward, resident_backward<Cell, TanhSigmoid, float>)        \
  MR_INSTANCE(ResidentForward, resident_forward_matrix<Cell, TanhSigmoid, float>)   \
  MR_INSTANCE(ResidentBackward, resident_backward_matrix<Cell, TanhSigmoid, float>)
const std::vector<cusim::Instance> kInstances = {
    MR_INSTANCE(CountSteps, count_steps)
    MR_INSTANCE(SortRows, sort_rows)
    MR_INSTANCE(AddUpSteps, add_up_steps)
    MR_INSTANCE(GatherInputs, gather_inputs<float>)
    MR_INSTANCE(GatherStates, gather_states<float>)
    MR_INSTANCE(SumOutputGradients, sum_output_gradients<float>)
    MR_INSTANCE(PutInputGradients, put_input_gradients<float>)
    MR_INSTANCE(StoreGradient, store_gradient<float>)
    MR_INSTANCE(StoreBiasGradient, store_bias_gradient<float>)
    MR_INSTANCE(StartStates, start_states<float>)
    MR_INSTANCE(FinishForward, finish_states<float>)
    MR_INSTANCE(FinishForward, fill_outputs<float>)
    MR_INSTANCE(StartGradients, start_gradients<float>)
    MR_INSTANCE(FinishBackward, finish_gradients<float>)
    MR_INSTANCE(FinishBackward, zero_masked_inputs<float>)
    MR_INSTANCE(Multiply, multiply<float>)
    MR_INSTANCE(ZeroTail, zero_tail<float>)
    MR_CELL(Lstm)
    MR_CELL(GruResetBefore)
    MR_INSTANCE(ForwardStep, forward_candidate<GruResetBefore, TanhSigmoid, float>)
    MR_INSTANCE(BackwardStep, backward_reset<GruResetBefore, TanhSigmoid, float>)
};

// The shim, which counts launches, and may hold one block at a time only.
class CountingDevice final : public Device {
 public:
  explicit CountingDevice(bool few) : few_(few) {}
  const DeviceInfo& info() const override { return device_.info(); }
  void launch(const std::string& kernel, const Launch& how, void** arguments,
              Stream stream) const override {
    resident_launches += kernel.rfind("resident", 0) == 0;
    device_.launch(kernel, how, arguments, stream);
  }
  bool has(const std::string& kernel) const override { return device_.has(kernel); }
  int resident(const std::string& kernel, const Launch& how) const override {
    return few_ ? 1 : device_.resident(kernel, how);
  }
  void set_zero(void* memory, size_t bytes, Stream stream) const override {
    device_.set_zero(memory, bytes, stream);
  }
  bool multiply(const Product&, Stream) const override { return false; }

  mutable int resident_launches = 0;

 private:
  const bool few_;
  const cusim::Device device_{kInstances};
};

struct Array {
  explicit Array(int64_t n) : size(n), memory(static_cast<size_t>(n) * sizeof(float)) {}
  float* data() const { return static_cast<float*>(memory.data()); }
  int64_t size;
  cusim::Memory memory;
};
Array drawn(int64_t n) {
  static uint32_t state = 1;
  Array array(n);
  for (int64_t i = 0; i < n; ++i) {
    state = state * 1664525u + 1013904223u;
    array.data()[i] = float(state >> 8) / float(1 << 24) - 0.5f;
  }
  return array;
}

constexpr int64_t kBatch = 5, kTime = 7, kFeatures = 3, kUnits = 19;

// Outputs and gradients of a call, one after the other.
std::vector<float> results(const Device& device, const Problem& p, const Options& options,
                           const Array& d_outputs) {
  const int64_t width = gates(p.cell) * p.units;
  const Array outputs(kBatch * kTime * kUnits), h(kBatch * kUnits), c(kBatch * kUnits);
  const Array d_inputs(kBatch * kTime * kFeatures), d_kernel(kFeatures * width);
  const Array d_recurrent(kUnits * width), d_bias(width), d_h(kBatch * kUnits);
  const Plan plan(device, p, options);
  const cusim::Memory reserve(plan.reserve_bytes());
  ForwardResults to{outputs.data(), h.data(), c.data(), reserve.data()};
  const cusim::Memory forward(plan.forward_workspace_bytes(true));
  plan.forward(to, forward.data(), nullptr);
  BackwardArrays arrays{};
  arrays.reserve = reserve.data();
  arrays.d_outputs = d_outputs.data();
  arrays.d_inputs = d_inputs.data();
  arrays.d_kernel = d_kernel.data();
  arrays.d_recurrent_kernel = d_recurrent.data();
  arrays.d_bias = d_bias.data();
  arrays.d_initial_h = d_h.data();
  const cusim::Memory backward(plan.backward_workspace_bytes());
  plan.backward(arrays, backward.data(), nullptr);
  std::vector<float> all;
  for (const Array* array : {&outputs, &h, &d_inputs, &d_kernel, &d_recurrent, &d_bias, &d_h}) {
    all.insert(all.end(), array->data(), array->data() + array->size);
  }
  return all;
}

std::string check(Cell cell, bool tf32, bool few) {
  Problem p;
  p.cell = cell;
  p.batch = kBatch, p.time = kTime, p.features = kFeatures, p.units = kUnits;
  const int64_t width = gates(cell) * kUnits;
  const Array inputs = drawn(kBatch * kTime * kFeatures), kernel = drawn(kFeatures * width);
  const Array recurrent_kernel = drawn(kUnits * width), bias = drawn(width);
  const Array d_outputs = drawn(kBatch * kTime * kUnits);
  std::vector<uint8_t> mask(kBatch * kTime);
  for (size_t i = 0; i < mask.size(); ++i) mask[i] = i * 7 % 5 < 3;
  p.inputs = inputs.data();
  p.kernel = kernel.data();
  p.recurrent_kernel = recurrent_kernel.data();
  p.bias = bias.data();
  p.mask = mask.data();
  Options general, resident;
  resident.tf32 = tf32;
  general.kernel = "general";
  if (!few) resident.kernel = "resident";
  resident.units = 8;  // three slices
  resident.chunk_rows = 4 * kBatch;
  const CountingDevice device(few);
  const std::vector<float> want = results(device, p, general, d_outputs);
  const std::vector<float> got = results(device, p, resident, d_outputs);
  if (device.resident_launches != (few ? 0 : 4)) {
    return "FAIL: " + std::to_string(device.resident_launches) + " launches of the resident kernel";
  }
  for (size_t i = 0; i < want.size(); ++i) {
    if (!(std::fabs(got[i] - want[i]) <= (tf32 ? 4e-3 : 1e-5))) return "FAIL: wrong numbers";
  }
  return "PASS";
}

}  // namespace
}  // namespace masked_rnn::cuda

int main(int count, char**) {
  using namespace masked_rnn;
  const bool few = count > 1;
  std::string verdict = "PASS";
  try {
    for (const Cell cell : {Cell::kLstm, Cell::kGruResetBefore}) {
      for (const bool tf32 : {false, true}) {
        if (verdict == "PASS") verdict = cuda::check(cell, tf32, few);
      }
    }
  } catch (const DeviceError& e) {
    verdict = std::string("FAIL: ") + e.what();
  }
  std::puts(verdict.c_str());
  return verdict != "PASS";
}
