#include "rnn.h"

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstring>
#include <numeric>
#include <thread>

#include "check.h"
#include "cpu/dispatch.h"
#include "error.h"
#include "job.h"
#include "names.h"
#include "threads.h"
#include "workspace.h"

namespace masked_rnn {
namespace {

constexpr uint64_t kMagic = 0x6d61736b726e6e31;  // "maskrnn1"

// Of everything that the order of a reserve depends on: which steps are real, of which rows. FNV-1a,
// a number at a time.
uint64_t hash_steps(const Problem& p, const std::vector<int64_t>& real_steps) {
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&hash](uint64_t x) {
    hash = (hash ^ x) * 0x100000001b3;
    hash ^= hash >> 32;
  };
  for (int64_t x : {int64_t{p.go_backwards}, p.batch, p.time, p.features}) add(x);
  for (int64_t b = 0; b < p.batch; ++b) {
    add(real_steps[b]);
    if (real_steps[b] == 0 || real_steps[b] == p.time) continue;
    const uint8_t* mask = p.mask + b * p.time;
    for (int64_t t = 0; t < p.time; t += 8) {  // a byte each
      uint64_t steps = 0;
      std::memcpy(&steps, mask + t, static_cast<size_t>(std::min<int64_t>(8, p.time - t)));
      for (int shift : {4, 2, 1}) steps |= steps >> shift;
      add(steps & 0x0101010101010101);  // 1 for any value but 0
    }
  }
  return hash;
}

}  // namespace

struct Plan::State {
  Problem problem;
  Choice choice;
  int vector = 0;
  Schedule schedule;
  Split split;

  State(const Problem& p, const Options& options)
      : problem(p), choice(choose_kernel(p, options.isa)) {
    vector = static_cast<int>(choice.vector_bytes / real_bytes(p.dtype));
    if (options.threads < 0) {
      throw InvalidArgument("threads is " + std::to_string(options.threads) +
                            ", needed: a positive number, or 0 for the default");
    }
    if (p.time > INT32_MAX) {
      throw ResourceExhausted("inputs has " + std::to_string(p.time) +
                              " time steps, more than 2147483647");
    }
    make_schedule("rows", p.batch, [&] { schedule.count_steps(problem); });
  }

  void deal(Split how) {
    split = how;
    expect_call(split.threads());
    make_schedule("real steps", schedule.real_steps(),
                  [&] { schedule.deal(problem, split.groups); });
  }

  template <class Make>
  static void make_schedule(const char* of, int64_t size, const Make& make) {
    try {
      make();
    } catch (const std::bad_alloc&) {
      throw ResourceExhausted("cannot allocate the schedule of " + std::to_string(size) + " " + of);
    }
  }

  int threads(const Options& options) const {
    return options.threads > 0 ? std::min(options.threads, kMostThreads) : default_threads();
  }
  Split best_split(const Options& options) const {
    int most = threads(options);
    if (options.awaited_elsewhere && is_brief(options.training)) {
      most = std::min(most, std::max(1, available_cores() - 1));
    }
    return choose_split(problem, schedule, Blocks(problem, vector).units, most, choice.sharing);
  }
  // Whether one core less costs less than it gives. Measured through TensorFlow on both of two cores of
  // Granite Rapids: the other thread saves half of the arithmetic, and costs as long as 3.5 M
  // multiply-adds, and 24 for each weight that it reads, until those are more than caches hold anyway.
  bool is_brief(bool training) const {
    const double weights = weights_from(problem.features + problem.units, problem);
    const double passes = training ? 2 : 1;
    return weights < 1.25e6 && (passes * double(schedule.real_steps()) - 48) * weights < 7e6;
  }

  int64_t reserve_bytes(int64_t elements) const {
    return kReserveHeaderBytes + checked_product({elements, real_bytes(problem.dtype)}, "the reserve");
  }

  ReserveHeader header(int64_t elements) const {
    const int32_t activations = static_cast<int32_t>(problem.activation) * 256 +
                                static_cast<int32_t>(problem.recurrent_activation);
    return {kMagic,
            static_cast<int32_t>(problem.cell),
            static_cast<int32_t>(problem.dtype),
            activations,
            split.groups,
            vector,
            problem.units,
            schedule.real_steps(),
            reserve_bytes(elements),
            hash_steps(problem, schedule.count)};
  }

  void run(Kernel function, Job& job, int64_t workspace_elements) const {
    Workspace workspace(checked_product({workspace_elements, real_bytes(problem.dtype)},
                                        "the workspace"));
    job.problem = &problem;
    job.schedule = &schedule;
    job.split = split;
    job.workspace = workspace.data();
    Team team(split.threads());
    job.team = &team;
    struct Call {
      Kernel function;
      const Job* job;
    } call{function, &job};
    run_on_threads(
        job.threads(),
        [](void* argument, int thread) {
          const auto* c = static_cast<const Call*>(argument);
          c->function(*c->job, thread);
        },
        &call);
  }
};

Plan::Plan(const Problem& problem, const Options& options)
    : state_(std::make_unique<State>(problem, options)) {
  state_->deal(state_->best_split(options));
}

Plan::Plan(const Problem& problem, const void* reserve, int64_t reserve_bytes,
           const Options& options)
    : state_(std::make_unique<State>(problem, options)) {
  ReserveHeader given{};
  if (reserve == nullptr || reserve_bytes < kReserveHeaderBytes) {
    throw InvalidArgument("reserve has " + std::to_string(reserve_bytes) +
                          " bytes: the forward call kept none; needed: keep_reserve=True there");
  }
  std::memcpy(&given, reserve, sizeof(given));
  // The number of parts may differ from forward's, that of groups may not: the reserve is laid
  // out by them.
  Split split = state_->best_split(options);
  const bool plausible = given.magic == kMagic && given.groups >= 1 && given.groups <= kMostThreads &&
                         given.groups <= std::max<int64_t>(1, state_->schedule.rows());
  if (plausible && given.groups != split.groups) split = {given.groups, 1};
  state_->deal(split);
  const ReserveLayout layout(problem, state_->schedule, state_->vector);
  const ReserveHeader needed = state_->header(layout.elements);
  if (!plausible || given.bytes > reserve_bytes ||
      std::memcmp(&given, &needed, sizeof(given)) != 0) {
    throw InvalidArgument(
        "reserve (" + std::to_string(reserve_bytes) +
        " bytes) was not written by a forward call with these shapes, this mask, cell, dtype, "
        "activations and instruction set");
  }
}

Plan::~Plan() = default;
Plan::Plan(Plan&&) noexcept = default;

int64_t Plan::reserve_bytes() const {
  const ReserveLayout layout(state_->problem, state_->schedule, state_->vector);
  return state_->reserve_bytes(layout.elements);
}

bool Plan::is_short() const {
  constexpr double kMostMultiplyAdds = 4e6;  // 0.08 ms forward and twice that backward, measured
  const Problem& p = state_->problem;
  const double weights = weights_from(p.features + p.units, p);
  return state_->split.threads() == 1 && state_->schedule.real_steps() * weights < kMostMultiplyAdds;
}

void Plan::forward(const ForwardResults& results) const {
  const State& s = *state_;
  const bool training = results.reserve != nullptr;
  const ReserveLayout reserve(s.problem, s.schedule, s.vector);
  const ForwardLayout layout(s.problem, s.schedule, s.vector, s.choice.kernels.planes, training);
  Job job{};
  job.results = results;
  job.reserve_layout = &reserve;
  job.forward_layout = &layout;
  if (training) {
    std::memset(results.reserve, 0, kReserveHeaderBytes);
    const ReserveHeader header = s.header(reserve.elements);
    std::memcpy(results.reserve, &header, sizeof(header));
    job.reserve = static_cast<char*>(results.reserve) + kReserveHeaderBytes;
  }
  s.run(s.choice.kernels.forward, job, layout.elements);
}

void Plan::backward(const BackwardArrays& arrays) const {
  const State& s = *state_;
  const ReserveLayout reserve(s.problem, s.schedule, s.vector);
  const BackwardLayout layout(s.problem, s.schedule, s.split, s.vector, s.choice.kernels.planes);
  Job job{};
  job.gradients = arrays;
  job.reserve_layout = &reserve;
  job.backward_layout = &layout;
  job.reserve = static_cast<char*>(const_cast<void*>(arrays.reserve)) + kReserveHeaderBytes;
  s.run(s.choice.kernels.backward, job, layout.elements);
}

std::vector<KernelName> kernels() {
  std::vector<KernelName> names;
  const IsaTables* tables;
  const int count = supported_isas(&tables);
  for (int i = 0; i < count; ++i) {
    for (const KernelTable* table : {tables[i].float_table, tables[i].double_table}) {
      for (int r = 0; table != nullptr && r < table->count; ++r) {
        names.push_back({name_of(table->rows[r].cell), name_of(table->rows[r].dtype),
                         tables[i].isa});
      }
    }
  }
  return names;
}

double fma_peak(DType dtype, int threads, const std::string& isa) {
  Problem problem;
  problem.dtype = dtype;
  const Choice choice = choose_kernel(problem, isa);
  std::vector<double> flops(threads > 0 ? std::min(threads, kMostThreads) : default_threads());
  std::vector<std::jthread> workers;  // joined also where one of them cannot be started
  for (double& rate : flops) {
    workers.emplace_back([&rate, &choice] {
      using Clock = std::chrono::steady_clock;
      constexpr int64_t kCount = 500'000'000;
      for (int i = 0; i < 10; ++i) {  // the best of ten: clocks rise, and others use the machine
        const auto start = Clock::now();
        choice.kernels.multiply_adds(kCount);
        const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
        rate = std::max(rate, 2.0 * kCount / seconds);
      }
    });
  }
  workers.clear();
  return std::accumulate(flops.begin(), flops.end(), 0.0);
}

std::string chosen_isa() { return choose_isa("").isa; }

}  // namespace masked_rnn
