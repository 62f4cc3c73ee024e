#include "context.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstring>
#include <new>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(CUSIM_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#endif
#if defined(CUSIM_ASAN)
extern "C" {
void __sanitizer_start_switch_fiber(void**, const void*, size_t);
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
void __asan_unpoison_memory_region(void const volatile*, size_t);
}
#endif

namespace cusim {

#if defined(__x86_64__)
// Keeps the registers that a call must keep, on the stack that is left.
extern "C" void cusim_switch_stack(void** from, void* to);
asm(R"(
.text
.globl cusim_switch_stack
.hidden cusim_switch_stack
.type cusim_switch_stack,@function
cusim_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cusim_switch_stack,.-cusim_switch_stack
)");

namespace {
void set_up(Context& context, void (*entry)()) {
  auto** top = reinterpret_cast<void**>(context.stack + kStackBytes - 64);
  *--top = nullptr;  // where entry would return to; keeps its frame aligned
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  context.stack_pointer = top;
}
void jump(Context& from, Context& to) {
  cusim_switch_stack(&from.stack_pointer, to.stack_pointer);
}
}  // namespace
#else
namespace {
ucontext_t* machine(Context& context) {
  if (context.stack_pointer == nullptr) context.stack_pointer = new ucontext_t;
  return static_cast<ucontext_t*>(context.stack_pointer);
}
void set_up(Context& context, void (*entry)()) {
  ucontext_t* u = machine(context);
  getcontext(u);
  u->uc_stack.ss_sp = context.stack;
  u->uc_stack.ss_size = kStackBytes;
  u->uc_link = nullptr;
  makecontext(u, entry, 0);
}
void jump(Context& from, Context& to) { swapcontext(machine(from), machine(to)); }
}  // namespace
#endif

char* stack_of(size_t index) {
  constexpr size_t kSlab = 64;
  static std::vector<char*> slabs;
  while (slabs.size() * kSlab <= index) {
    void* slab = mmap(nullptr, kSlab * kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (slab == MAP_FAILED) throw std::bad_alloc();
    slabs.push_back(static_cast<char*>(slab));
  }
  return slabs[index / kSlab] + index % kSlab * kStackBytes;
}

void prepare(Context& context, [[maybe_unused]] size_t index, void (*entry)()) {
  context.stack = stack_of(index);
  context.fake_stack = nullptr;
#if defined(CUSIM_ASAN)
  __asan_unpoison_memory_region(context.stack, kStackBytes);
#endif
#if defined(CUSIM_TSAN)
  static std::vector<void*> fibers;
  while (fibers.size() <= index) fibers.push_back(__tsan_create_fiber(0));
  context.tsan_fiber = fibers[index];
#endif
  set_up(context, entry);
}

void adopt_current([[maybe_unused]] Context& context) {
#if defined(CUSIM_TSAN)
  context.tsan_fiber = __tsan_get_current_fiber();
#endif
}

#if defined(CUSIM_ASAN)
namespace {
struct Range {
  void* begin;
  size_t bytes;
};
Range own_stack() {
  static thread_local const Range range = [] {
    Range r{};
    pthread_attr_t attributes;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &r.begin, &r.bytes);
    pthread_attr_destroy(&attributes);
    return r;
  }();
  return range;
}
}  // namespace
#endif

void switch_context(Context& from, Context& to, [[maybe_unused]] bool from_is_finished) {
#if defined(CUSIM_ASAN)
  const Range own = own_stack();
  __sanitizer_start_switch_fiber(from_is_finished ? nullptr : &from.fake_stack,
                                 to.stack != nullptr ? to.stack : own.begin,
                                 to.stack != nullptr ? kStackBytes : own.bytes);
#endif
#if defined(CUSIM_TSAN)
  constexpr unsigned kNoSynchronization = 1;
  __tsan_switch_to_fiber(to.tsan_fiber, kNoSynchronization);
#endif
  jump(from, to);
#if defined(CUSIM_ASAN)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

void entered([[maybe_unused]] Context& current) {
#if defined(CUSIM_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

void release([[maybe_unused]] void* tag) {
#if defined(CUSIM_TSAN)
  __tsan_release(tag);
#endif
}
void acquire([[maybe_unused]] void* tag) {
#if defined(CUSIM_TSAN)
  __tsan_acquire(tag);
#endif
}

}  // namespace cusim
