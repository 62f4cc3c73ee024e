#include "choose.h"

#include <algorithm>

#include "error.h"
#include "kernels/tiles.h"

namespace masked_rnn::cuda {
namespace {

// Rows of a chunk: its products fill any GPU, and at 1024 features and LSTM units its projection
// takes 256 MiB.
constexpr int64_t kChunkRows = 16384;
// A weight gradient's product has few tiles where the layer is small: its long sums over rows are
// split until the multiprocessors have work, into parts of at least this many rows.
constexpr int64_t kRowsOfPart = 512;

}  // namespace

Choice choose(const DeviceInfo& device, const Problem& p, const Options& options) {
  Choice choice;
  if (!options.kernel.empty() && options.kernel != "general") {
    throw InvalidArgument("kernel is '" + options.kernel + "', needed: general");
  }
  const int64_t chunk_rows = options.chunk_rows > 0 ? options.chunk_rows : kChunkRows;
  choice.chunk_steps = std::clamp<int64_t>(chunk_rows / std::max<int64_t>(p.batch, 1), 1,
                                           std::max<int64_t>(p.time, 1));

  const int64_t rows = choice.chunk_steps * p.batch;
  const int64_t tiles = ((std::max(p.features, p.units) + kProductTile - 1) / kProductTile) *
                        ((gates(p.cell) * p.units + kProductTile - 1) / kProductTile);
  const int64_t wanted = (2 * device.multiprocessors + tiles - 1) / tiles;
  choice.depth_parts = std::clamp<int64_t>(std::min(wanted, rows / kRowsOfPart), 1, 32);
  return choice;
}

const char* name_of(Kernel) { return "general"; }

}  // namespace masked_rnn::cuda
