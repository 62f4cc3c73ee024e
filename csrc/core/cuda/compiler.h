// Kernels from source to machine code, by NVRTC.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sources.h"

namespace masked_rnn::cuda {

struct Compiled {
  std::string entry;  // the kernel's name in the image
  std::string image;  // a cubin, or PTX where the compiler does not know the device
};

// What to compile for: the device's own architecture, else the nearest that its machine code runs
// on, else PTX of the newest, for the driver to translate.
struct Target {
  std::string architecture;  // "sm_90a", or "compute_100" for PTX
  bool ptx = false;
};

// `known`: capabilities that the compiler knows, ascending, as 80, 90.
MASKED_RNN_API Target target_for(int capability, const std::vector<int>& known);

class Compiler {
 public:
  // The first source is the one to compile, the others are its headers.
  explicit Compiler(const std::vector<Source>& sources) : sources_(sources) {}

  // `kernel` is a name as in Device::launch. Throws DeviceError with the compiler's log.
  MASKED_RNN_API Compiled compile(const std::string& kernel, int capability) const;

  // All that the result depends on.
  std::string key(const std::string& kernel, int capability) const;

 private:
  const std::vector<Source>& sources_;
};

// FNV-1a, 64 bits: tells texts apart, is no protection against forgery.
uint64_t hash_of(const std::string& text, uint64_t seed = 14695981039346656037u);

}  // namespace masked_rnn::cuda
