#include "threads.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "error.h"

namespace masked_rnn {
namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins a while for `flag` to leave `old`, then sleeps until it does.
void wait_for_change(std::atomic<int32_t>& flag, int32_t old) {
  for (int spin = 0; spin < 1000; ++spin) {
    if (flag.load(std::memory_order_acquire) != old) return;
    relax();
  }
  while (flag.load(std::memory_order_acquire) == old) flag.wait(old, std::memory_order_acquire);
}

struct Task {
  void (*job)(void*, int);
  void* argument;
  std::atomic<int32_t> remaining;
};

struct Worker {
  std::atomic<int32_t> ticket{0};  // changes when a task is there
  Task* task = nullptr;
  int thread = 0;
};

class Pool {
 public:
  void run(int threads, void (*job)(void*, int), void* argument) {
    if (threads <= 1) {
      job(argument, 0);
      return;
    }
    Task task{job, argument, threads - 1};
    std::vector<Worker*> workers;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      const uint64_t number = next_number_++;
      size_ = std::max(size_, threads);
      queue_moved_.wait(lock, [&] { return serving_ == number && busy_ + threads <= size_; });
      busy_ += threads;
      ++serving_;
      try {
        for (int i = 1; i < threads; ++i) workers.push_back(take_worker());
      } catch (const std::system_error& e) {
        idle_.insert(idle_.end(), workers.begin(), workers.end());
        busy_ -= threads;
        queue_moved_.notify_all();
        throw ResourceExhausted("cannot start " + std::to_string(threads - 1) +
                                " worker threads: " + e.what());
      }
    }
    queue_moved_.notify_all();  // the next in the queue may fit as well
    for (int i = 1; i < threads; ++i) {
      Worker* worker = workers[i - 1];
      worker->task = &task;
      worker->thread = i;
      worker->ticket.fetch_add(1, std::memory_order_release);
      worker->ticket.notify_one();
    }
    job(argument, 0);
    for (int32_t left; (left = task.remaining.load(std::memory_order_acquire)) != 0;) {
      wait_for_change(task.remaining, left);
    }
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
      auto* worker = new Worker;
      std::thread(&Pool::work, worker).detach();
      return worker;
    }
    Worker* worker = idle_.back();
    idle_.pop_back();
    return worker;
  }

  static void work(Worker* self) {
    int32_t seen = 0;
    for (;;) {
      wait_for_change(self->ticket, seen);
      ++seen;
      Task* task = self->task;
      task->job(task->argument, self->thread);
      // The caller may leave, and the task with it, as soon as the count is zero: `remaining`
      // is not touched after that, only its address is handed to the kernel.
      if (task->remaining.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        task->remaining.notify_one();
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable queue_moved_;
  std::vector<Worker*> idle_;
  uint64_t next_number_ = 0, serving_ = 0;
  int size_ = default_threads();
  int busy_ = 0;
};

// A child of fork() has none of its parent's threads, and perhaps a locked mutex: it gets a pool
// of its own. Never destroyed, see take_worker.
Pool& pool() {
  struct Owned {
    Pool pool;
    pid_t process = getpid();
  };
  static std::atomic<Owned*> current{nullptr};
  Owned* owned = current.load(std::memory_order_acquire);
  while (owned == nullptr || owned->process != getpid()) {
    auto* fresh = new Owned;
    if (current.compare_exchange_strong(owned, fresh, std::memory_order_acq_rel)) return fresh->pool;
    delete fresh;
  }
  return owned->pool;
}

}  // namespace

int default_threads() {
  static const int threads = [] {
    if (const char* text = std::getenv("MASKED_RNN_NUM_THREADS")) {
      const int given = std::atoi(text);
      if (given > 0) return std::min(given, 1024);
    }
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }();
  return threads;
}

int pool_size() { return default_threads(); }

void run_on_threads(int threads, void (*job)(void*, int), void* argument) {
  if (threads <= 1) {
    job(argument, 0);
    return;
  }
  pool().run(threads, job, argument);
}

void Barrier::arrive_and_wait() {
  if (parties_ == 1) return;
  const int32_t round = round_.load(std::memory_order_acquire);
  if (waiting_for_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    waiting_for_.store(parties_, std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    return;
  }
  wait_for_change(round_, round);
}

}  // namespace masked_rnn
