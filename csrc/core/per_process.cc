#include "per_process.h"

#include <pthread.h>

namespace masked_rnn {
namespace {

std::atomic<int> count{0};

// Registered when the library is loaded: asking for the process's number instead would be a system
// call in every call of ours.
[[maybe_unused]] const int registered =
    pthread_atfork(nullptr, nullptr, [] { count.fetch_add(1, std::memory_order_relaxed); });

}  // namespace

int forks() { return count.load(std::memory_order_relaxed); }

}  // namespace masked_rnn
