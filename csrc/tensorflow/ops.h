// What the ops' definitions and their kernels agree on.
#pragma once

namespace masked_rnn::tensorflow {

constexpr const char* kForwardOp = "MaskedRnn";
constexpr const char* kLastOp = "MaskedRnnLast";
constexpr const char* kGradientOp = "MaskedRnnGrad";

// Inputs of all three ops, in order; the gradient has four more.
enum Input {
  kInputsIndex,
  kKernel,
  kRecurrentKernel,
  kBias,
  kMask,
  kInitialH,
  kInitialC,
  kInputDropout,
  kRecurrentDropout,
  kReserve,
  kDOutputs,
  kDStateH,
  kDStateC,
};

void register_kernels();

}  // namespace masked_rnn::tensorflow
