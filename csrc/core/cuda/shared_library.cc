#include "shared_library.h"

#include <dlfcn.h>

#include <mutex>
#include <utility>

#include "../error.h"

namespace masked_rnn::cuda {
namespace {

std::mutex& folders_mutex() {
  static std::mutex mutex;
  return mutex;
}

std::vector<std::string>& folders_list() {
  static auto& folders = *new std::vector<std::string>;
  return folders;
}

std::vector<std::string> library_folders() {
  const std::lock_guard lock(folders_mutex());
  return folders_list();
}

}  // namespace

void set_library_folders(std::vector<std::string> folders) {
  const std::lock_guard lock(folders_mutex());
  folders_list() = std::move(folders);
}

SharedLibrary::SharedLibrary(const std::vector<std::string>& names, const std::string& missing) {
  std::string reason;
  auto open = [&](const std::string& name, const std::string& path, int mode) {
    handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | mode);
    if (handle_) {
      name_ = name;
    } else if (const char* error = dlerror(); error && reason.empty() && mode == 0) {
      reason = error;
    }
    return handle_ != nullptr;
  };
  for (const std::string& name : names) {
    if (open(name, name, RTLD_NOLOAD)) return;
  }
  for (const std::string& name : names) {
    if (open(name, name, 0)) return;
  }
  const std::vector<std::string> folders = library_folders();
  for (const std::string& name : names) {
    for (const std::string& folder : folders) {
      if (open(name, folder + "/" + name, 0)) return;
    }
  }
  throw DeviceError(missing + " (" + reason + ")");
}

void* SharedLibrary::find(const char* function) const { return dlsym(handle_, function); }

}  // namespace masked_rnn::cuda
