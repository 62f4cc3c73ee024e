// Shared libraries that are found at run time: NVIDIA's, none of which is needed to build or link.
#pragma once

#include <string>
#include <vector>

#include "../params.h"

namespace masked_rnn::cuda {

// Folders to look into for a library that the loader does not find by its name. Python's packages
// put theirs there: site-packages/nvidia/*/lib.
MASKED_RNN_API void set_library_folders(std::vector<std::string> folders);

// A library that stays loaded for the life of the process: what came from it may be in use until
// the end.
class SharedLibrary {
 public:
  // The first of `names` (file names with their version) that can be had: one that this process
  // has loaded already, so that its owner and we share one; then one that the loader finds; then
  // one in the folders of set_library_folders. Throws DeviceError: `missing`, and the loader's
  // reason.
  SharedLibrary(const std::vector<std::string>& names, const std::string& missing);

  // Null where the library has no such function.
  void* find(const char* function) const;
  const std::string& name() const { return name_; }

 private:
  void* handle_ = nullptr;
  std::string name_;
};

}  // namespace masked_rnn::cuda
