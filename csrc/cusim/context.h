// A stack of its own for each CUDA thread, and the switch between two of them. Tells
// AddressSanitizer and ThreadSanitizer, where one is built in, what happens.
#pragma once

#include <cstddef>

namespace cusim {

struct Context {
  void* stack_pointer = nullptr;
  char* stack = nullptr;        // null for the thread's own stack
  void* fake_stack = nullptr;   // AddressSanitizer's
  void* tsan_fiber = nullptr;   // ThreadSanitizer's
};

constexpr size_t kStackBytes = 128 << 10;

// The `index`-th stack of a pool that only grows; memory is touched when it is used.
char* stack_of(size_t index);

// The next switch to `context` begins `entry`, which calls entered() first and never returns.
void prepare(Context& context, size_t index, void (*entry)());
void adopt_current(Context& context);  // the stack that runs now
void switch_context(Context& from, Context& to, bool from_is_finished);
void entered(Context& current);

// What orders memory between CUDA threads, for ThreadSanitizer: a switch alone orders nothing.
void release(void* tag);
void acquire(void* tag);

}  // namespace cusim
