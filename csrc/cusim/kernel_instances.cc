#include "kernels.h"

namespace cusim {

std::vector<Instance> kernel_instances() {
  std::vector<Instance> all;
  add_instances_float(all);
  add_instances_double(all);
  add_instances_BFloat16(all);
  add_instances_Float16(all);
  return all;
}

}  // namespace cusim
