// The library's kernels, as the shim runs them.
#pragma once

#include <vector>

#include "device.h"

namespace cusim {

std::vector<Instance> kernel_instances();

// One for each storage type, each from its own object file.
void add_instances_float(std::vector<Instance>& to);
void add_instances_double(std::vector<Instance>& to);
void add_instances_BFloat16(std::vector<Instance>& to);
void add_instances_Float16(std::vector<Instance>& to);

}  // namespace cusim
