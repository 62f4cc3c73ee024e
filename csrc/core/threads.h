// One pool of worker threads for the whole process, and how a call's threads share its work.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "params.h"

namespace masked_rnn {

int available_cores();  // CPUs of the affinity mask
// Threads a call may use when the caller names no number: MASKED_RNN_NUM_THREADS, else as many.
MASKED_RNN_API int default_threads();
constexpr int kMostThreads = 1024;  // that a call uses, however many it asks for

// Calls job(argument, i) for i = 0 on this thread and for different i < threads on pool threads, and
// returns when all that have started are done. Pool threads come when there are any, maybe long
// after this one has begun, and one that has not woken up by the time this one is done is not
// waited for and never runs the job: the job must share its work through a Team, which needs no
// particular thread. It must not throw.
//
// All calls share as many threads as the largest asks for. Each begins with one at least, in the
// order they come, and waits where there is none: more runnable threads than cores would stall
// every one of them. Calls that come at once share the threads, which saves them meeting each
// other; a call that runs on when another has ended asks for its threads, see Member.
void run_on_threads(int threads, void (*job)(void* argument, int thread), void* argument);

// Says that such a call comes soon: pool threads that sleep wake up meanwhile, which takes 30 to
// 70 us, and stay awake for 0.2 ms.
void expect_call(int threads);

// Stages of work that the threads of a call go through together. Each stage has a few items; a
// thread takes the item of its own number first (its weights are in this core's cache), then
// whatever nobody has begun, and enters the next stage when all items are done. So a thread
// that lost its core costs its share of the speed, and stalls nobody.
class Team {
 public:
  explicit Team(int most_items) : items_(new Item[most_items]) {}

 private:
  friend class Member;
  struct alignas(64) Item {
    std::atomic<uint32_t> begun{0}, done{0};  // the last stage + 1 for which it was
  };
  std::unique_ptr<Item[]> items_;
};

// One thread's walk through the stages. Every member must call `each` with the same numbers of
// items in the same order.
class Member {
 public:
  Member(Team& team, int number, int threads)
      : items_(team.items_.get()), number_(number), alone_(threads == 1) {}

  // Takes threads that no call has had for 0.1 ms, if this call wants more. Cheap where there are
  // none.
  void ask_for_more() const;

  template <class F>
  void each(int items, const F& f) {
    if (alone_) {
      for (int i = 0; i < items; ++i) f(i);
      return;
    }
    for (int k = 0; k < items; ++k) {
      int i = number_ + k;
      while (i >= items) i -= items;
      if (k == 0 || left_over(i)) {
        if (!begin(i)) continue;
        f(i);
        finish(i);
      }
    }
    for (int i = 0; i < items; ++i) wait_for(i);
    ++stage_;
  }

 private:
  bool begin(int item);      // true if nobody else has
  bool left_over(int item);  // whether nobody has begun it, after some patience
  void finish(int item);
  void wait_for(int item);

  Team::Item* const items_;
  const int number_;
  const bool alone_;
  uint32_t stage_ = 0;
  int patience_ = kPatience;

  static constexpr int kPatience = 100;  // pauses, some 3 us
};

}  // namespace masked_rnn
