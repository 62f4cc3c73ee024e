#include "workspace.h"

#include <sys/mman.h>

#if defined(MASKED_RNN_POISON)
#include <sanitizer/asan_interface.h>
#endif

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "error.h"
#include "per_process.h"

namespace masked_rnn {
namespace {

constexpr size_t kPage = size_t{2} << 20;          // huge page
constexpr size_t kLine = 64;
constexpr size_t kMostCached = size_t{256} << 20;  // bytes, in all blocks together
constexpr size_t kMostBlocks = 4;

struct Block {
  char* data;
  size_t capacity;
};

struct Cache {
  std::mutex mutex;
  std::vector<Block> blocks;  // oldest first

  bool too_much() const {
    size_t bytes = 0;
    for (const Block& b : blocks) bytes += b.capacity;
    return blocks.size() > kMostBlocks || bytes > kMostCached;
  }
};

// For the tests. Under AddressSanitizer a block must not be touched past the bytes asked for, nor
// while it lies in the cache; without it these macros are empty.
void lend([[maybe_unused]] const Block& block, [[maybe_unused]] size_t bytes) {
#if defined(MASKED_RNN_POISON)
  ASAN_UNPOISON_MEMORY_REGION(block.data, bytes);
  std::memset(block.data, 0xff, bytes);
  ASAN_POISON_MEMORY_REGION(block.data + bytes, block.capacity - bytes);
#endif
}

void take_back([[maybe_unused]] const Block& block) {
#if defined(MASKED_RNN_POISON)
  ASAN_POISON_MEMORY_REGION(block.data, block.capacity);
#endif
}

}  // namespace

Workspace::Workspace(size_t bytes) {
  if (bytes == 0) return;
  {
    Cache& c = of_process<Cache>();
    std::lock_guard<std::mutex> lock(c.mutex);
    // The smallest block that fits.
    size_t best = c.blocks.size();
    for (size_t i = 0; i < c.blocks.size(); ++i) {
      const size_t have = c.blocks[i].capacity;
      if (have >= bytes && (best == c.blocks.size() || have < c.blocks[best].capacity)) best = i;
    }
    if (best < c.blocks.size()) {
      data_ = c.blocks[best].data;
      capacity_ = c.blocks[best].capacity;
      c.blocks.erase(c.blocks.begin() + best);
      lend({data_, capacity_}, bytes);
      return;
    }
  }
  const bool large = bytes >= kPage;
  const size_t unit = large ? kPage : kLine;
  capacity_ = (bytes + unit - 1) / unit * unit;
  data_ = capacity_ < bytes ? nullptr : static_cast<char*>(std::aligned_alloc(unit, capacity_));
  if (data_ == nullptr) {
    throw ResourceExhausted("cannot allocate a workspace of " + std::to_string(bytes) + " bytes");
  }
  if (large) madvise(data_, capacity_, MADV_HUGEPAGE);
  lend({data_, capacity_}, bytes);
}

Workspace::~Workspace() {
  if (data_ == nullptr) return;
  std::vector<Block> evicted;
  take_back({data_, capacity_});
  {
    Cache& c = of_process<Cache>();
    std::lock_guard<std::mutex> lock(c.mutex);
    c.blocks.push_back({data_, capacity_});
    while (c.too_much()) {
      evicted.push_back(c.blocks.front());
      c.blocks.erase(c.blocks.begin());
    }
  }
  for (const Block& b : evicted) std::free(b.data);
}

}  // namespace masked_rnn
