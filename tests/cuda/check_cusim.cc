// Runs the kernels of check_kernels.cuh on the CPU shim: check_cusim NAME prints PASS, a line that
// says what is wrong, or what the shim reports.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "check_kernels.cuh"
#include "core/error.h"
#include "cusim/device.h"

namespace masked_rnn::cuda {
namespace {

template <class Arguments, void (*kKernel)(Arguments)>
void run(void** arguments) {
  kKernel(*static_cast<Arguments*>(arguments[0]));
}
const cusim::Device& device() {
  static const cusim::Device device({{"grid_rnn", run<GridRnn, grid_rnn>},
                                     {"cluster_ring", run<ClusterRing, cluster_ring>},
                                     {"matrix_products", run<MatrixProducts, matrix_products>},
                                     {"warp_words", run<WarpWords, warp_words>}});
  return device;
}
template <class Arguments>
void launch(const char* name, const Launch& how, Arguments arguments) {
  void* pointers[] = {&arguments};
  device().launch(name, how, pointers, nullptr);
}

template <class T>
struct Array {
  explicit Array(size_t n) : size(n), memory(n * sizeof(T)) {}
  T* data() const { return static_cast<T*>(memory.data()); }
  T& operator[](size_t i) const { return data()[i]; }
  size_t size;
  cusim::Memory memory;
};

float draw() {
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return float(state >> 8) / float(1 << 24) - 0.5f;
}
Array<float> drawn(size_t n) {
  Array<float> array(n);
  for (size_t i = 0; i < n; ++i) array[i] = draw();
  return array;
}

bool close(double got, double want, double tolerance) { return std::fabs(got - want) <= tolerance; }

bool check_grid_rnn() {
  const int T = 6, B = 5, H = 64, blocks = 4;
  const Array<float> x = drawn(T * B * H), weights = drawn(H * H), y(T * B * H), h(2 * B * H);
  const Array<unsigned> arrived(1);
  std::memset(h.data(), 0, h.size * sizeof(float));
  arrived[0] = 0;
  Launch how;
  how.grid = {unsigned(blocks), 1, 1};
  how.block = {128, 1, 1};
  how.shared_bytes = unsigned((H / blocks * H + B * H) * sizeof(float));
  how.cooperative = true;
  launch("grid_rnn", how,
         GridRnn{x.data(), weights.data(), y.data(), h.data(), arrived.data(), T, B, H});
  std::vector<double> state(B * H, 0.0), next(B * H);
  for (int t = 0; t < T; ++t) {
    for (int i = 0; i < B * H; ++i) {
      double sum = x[t * B * H + i];
      for (int k = 0; k < H; ++k) sum += state[i / H * H + k] * weights[k * H + i % H];
      next[i] = std::tanh(sum);
      if (!close(y[t * B * H + i], next[i], 3e-6)) return false;
    }
    state = next;
  }
  return true;
}

bool check_cluster_ring() {
  const int size = 8, clusters = 2, width = 64, rounds = 7;
  const Array<float> sums(size * clusters * width);
  Launch how;
  how.grid = {size * clusters, 1, 1};
  how.block = {width, 1, 1};
  how.cluster = size;
  how.shared_bytes = 16 + 2 * width * sizeof(float);
  launch("cluster_ring", how, ClusterRing{sums.data(), rounds, width});
  for (int block = 0; block < size * clusters; ++block) {
    double added = 0;  // the neighbour's value has passed the `rounds` blocks before it
    for (int r = 1; r <= rounds; ++r) added += (block % size + 1 - r + size) % size + 1;
    for (int i = 0; i < width; ++i) {
      if (sums[block * width + i] != float(i + added)) return false;
    }
  }
  return true;
}

bool check_matrix_products() {
  const Array<float> a = drawn(16 * 16), b = drawn(8 * 16), c(3 * 16 * 8);
  Array<uint16_t> a_b(256), b_b(128), a_h(256), b_h(128);
  const auto bfloat16 = [](float v) { return uint16_t(cusim::float_to_bits(v) >> 16); };
  for (int i = 0; i < 256; ++i) a_b[i] = bfloat16(a[i]), a_h[i] = half_from_float(a[i]);
  for (int i = 0; i < 128; ++i) b_b[i] = bfloat16(b[i]), b_h[i] = half_from_float(b[i]);
  Launch how;
  how.block = {32, 1, 1};
  launch("matrix_products", how,
         MatrixProducts{a_b.data(), b_b.data(), a_h.data(), b_h.data(), a.data(), b.data(),
                        c.data()});
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      double want[3] = {};
      for (int k = 0; k < 16; ++k) {
        const int at = i * 16 + k, bt = j * 16 + k;
        want[0] += double(cusim::bits_to_float(uint32_t(a_b[at]) << 16)) *
                   cusim::bits_to_float(uint32_t(b_b[bt]) << 16);
        want[1] += double(float_from_half(a_h[at])) * float_from_half(b_h[bt]);
        want[2] += double(cusim::bits_to_float(round_to_tf32(a[at]))) *
                   cusim::bits_to_float(round_to_tf32(b[bt]));
      }
      for (int kind = 0; kind < 3; ++kind) {
        if (!close(c[kind * 128 + i * 8 + j], want[kind], 1e-6)) return false;
      }
    }
  }
  return true;
}

bool check_warp_words() {
  const unsigned threads = 64;
  const Array<unsigned> words(threads * 7), input(threads * 4);
  for (unsigned i = 0; i < threads * 4; ++i) input[i] = 1000 + i;
  Launch how;
  how.block = {threads, 1, 1};
  how.shared_bytes = threads * 16;
  launch("warp_words", how, WarpWords{words.data(), input.data()});
  for (unsigned i = 0; i < threads; ++i) {
    const unsigned lane = i % 32, warp = i - lane;
    unsigned ballot = 0;
    for (unsigned l = 0; l < 32; ++l) ballot |= unsigned((warp + l) % 3 == 0) << l;
    const unsigned want[7] = {ballot,
                              lane >= 1 ? i - 1 : i,
                              lane % 16 + 2 < 16 ? i + 2 : i,
                              i / 8 * 8 + 5,
                              threads / 2,
                              1000 + (threads - 1 - i) * 4 + 1,
                              0};
    for (int w = 0; w < 7; ++w) {
      if (words[i * 7 + w] != want[w]) return false;
    }
  }
  return true;
}

}  // namespace
}  // namespace masked_rnn::cuda

int main(int, char** arguments) {
  using namespace masked_rnn::cuda;
  const std::string name = arguments[1];
  try {
    const bool passed = name == "grid_rnn"          ? check_grid_rnn()
                        : name == "cluster_ring"    ? check_cluster_ring()
                        : name == "matrix_products" ? check_matrix_products()
                                                    : check_warp_words();
    std::puts(passed ? "PASS" : "FAIL: wrong numbers");
    return passed ? 0 : 1;
  } catch (const masked_rnn::DeviceError& e) {
    std::printf("FAIL: %s\n", e.what());
    return 1;
  }
}
