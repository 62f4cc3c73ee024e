// The GPU of tests/cuda/fake_driver.cc: together they are a libcuda.so.1 whose kernels run here.
#include "kernels.h"

// As the environment has it when it is asked for first.
const masked_rnn::cuda::Device* emulated_device() {
  static const cusim::Device device(cusim::kernel_instances());
  return &device;
}
