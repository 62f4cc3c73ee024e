#include "threads.h"

#include <sched.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "error.h"
#include "per_process.h"

namespace masked_rnn {
namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether a stage counter has passed `stage`; the counters may wrap around.
bool is_past(uint32_t counter, uint32_t stage) {
  return static_cast<int32_t>(counter - stage) > 0;
}

// Spins some 25 us for `leave(flag)`, as a stage often takes less, then sleeps in the kernel.
template <class Leave>
void wait_until(std::atomic<uint32_t>& flag, const Leave& leave) {
  for (int spin = 0; spin < 1000; ++spin) {
    if (leave(flag.load(std::memory_order_acquire))) return;
    relax();
  }
  for (uint32_t now; !leave(now = flag.load(std::memory_order_acquire));) {
    flag.wait(now, std::memory_order_acquire);
  }
}

struct Task {
  void (*job)(void*, int);
  void* argument;
};

// A pool thread. Lives as long as the process.
struct Worker {
  enum State : uint32_t { kIdle, kAssigned, kRunning };
  std::atomic<uint32_t> state{kIdle};
  Task task{};
  int number = 0;

  void assign(const Task& what, int as) {
    task = what;
    number = as;
    state.store(kAssigned, std::memory_order_release);
    state.notify_all();
  }

  // Takes the task back if it has not been begun, else waits for its end.
  void leave() {
    uint32_t assigned = kAssigned;
    if (state.compare_exchange_strong(assigned, kIdle, std::memory_order_acq_rel)) return;
    wait_until(state, [](uint32_t s) { return s == kIdle; });
  }

  void work() {
    for (;;) {
      wait_until(state, [](uint32_t s) { return s == kAssigned; });
      uint32_t assigned = kAssigned;
      if (!state.compare_exchange_strong(assigned, kRunning, std::memory_order_acq_rel)) continue;
      task.job(task.argument, number);
      state.store(kIdle, std::memory_order_release);
      state.notify_all();
    }
  }
};

class Pool {
 public:
  void run(int threads, void (*job)(void*, int), void* argument) {
    if (threads <= 1) {
      job(argument, 0);
      return;
    }
    std::vector<Worker*> workers;
    workers.reserve(threads);
    {
      std::unique_lock<std::mutex> lock(mutex_);
      const uint64_t number = next_number_++;
      size_ = std::max(size_, threads);
      queue_moved_.wait(lock, [&] { return serving_ == number && busy_ + threads <= size_; });
      busy_ += threads;
      ++serving_;
      try {
        for (int i = 1; i < threads; ++i) workers.push_back(take_worker());
      } catch (const std::exception& e) {  // system_error for a thread, bad_alloc
        idle_.insert(idle_.end(), workers.begin(), workers.end());
        busy_ -= threads;
        queue_moved_.notify_all();
        throw ResourceExhausted("cannot start " + std::to_string(threads - 1) +
                                " worker threads: " + e.what());
      }
    }
    queue_moved_.notify_all();  // the next in the queue may fit as well
    for (int i = 1; i < threads; ++i) workers[i - 1]->assign({job, argument}, i);
    job(argument, 0);
    for (Worker* worker : workers) worker->leave();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      busy_ -= threads;
      idle_.insert(idle_.end(), workers.begin(), workers.end());
    }
    queue_moved_.notify_all();
  }

 private:
  // Needs mutex_. Workers live as long as the process: a pool that joins at exit can deadlock
  // with an interpreter that is shutting down.
  Worker* take_worker() {
    if (idle_.empty()) {
      idle_.reserve(++made_);  // so that giving workers back allocates nothing
      auto worker = std::make_unique<Worker>();
      std::thread(&Worker::work, worker.get()).detach();
      return worker.release();
    }
    Worker* worker = idle_.back();
    idle_.pop_back();
    return worker;
  }

  std::mutex mutex_;
  std::condition_variable queue_moved_;
  std::vector<Worker*> idle_;
  size_t made_ = 0;  // workers, at most
  uint64_t next_number_ = 0, serving_ = 0;
  int size_ = default_threads();
  int busy_ = 0;
};

}  // namespace

int default_threads() {
  static const int threads = [] {
    if (const char* text = std::getenv("MASKED_RNN_NUM_THREADS")) {
      const int given = std::atoi(text);
      if (given > 0) return std::min(given, kMostThreads);
    }
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }();
  return threads;
}

void run_on_threads(int threads, void (*job)(void*, int), void* argument) {
  if (threads <= 1) {
    job(argument, 0);
    return;
  }
  of_process<Pool>().run(threads, job, argument);
}

bool Member::begin(int item) {
  std::atomic<uint32_t>& begun = items_[item].begun;
  uint32_t last = begun.load(std::memory_order_relaxed);
  return !is_past(last, stage_) &&
         begun.compare_exchange_strong(last, stage_ + 1, std::memory_order_acq_rel);
}

// Its own thread is given a moment to come, unless it has stayed away before.
bool Member::left_over(int item) {
  const std::atomic<uint32_t>& begun = items_[item].begun;
  for (int spin = 0;; ++spin) {
    if (is_past(begun.load(std::memory_order_relaxed), stage_)) {
      patience_ = kPatience;
      return false;
    }
    if (spin >= patience_) break;
    relax();
  }
  patience_ = 0;
  return true;
}

void Member::finish(int item) {
  items_[item].done.store(stage_ + 1, std::memory_order_release);
  items_[item].done.notify_all();
}

void Member::wait_for(int item) {
  wait_until(items_[item].done, [this](uint32_t done) { return is_past(done, stage_); });
}

}  // namespace masked_rnn
