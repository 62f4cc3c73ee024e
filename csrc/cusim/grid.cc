#include "grid.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "context.h"
#include "core/error.h"

cusim::Index threadIdx, blockIdx, blockDim, gridDim;

namespace cusim {
namespace {

struct Thread;

struct Barrier {
  int arrived = 0;
  unsigned generation = 0;
  Thread *first = nullptr, *last = nullptr;  // who waits
  char tags[2];                              // of even and odd generations
};

struct PendingCopy {
  void* to;
  const void* from;
  size_t bytes, source_bytes;
  int group;
};

struct Block;

struct Thread {
  Context context;
  Index index;
  Position position{};
  Block* block = nullptr;
  bool finished = false;
  const char* waits_in = "its start";
  Thread* next = nullptr;
  std::vector<PendingCopy> copies;
  int copy_group = 0;
};

struct Warp {
  static constexpr int kMasks = 8;
  unsigned masks[kMasks] = {};
  Barrier barriers[kMasks];
  uint32_t given[2][32][kExchangeBytes / 4];
  unsigned char side[32];  // which of the two a lane's last exchange used
};

// Past the end of shared memory, where AddressSanitizer does not watch it.
#if defined(CUSIM_ASAN)
constexpr size_t kGuardBytes = 0;
#else
constexpr size_t kGuardBytes = 256;
#endif

struct Block {
  Index index;
  unsigned number = 0, rank = 0;
  Block* first_of_cluster = nullptr;
  unsigned char* shared = nullptr;
  int running = 0;
  Barrier all, named[16];
  int votes[2] = {};
  std::vector<Warp> warps;
};

struct Mbarrier {  // fits the 64-bit word
  uint16_t phase : 1, arrivals : 15;
  int16_t pending;
  int32_t bytes;
};
static_assert(sizeof(Mbarrier) == sizeof(uint64_t));

struct PendingStore {
  unsigned char* to;
  unsigned char value[16];
  size_t bytes;
  Mbarrier* barrier;
  Block* block;
};

// The runtime may not call functions that ThreadSanitizer watches on behalf of a CUDA thread.
void copy_bytes(void* to, const void* from, size_t bytes) {
  auto* t = static_cast<volatile unsigned char*>(to);
  const auto* f = static_cast<const unsigned char*>(from);
  for (size_t i = 0; i < bytes; ++i) t[i] = f[i];
}
void fill_bytes(void* to, unsigned char value, size_t bytes) {
  auto* t = static_cast<volatile unsigned char*>(to);
  for (size_t i = 0; i < bytes; ++i) t[i] = value;
}

// Everything of the launch that runs.
struct Launch {
  GridShape shape;
  Schedule schedule;
  const std::function<void()>* kernel = nullptr;
  uint64_t random_state = 0;
  std::vector<Thread> threads;
  std::vector<Block> blocks;
  std::vector<Barrier> clusters;
  std::vector<Thread*> ready;  // a ring
  size_t ready_first = 0, ready_count = 0;
  size_t running = 0;
  int64_t idle = 0;  // turns since something last happened
  // Room from the start: on behalf of a CUDA thread no memory is allocated, as that orders memory
  // in ThreadSanitizer's eyes.
  std::vector<PendingStore> stores = std::vector<PendingStore>(1 << 16);
  size_t store_count = 0;
  std::string error;
};

Launch launch;
Thread main_thread;
Thread* current = &main_thread;
char begin_tag, end_tag, mbarrier_tag;

int threads_of_block() {
  const Index& b = launch.shape.block;
  return static_cast<int>(b.x * b.y * b.z);
}

size_t random_below(size_t n) {
  uint64_t& x = launch.random_state;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return x % n;
}

void go(Thread* to) {
  Thread* from = current;
  if (to == from) return;
  current = to;
  threadIdx = to->index;
  if (to->block != nullptr) blockIdx = to->block->index;
  switch_context(from->context, to->context, from->finished);
}

size_t slot(size_t i) {
  i += launch.ready_first;
  return i >= launch.ready.size() ? i - launch.ready.size() : i;
}
void make_ready(Thread* thread) { launch.ready[slot(launch.ready_count++)] = thread; }
void make_ready_first(Thread* thread) {
  launch.ready_first = launch.ready_first ? launch.ready_first - 1 : launch.ready.size() - 1;
  ++launch.ready_count;
  launch.ready[launch.ready_first] = thread;
}

std::string who_waits() {
  std::map<std::string, int> places;
  for (const Thread& t : launch.threads) {
    const std::string block = "block " + std::to_string(t.block->number);
    ++places[t.finished ? block + " has exited" : block + " waits in " + t.waits_in];
  }
  std::string report;
  for (const auto& [place, count] : places) {
    report += "\n  " + std::to_string(count) + " threads: " + place;
  }
  return report;
}

Thread* next_thread() {
  if (launch.ready_count == 0) {
    if (launch.running > 0 && launch.error.empty()) {
      launch.error = "deadlock (a barrier that is divergent or missing):" + who_waits();
    }
    return &main_thread;
  }
  --launch.ready_count;
  if (launch.schedule.order == Order::kLifo) return launch.ready[slot(launch.ready_count)];
  if (launch.schedule.order == Order::kRandom) {
    std::swap(launch.ready[slot(random_below(launch.ready_count + 1))],
              launch.ready[launch.ready_first]);
  }
  Thread* thread = launch.ready[launch.ready_first];
  launch.ready_first = slot(1);
  return thread;
}

void wait(Barrier& barrier, int threads, bool orders_memory, const char* what) {
  char& tag = barrier.tags[barrier.generation & 1];
  if (orders_memory) release(&tag);
  launch.idle = 0;
  if (++barrier.arrived == threads) {
    barrier.arrived = 0;
    ++barrier.generation;
    for (Thread* t = barrier.first; t != nullptr; t = t->next) make_ready(t);
    barrier.first = barrier.last = nullptr;
    if (launch.schedule.order != Order::kFifo) {  // else who comes last goes on
      make_ready(current);
      go(next_thread());
    }
  } else {
    current->waits_in = what;
    current->next = nullptr;
    (barrier.first == nullptr ? barrier.first : barrier.last->next) = current;
    barrier.last = current;
    go(next_thread());
  }
  if (orders_memory) acquire(&tag);
}

int lanes_of(unsigned mask) {
  const int lanes = threads_of_block() - current->position.warp * 32;
  return __builtin_popcount(lanes < 32 ? mask & ((1u << lanes) - 1) : mask);
}

Warp& warp_with(unsigned mask) {
  if (!(mask >> current->position.lane & 1)) {
    fail("lane " + std::to_string(current->position.lane) +
         " calls a collective of its warp without being in its mask");
  }
  return current->block->warps[current->position.warp];
}
Barrier& barrier_of(Warp& warp, unsigned mask) {
  for (int i = 0; i < Warp::kMasks; ++i) {
    if (warp.masks[i] == 0) warp.masks[i] = mask;
    if (warp.masks[i] == mask) return warp.barriers[i];
  }
  fail("a warp uses more than eight masks");
}

// --- asynchronous stores -------------------------------------------------------------------------

Mbarrier* mbarrier_at(uint64_t* word) { return reinterpret_cast<Mbarrier*>(word); }

void complete_phase(Mbarrier& barrier) {
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  barrier.pending = static_cast<int16_t>(barrier.arrivals);
  barrier.phase ^= 1;
  launch.idle = 0;
}

void deliver(size_t i) {
  const PendingStore store = launch.stores[i];
  launch.stores[i] = launch.stores[--launch.store_count];
  if (store.block->running == 0) fail("st.async to a block that has exited");
  copy_bytes(store.to, store.value, store.bytes);
  store.barrier->bytes -= static_cast<int32_t>(store.bytes);
  complete_phase(*store.barrier);
  launch.idle = 0;
}

void deliver_some() {
  if (launch.store_count == 0) return;
  for (size_t n = 1 + random_below(launch.store_count); n > 0; --n) {
    deliver(random_below(launch.store_count));
  }
}

// --- a launch ------------------------------------------------------------------------------------

void run_thread() {
  entered(current->context);
  acquire(&begin_tag);
  (*launch.kernel)();
  release(&end_tag);
  if (--current->block->running == 0) {
    for (size_t i = 0; i < launch.store_count; ++i) {
      if (launch.stores[i].block == current->block) {
        fail("a block exits before a st.async to it has arrived");
      }
    }
  }
  --launch.running;
  launch.idle = 0;
  current->finished = true;
  go(next_thread());
  std::abort();  // a finished thread is never switched to
}

void make_block(Block& block, size_t number, size_t place) {
  const Index& grid = launch.shape.grid;
  block.number = static_cast<unsigned>(number);
  block.index = {static_cast<unsigned>(number % grid.x),
                 static_cast<unsigned>(number / grid.x % grid.y),
                 static_cast<unsigned>(number / grid.x / grid.y)};
  block.rank = static_cast<unsigned>(place % launch.shape.cluster);
  block.first_of_cluster = &launch.blocks[place - block.rank];
  block.running = threads_of_block();
  block.warps.resize((threads_of_block() + 31) / 32);
  if (launch.shape.shared_bytes == 0) return;
  void* memory = nullptr;
  const size_t bytes = launch.shape.shared_bytes + kGuardBytes;
  if (posix_memalign(&memory, 128, bytes) != 0) throw std::bad_alloc();
  block.shared = static_cast<unsigned char*>(memory);
  fill_bytes(memory, 0xff, bytes);
}

void make_thread(Thread& thread, size_t i) {
  const int in_block = static_cast<int>(i % threads_of_block());
  const Index& shape = launch.shape.block;
  const auto linear = static_cast<unsigned>(in_block);
  thread.block = &launch.blocks[i / threads_of_block()];
  thread.position = {in_block & 31, in_block >> 5};
  thread.index = {linear % shape.x, linear / shape.x % shape.y, linear / shape.x / shape.y};
  prepare(thread.context, i, run_thread);
  make_ready(&thread);
}

void check_guards() {
  for (const Block& block : launch.blocks) {
    if (block.shared == nullptr) continue;
    for (size_t i = 0; i < kGuardBytes; ++i) {
      if (block.shared[launch.shape.shared_bytes + i] != 0xff && launch.error.empty()) {
        launch.error = "block " + std::to_string(block.number) +
                       " wrote past the end of its shared memory";
      }
    }
  }
}

void run_blocks(size_t first, size_t count) {
  const size_t threads = count * threads_of_block();
  launch.blocks.assign(count, Block());
  launch.threads.assign(threads, Thread());
  launch.clusters.assign(count / launch.shape.cluster + 1, Barrier());
  launch.ready.assign(threads + 1, nullptr);
  launch.ready_first = launch.ready_count = 0;
  launch.running = threads;
  launch.idle = 0;
  launch.store_count = 0;
  launch.error.clear();
  for (size_t b = 0; b < count; ++b) make_block(launch.blocks[b], first + b, b);
  for (size_t i = 0; i < threads; ++i) make_thread(launch.threads[i], i);
  current = &main_thread;
  adopt_current(main_thread.context);
  release(&begin_tag);
  go(next_thread());
  acquire(&end_tag);
  check_guards();
  for (Block& block : launch.blocks) free(block.shared);
  if (!launch.error.empty()) throw masked_rnn::DeviceError("cusim: " + launch.error);
}

}  // namespace

Schedule schedule_from(const std::string& text) {
  if (text.empty() || text == "fifo") return {};
  if (text == "lifo") return {Order::kLifo, 1};
  char* end = nullptr;
  const uint64_t seed = std::strtoull(text.c_str(), &end, 10);
  if (*end != '\0') {
    throw masked_rnn::InvalidArgument("order is '" + text + "', needed: fifo, lifo or a number");
  }
  return {Order::kRandom, seed};
}

void run_grid(const GridShape& shape, const Schedule& schedule,
              const std::function<void()>& kernel) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  launch.shape = shape;
  launch.schedule = schedule;
  launch.kernel = &kernel;
  launch.random_state = 0x9e3779b97f4a7c15u * (schedule.seed + 1) | 1;
  gridDim = shape.grid;
  blockDim = shape.block;
  const size_t blocks = size_t(shape.grid.x) * shape.grid.y * shape.grid.z;
  // An ordinary launch promises no order of its blocks: a few at a time, to show what they share.
  const size_t together = shape.cooperative ? blocks : 4 * shape.cluster;
  for (size_t b = 0; b < blocks; b += together) run_blocks(b, std::min(together, blocks - b));
}

const Position& position() { return current->position; }

void fail(const std::string& message) {
  if (launch.error.empty()) {
    launch.error = "block " + std::to_string(current->block->number) + ", warp " +
                   std::to_string(current->position.warp) + ": " + message;
  }
  launch.ready_count = 0;  // the fibers are left where they are
  go(&main_thread);
  std::abort();
}

void block_barrier() { wait(current->block->all, threads_of_block(), true, "__syncthreads"); }

int block_barrier_count(bool predicate) {
  Block& block = *current->block;
  int& votes = block.votes[block.all.generation & 1];
  if (block.all.arrived == 0) votes = 0;
  votes += predicate;
  wait(block.all, threads_of_block(), true, "__syncthreads_count");
  return votes;
}

void named_barrier(int id, int threads) {
  wait(current->block->named[id], threads, true, "a named barrier");
}

void warp_barrier(unsigned mask) {
  wait(barrier_of(warp_with(mask), mask), lanes_of(mask), true, "__syncwarp");
}

void cluster_barrier() {
  const size_t cluster = (current->block - launch.blocks.data()) / launch.shape.cluster;
  wait(launch.clusters[cluster], threads_of_block() * static_cast<int>(launch.shape.cluster), true,
       "a barrier of its cluster");
}

void note_progress() { launch.idle = 0; }

void let_others_run() {
  // So often that a random order, too, has picked each thread that can do more than spin.
  if (++launch.idle > 40 * static_cast<int64_t>(launch.threads.size() + 2)) {
    fail("a thread spins on memory that nobody will change:" + who_waits());
  }
  current->waits_in = "a loop that spins";
  if (launch.schedule.order == Order::kLifo) {
    make_ready_first(current);
  } else {
    make_ready(current);
  }
  go(next_thread());
}

unsigned char* shared_memory() { return current->block->shared; }
size_t shared_bytes() { return launch.shape.shared_bytes; }
unsigned cluster_rank() { return current->block->rank; }
unsigned cluster_size() { return launch.shape.cluster; }

void* in_block(const void* address, unsigned rank) {
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(address) -
                                          current->block->shared);
  if (offset >= launch.shape.shared_bytes || rank >= launch.shape.cluster) {
    fail("an address outside of shared memory, or rank " + std::to_string(rank) +
         " outside of the cluster");
  }
  Block& block = current->block->first_of_cluster[rank];
  if (block.running == 0) fail("shared memory of a block that has exited");
  return block.shared + offset;
}

void exchange(unsigned mask, const void* value, size_t bytes) {
  Warp& warp = warp_with(mask);
  Barrier& barrier = barrier_of(warp, mask);
  const auto side = static_cast<unsigned char>(barrier.generation & 1);
  warp.side[current->position.lane] = side;
  copy_bytes(warp.given[side][current->position.lane], value, bytes);
  wait(barrier, lanes_of(mask), false, "a shuffle, vote or matrix product of its warp");
}

const uint32_t* lane_value(int lane) {
  const Warp& warp = current->block->warps[current->position.warp];
  return warp.given[warp.side[current->position.lane]][lane];
}

void read_lane(int lane, void* value, size_t bytes) { copy_bytes(value, lane_value(lane), bytes); }

void mbarrier_init(uint64_t* barrier, unsigned arrivals) {
  Mbarrier made{};
  made.arrivals = static_cast<uint16_t>(arrivals);
  made.pending = static_cast<int16_t>(arrivals);
  *mbarrier_at(barrier) = made;
}

void mbarrier_arrive(uint64_t* word, unsigned expected_bytes) {
  Mbarrier& barrier = *mbarrier_at(word);
  if (barrier.pending <= 0) fail("too many arrivals on an mbarrier (a wait is missing)");
  release(&mbarrier_tag);
  --barrier.pending;
  barrier.bytes += static_cast<int32_t>(expected_bytes);
  complete_phase(barrier);
}

void mbarrier_wait(uint64_t* word, unsigned parity) {
  const Mbarrier& barrier = *mbarrier_at(word);
  while (barrier.phase == parity) {
    let_others_run();
    if (barrier.phase == parity) deliver_some();
    current->waits_in = "an mbarrier's wait";
  }
  acquire(&mbarrier_tag);
}

void store_async(void* address, unsigned rank, const void* value, size_t bytes,
                 uint64_t* barrier) {
  release(&mbarrier_tag);
  if (launch.store_count == launch.stores.size()) deliver_some();
  PendingStore& store = launch.stores[launch.store_count];
  store.to = static_cast<unsigned char*>(in_block(address, rank));
  store.bytes = bytes;
  store.barrier = mbarrier_at(static_cast<uint64_t*>(in_block(barrier, rank)));
  store.block = &current->block->first_of_cluster[rank];
  copy_bytes(store.value, value, bytes);
  ++launch.store_count;
  launch.idle = 0;
}

void copy_async(void* shared, const void* global, size_t bytes, size_t source_bytes) {
  fill_bytes(shared, 0xff, bytes);
  current->copies.push_back({shared, global, bytes, source_bytes, current->copy_group});
}
void commit_copies() { ++current->copy_group; }
void wait_for_copies(int groups_left) {
  auto& copies = current->copies;
  const int done = current->copy_group - groups_left;
  const auto end = std::find_if(copies.begin(), copies.end(),
                                [&](const PendingCopy& c) { return c.group >= done; });
  for (auto c = copies.begin(); c != end; ++c) {
    copy_bytes(c->to, c->from, c->source_bytes);
    fill_bytes(static_cast<unsigned char*>(c->to) + c->source_bytes, 0, c->bytes - c->source_bytes);
  }
  copies.erase(copies.begin(), end);
}

}  // namespace cusim
