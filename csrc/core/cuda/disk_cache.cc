#include "disk_cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <memory>
#include <sstream>
#include <tuple>
#include <vector>

#include "compiler.h"

namespace masked_rnn::cuda {
namespace {

constexpr const char* kSuffix = ".masked_rnn";
constexpr const char* kUnfinished = ".unfinished.";

// key size, value size and checksum in hexadecimal, then key and value.
constexpr size_t kHeaderBytes = 3 * 17;

std::string header(const std::string& key, const std::string& value) {
  char text[kHeaderBytes + 1];
  std::snprintf(text, sizeof text, "%016zx %016zx %016llx\n", key.size(), value.size(),
                static_cast<unsigned long long>(hash_of(value, hash_of(key))));
  return text;
}

bool write_all(int file, const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = write(file, bytes.data() + done, bytes.size() - done);
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

// Where this fails, what is done in the folder fails too, which is seen there.
void make_folders(const std::string& folder) {
  for (size_t end = 0; end != std::string::npos;) {
    end = folder.find('/', end + 1);
    mkdir(folder.substr(0, end).c_str(), 0700);
  }
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(opendir(folder.c_str()), closedir);
  while (const dirent* entry = listing ? readdir(listing.get()) : nullptr) {
    names.push_back(entry->d_name);
  }
  return names;
}

}  // namespace

std::string DiskCache::default_folder() {
  if (const char* chosen = std::getenv("MASKED_RNN_CACHE")) {
    return std::string(chosen) == "off" ? "" : chosen;
  }
  const char* base = std::getenv("XDG_CACHE_HOME");
  if (base && base[0] == '/') return std::string(base) + "/masked_rnn";
  const char* home = std::getenv("HOME");
  return home && home[0] == '/' ? std::string(home) + "/.cache/masked_rnn" : "";
}

// What is loaded from here runs on the device: nobody else may have written it.
bool DiskCache::usable() const {
  if (folder_.empty()) return false;
  make_folders(folder_);
  struct stat status;
  return stat(folder_.c_str(), &status) == 0 && S_ISDIR(status.st_mode) &&
         status.st_uid == geteuid() && (status.st_mode & 0022) == 0;
}

std::string DiskCache::path_of(const std::string& key) const {
  char name[17];
  std::snprintf(name, sizeof name, "%016llx", static_cast<unsigned long long>(hash_of(key)));
  return folder_ + "/" + name + kSuffix;
}

std::optional<std::string> DiskCache::get(const std::string& key) const {
  if (!usable()) return {};
  const std::string path = path_of(key);
  std::ifstream file(path, std::ios::binary);
  if (!file) return {};
  std::ostringstream text;
  text << file.rdbuf();
  const std::string bytes = std::move(text).str();
  const size_t start = kHeaderBytes + key.size();
  if (bytes.size() < start) return {};
  std::string value = bytes.substr(start);
  if (bytes.compare(0, start, header(key, value) + key) != 0) return {};
  utimensat(AT_FDCWD, path.c_str(), nullptr, 0);  // used now: the last to be removed
  return value;
}

void DiskCache::put(const std::string& key, const std::string& value) const {
  if (!usable()) return;
  std::string unfinished = path_of(key) + kUnfinished + "XXXXXX";
  const int file = mkstemp(unfinished.data());  // mode 0600
  if (file < 0) return;
  const bool written = write_all(file, header(key, value) + key + value);
  close(file);
  if (!written || std::rename(unfinished.c_str(), path_of(key).c_str()) != 0) {
    unlink(unfinished.c_str());
  }
  keep_small();
}

void DiskCache::keep_small() const {
  std::vector<std::tuple<time_t, std::string, int64_t>> files;
  int64_t total = 0;
  for (const std::string& name : names_in(folder_)) {
    const std::string path = folder_ + "/" + name;
    struct stat status;
    if (name.find(kSuffix) == std::string::npos || lstat(path.c_str(), &status) != 0) continue;
    if (name.find(kUnfinished) != std::string::npos) {
      // A writer that was killed left it.
      if (status.st_mtime < std::time(nullptr) - 3600) unlink(path.c_str());
      continue;
    }
    total += status.st_size;
    files.emplace_back(status.st_mtime, path, status.st_size);
  }
  if (total <= max_bytes_) return;
  std::sort(files.begin(), files.end());
  for (const auto& [time, path, size] : files) {
    if (total <= max_bytes_ / 4 * 3) break;
    if (unlink(path.c_str()) == 0) total -= size;
  }
}

}  // namespace masked_rnn::cuda
