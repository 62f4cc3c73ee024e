// Runs a grid of CUDA threads on the calling thread: one fiber a CUDA thread, all blocks of a
// cooperative launch or of a cluster at once. What a kernel can get wrong shows: memory starts as
// NaN, the order of the threads is a choice, and barriers that are not met end the launch with a
// report. It cannot show a missing memory fence: one thread sees its own writes in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace cusim {

struct Index {
  unsigned x = 1, y = 1, z = 1;
};

enum class Order { kFifo, kLifo, kRandom };  // which of the threads that can run runs next

struct Schedule {
  Order order = Order::kFifo;
  uint64_t seed = 1;  // of kRandom, and of the order in which asynchronous stores arrive
};
// "fifo", "lifo" or a number, the seed of a random order.
Schedule schedule_from(const std::string& text);

struct GridShape {
  Index grid, block;
  size_t shared_bytes = 0;
  unsigned cluster = 1;
  bool cooperative = false;
};

// Calls `kernel` once as each CUDA thread. Throws masked_rnn::DeviceError with a report where
// threads wait for ever or break a rule. One grid at a time; others wait.
void run_grid(const GridShape& shape, const Schedule& schedule,
              const std::function<void()>& kernel);

// --- what a running CUDA thread asks for ---------------------------------------------------------

struct Position {
  int lane, warp;
};
const Position& position();

[[noreturn]] void fail(const std::string& message);  // ends the launch

void block_barrier();
int block_barrier_count(bool predicate);            // threads whose predicate holds
void named_barrier(int id, int threads);
void warp_barrier(unsigned mask);
void cluster_barrier();
void let_others_run();  // in a loop that spins; ends the launch where nothing else can happen
void note_progress();   // memory changed that others may spin on

unsigned char* shared_memory();
size_t shared_bytes();
unsigned cluster_rank();
unsigned cluster_size();
// Where `address` in this block's shared memory lies in that of block `rank` of the cluster.
void* in_block(const void* address, unsigned rank);

// Each lane of `mask` gives up to kExchangeBytes, then may read what the others gave until its
// next exchange. Orders no memory, as in CUDA.
constexpr size_t kExchangeBytes = 64;
void exchange(unsigned mask, const void* value, size_t bytes);
void read_lane(int lane, void* value, size_t bytes);
const uint32_t* lane_value(int lane);  // the same in place

// mbarrier objects are 64-bit words in shared memory. Asynchronous stores arrive late, in a random
// order, when a thread waits.
void mbarrier_init(uint64_t* barrier, unsigned arrivals);
void mbarrier_arrive(uint64_t* barrier, unsigned expected_bytes);
void mbarrier_wait(uint64_t* barrier, unsigned parity);
void store_async(void* address, unsigned rank, const void* value, size_t bytes,
                 uint64_t* barrier);

// cp.async: done when it is waited for, no earlier.
void copy_async(void* shared, const void* global, size_t bytes, size_t source_bytes);
void commit_copies();
void wait_for_copies(int groups_left);

}  // namespace cusim

extern cusim::Index threadIdx, blockIdx, blockDim, gridDim;
