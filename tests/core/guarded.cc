#include "guarded.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <system_error>
#include <utility>

namespace masked_rnn::test {
namespace {

void check(int result, const char* what) {
  if (result != 0) throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

Guarded::Guarded(size_t bytes, Guard guard) : bytes_(bytes) {
  const size_t page = sysconf(_SC_PAGESIZE), used = (bytes + page - 1) / page * page;
  mapped_ = page + used + page;
  void* mapping = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check(mapping == MAP_FAILED, "mmap");
  mapping_ = static_cast<char*>(mapping);
  if (used > 0) check(mprotect(mapping_ + page, used, PROT_READ | PROT_WRITE), "mprotect");
  data_ = mapping_ + page + (guard == Guard::kBehind ? used - bytes : 0);
  std::memset(data_, 0xff, bytes);
}

Guarded::~Guarded() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_);
}

Guarded& Guarded::operator=(Guarded&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(data_, other.data_);
  std::swap(mapped_, other.mapped_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

void Guarded::forbid_writing() {
  const size_t page = sysconf(_SC_PAGESIZE);
  if (mapped_ > 2 * page) check(mprotect(mapping_ + page, mapped_ - 2 * page, PROT_READ), "mprotect");
}

}  // namespace masked_rnn::test
