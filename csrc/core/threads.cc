#include "threads.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
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

constexpr int kSpins = 1000;  // pauses, some 25 us: a stage often takes less

// Whether `leave(flag)` became true while spinning.
template <class Leave>
bool spin_until(const std::atomic<uint32_t>& flag, const Leave& leave, int spins = kSpins) {
  for (int spin = 0; spin < spins; ++spin) {
    if (leave(flag.load(std::memory_order_acquire))) return true;
    relax();
  }
  return false;
}

template <class Leave>
void sleep_until(std::atomic<uint32_t>& flag, const Leave& leave) {
  for (uint32_t now; !leave(now = flag.load(std::memory_order_acquire));) {
    flag.wait(now, std::memory_order_acquire);
  }
}

template <class Leave>
void wait_until(std::atomic<uint32_t>& flag, const Leave& leave) {
  if (!spin_until(flag, leave)) sleep_until(flag, leave);
}

struct Task {
  void (*job)(void*, int);
  void* argument;
  int number;  // of the thread in the call
};

// A pool thread. Lives as long as the process: a pool that joins at exit can deadlock with an
// interpreter that is shutting down.
class Worker {
  enum State : uint32_t { kIdle, kExpecting, kAssigned, kRunning };

  static auto is(State wanted) {
    return [wanted](uint32_t s) { return s == wanted; };
  }

 public:
  void start() {
    std::thread thread(&Worker::work, this);
    thread_ = thread.native_handle();
    thread.detach();
  }

  // The thread of the call itself calls these two, under the pool's lock.

  void wake() {
    if (!asleep_.load(std::memory_order_relaxed)) return;
    keep_off_callers_core();
    set(kExpecting);
  }

  void assign(const Task& task) {
    if (asleep_.load(std::memory_order_relaxed)) keep_off_callers_core();
    task_ = task;
    set(kAssigned);
  }

  // Takes the task back if it has not been begun.
  bool take_back() { return change(kAssigned, kIdle); }

  void wait_for_end() { wait_until(state_, is(kIdle)); }

 private:
  void work() {
    for (;;) {
      wait_for_task();
      if (!change(kAssigned, kRunning)) continue;
      task_.job(task_.argument, task_.number);
      set(kIdle);
    }
  }

  void wait_for_task() {
    for (int spins = kSpins; !spin_until(state_, is(kAssigned), spins); spins = kExpectingSpins) {
      asleep_.store(true, std::memory_order_relaxed);
      sleep_until(state_, [](uint32_t s) { return s != kIdle; });
      asleep_.store(false, std::memory_order_relaxed);
      change(kExpecting, kIdle);
    }
  }

  // A thread that wakes up on the caller's core waits there for the caller to be done: on two cores,
  // Linux chose that core for 40 % of the wakings 3 ms after the last, and the thread began up to
  // 5 ms late. A mask that somebody else has set since, as taskset does, is kept but for this core.
  void keep_off_callers_core() {
    const int core = sched_getcpu();
    if (core == kept_off_) return;
    cpu_set_t cores;
    if (pthread_getaffinity_np(thread_, sizeof(cores), &cores) != 0) return;
    const cpu_set_t ours = without(allowed_, kept_off_);
    if (!CPU_EQUAL(&cores, &ours)) allowed_ = cores;
    cores = without(allowed_, core);
    if (CPU_COUNT(&cores) == 0) return;
    if (pthread_setaffinity_np(thread_, sizeof(cores), &cores) != 0) return;
    kept_off_ = core;
  }

  static cpu_set_t without(cpu_set_t cores, int core) {
    if (core >= 0) CPU_CLR(core, &cores);
    return cores;
  }

  bool change(uint32_t from, State to) {
    return state_.compare_exchange_strong(from, to, std::memory_order_acq_rel);
  }
  void set(State to) {
    state_.store(to, std::memory_order_release);
    state_.notify_all();
  }

  std::atomic<uint32_t> state_{kIdle};
  std::atomic<bool> asleep_{false};
  Task task_{};
  pthread_t thread_{};
  int kept_off_ = -1;    // a core
  cpu_set_t allowed_{};  // the affinity mask with it

  static constexpr int kExpectingSpins = 8 * kSpins;
};

// Waits, then runs on its own thread and on workers.
struct Call {
  void (*job)(void*, int);
  void* argument;
  int wanted;  // threads
  size_t at_once = 1;  // calls, this one among them, at most
  std::vector<Worker*> workers{};
  std::atomic<uint32_t> started{0};

  int threads() const { return 1 + static_cast<int>(workers.size()); }
};

class Pool {
 public:
  void run(int threads, void (*job)(void*, int), void* argument) {
    Call call{job, argument, threads};
    arrive(call);
    call.started.wait(0, std::memory_order_acquire);
    current_ = &call;
    job(argument, 0);
    current_ = nullptr;
    leave(call);
  }

  void expect(int threads) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const int idle = static_cast<int>(idle_.size());
    const int count = std::min({threads - 1, free() - 1, share_beside(calls_.size()) - 1, idle});
    for (int i = 0; i < count; ++i) idle_[idle - 1 - i]->wake();  // those that hand_out takes
    if (spare_since_.load(std::memory_order_relaxed) != kNever) {
      spare_since_.store(now(), std::memory_order_relaxed);
    }
  }

  void ask_for_more() {
    const int64_t since = spare_since_.load(std::memory_order_relaxed);
    if (since == kNever || current_ == nullptr || now() - since < kPatience) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    hand_out(*current_, size_);
  }

 private:
  void arrive(Call& call) {
    const std::lock_guard<std::mutex> lock(mutex_);
    size_ = std::max(size_, call.wanted);
    try {
      call.workers.reserve(call.wanted);
      calls_.reserve(calls_.size() + 1);
      make_workers(std::min(wanted_workers_ + call.wanted, size_) - 1);
    } catch (const std::exception& e) {  // system_error for a thread, bad_alloc
      throw ResourceExhausted("cannot start " + std::to_string(call.wanted - 1) +
                              " worker threads: " + e.what());
    }
    wanted_workers_ += call.wanted - 1;
    calls_.push_back(&call);
    for (Call* c : calls_) c->at_once = std::max(c->at_once, calls_.size());
    take_back_for(call);
    start_calls();
    if (running_ == calls_.size()) hand_out(call, share_beside(calls_.size() - 1));
  }

  void leave(Call& call) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);  // and no workers are taken back
      at_once_ = call.at_once;
      calls_.erase(std::find(calls_.begin(), calls_.end(), &call));
      --running_;
    }
    for (Worker* worker : call.workers) {
      if (!worker->take_back()) worker->wait_for_end();
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    wanted_workers_ -= call.wanted - 1;
    busy_ -= call.threads();
    if (calls_.empty()) size_ = default_threads();
    idle_.insert(idle_.end(), call.workers.begin(), call.workers.end());
    start_calls();
    note_spare();
  }

  // The following need mutex_.

  // Workers that will do for all calls: made where a failure is the call's that wants them.
  void make_workers(int count) {
    idle_.reserve(std::max(count, made_));  // so that giving workers back allocates nothing
    for (; made_ < count; ++made_) {
      auto worker = std::make_unique<Worker>();
      worker->start();
      idle_.push_back(worker.release());
    }
  }

  int free() const { return size_ - busy_; }

  // What others have beyond their share, as far as they have not begun with it.
  void take_back_for(const Call& call) {
    const int share = share_of_one(calls_.size());
    const int needed = std::min(share, call.wanted);
    for (size_t i = 0; i < running_; ++i) {
      std::vector<Worker*>& workers = calls_[i]->workers;
      while (free() < needed && calls_[i]->threads() > share && workers.back()->take_back()) {
        idle_.push_back(workers.back());
        workers.pop_back();
        --busy_;
      }
    }
  }

  // In the order they came.
  void start_calls() {
    for (; free() > 0 && running_ < calls_.size(); ++busy_, ++running_) {
      Call& call = *calls_[running_];
      call.started.store(1, std::memory_order_release);
      call.started.notify_all();
    }
  }

  int share_of_one(size_t calls) const { return std::max(1, size_ / static_cast<int>(calls)); }

  // Of a call beside so many others, or beside as many as the last had: they come again.
  int share_beside(size_t others) const { return share_of_one(std::max(others + 1, at_once_)); }

  // To the caller's own call, unless another wants some and has fewer: that one will ask too.
  void hand_out(Call& call, int most) {
    const int wanted = std::min(call.wanted, most);
    while (free() > 0 && call.threads() < wanted && !has_more_than_another(call)) {
      Worker* worker = idle_.back();
      idle_.pop_back();
      worker->assign({call.job, call.argument, call.threads()});
      call.workers.push_back(worker);
      ++busy_;
    }
    note_spare();
  }

  bool has_more_than_another(const Call& call) const {
    return std::any_of(calls_.begin(), calls_.begin() + running_, [&](const Call* other) {
      return other->threads() < std::min(other->wanted, call.threads());
    });
  }

  void note_spare() {
    const bool wanted = std::any_of(calls_.begin(), calls_.begin() + running_, [](const Call* c) {
      return c->threads() < c->wanted;
    });
    if (free() == 0 || !wanted) {
      spare_since_.store(kNever, std::memory_order_relaxed);
    } else if (spare_since_.load(std::memory_order_relaxed) == kNever) {
      spare_since_.store(now(), std::memory_order_relaxed);
    }
  }

  static int64_t now() {
    const auto time = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
  }

  std::mutex mutex_;
  std::vector<Call*> calls_;  // in the order they came; the first `running_` run
  size_t running_ = 0;
  std::vector<Worker*> idle_;
  int made_ = 0;            // workers
  int wanted_workers_ = 0;  // by all calls
  int size_ = default_threads();  // more where a call asks for more
  int busy_ = 0;                  // threads, of `size_`

  static constexpr int64_t kNever = INT64_MIN;
  std::atomic<int64_t> spare_since_{kNever};  // ns; that threads are free which a call wants
  size_t at_once_ = 1;  // calls, while the last to end was there
  static constexpr int64_t kPatience = 100'000;  // ns; who calls in a loop comes again in less
  static thread_local Call* current_;  // that this thread has made
};

thread_local Call* Pool::current_ = nullptr;

}  // namespace

int available_cores() {
  static const int cores = [] {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }();
  return cores;
}

int default_threads() {
  static const int threads = [] {
    if (const char* text = std::getenv("MASKED_RNN_NUM_THREADS")) {
      const int given = std::atoi(text);
      if (given > 0) return std::min(given, kMostThreads);
    }
    return available_cores();
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

void expect_call(int threads) {
  if (threads > 1) of_process<Pool>().expect(threads);
}

void Member::ask_for_more() const {
  if (!alone_) of_process<Pool>().ask_for_more();
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
