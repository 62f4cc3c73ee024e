// Compiled code on disk, for the processes to come.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "../params.h"

namespace masked_rnn::cuda {

// A folder that only its user can enter. Nothing here throws: a cache that cannot be read or
// written costs time, no more. Several processes may use it at once, and be killed at any moment:
// a file appears whole, by renaming, and one that is damaged is as one that is absent.
class MASKED_RNN_API DiskCache {
 public:
  static constexpr int64_t kMaxBytes = int64_t{256} << 20;

  // An empty folder: nothing is kept.
  explicit DiskCache(std::string folder, int64_t max_bytes = kMaxBytes)
      : folder_(std::move(folder)), max_bytes_(max_bytes) {}

  // $MASKED_RNN_CACHE ("" or "off": nothing is kept), else masked_rnn in $XDG_CACHE_HOME or
  // ~/.cache.
  static std::string default_folder();

  // `key` is a text with all that the value depends on.
  std::optional<std::string> get(const std::string& key) const;
  void put(const std::string& key, const std::string& value) const;

  const std::string& folder() const { return folder_; }

 private:
  bool usable() const;
  void keep_small() const;
  std::string path_of(const std::string& key) const;

  std::string folder_;
  int64_t max_bytes_;
};

}  // namespace masked_rnn::cuda
