// One object for each process.
#pragma once

#include <atomic>

namespace masked_rnn {

// Forks between the process that loaded this library and this one.
int forks();

// This process's own T, made by the first call and never destroyed, as calls may still run while
// the process exits. A child of fork() has none of its parent's threads, and a mutex that one of
// them held stays locked there: the child gets a T of its own.
template <class T>
T& of_process() {
  struct Owned {
    T object;
    const int after_forks = forks();
  };
  static std::atomic<Owned*> current{nullptr};
  Owned* owned = current.load(std::memory_order_acquire);
  while (owned == nullptr || owned->after_forks != forks()) {
    auto* fresh = new Owned;
    if (current.compare_exchange_strong(owned, fresh, std::memory_order_acq_rel)) {
      return fresh->object;
    }
    delete fresh;
  }
  return owned->object;
}

}  // namespace masked_rnn
