// Arrays beside a page that nobody may touch: one element too far ends the program.
#pragma once

#include <cstddef>

namespace masked_rnn::test {

enum class Guard { kBehind, kBefore };  // where the forbidden page lies: at the array's end, start

// `bytes` of memory, every bit set: NaN in every floating-point type.
class Guarded {
 public:
  Guarded() = default;
  Guarded(size_t bytes, Guard guard);
  ~Guarded();
  Guarded(Guarded&& other) noexcept { *this = static_cast<Guarded&&>(other); }
  Guarded& operator=(Guarded&& other) noexcept;

  void forbid_writing();

  char* data() const { return data_; }  // null where default-constructed
  size_t bytes() const { return bytes_; }

 private:
  char* mapping_ = nullptr;
  char* data_ = nullptr;
  size_t mapped_ = 0, bytes_ = 0;
};

}  // namespace masked_rnn::test
