// Calls from several threads at once, of every size and number of threads: they share the pool and
// the workspace's cache, and each must give the bits it gives alone.

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "call.h"
#include "checks.h"
#include "error.h"
#include "names.h"
#include "report.h"

namespace masked_rnn::test {
namespace {

struct Load {
  Values values;
  std::unique_ptr<Call> call;
  Options options;
  Call::Forward forward;
  Call::Backward backward;
};

std::vector<Load> loads() {
  std::vector<Load> all;
  for (const Case& c : table()) {
    if (!c.split) continue;
    for (const Cell cell : {Cell::kGru, Cell::kGruResetBefore, Cell::kLstm}) {
      const int threads = static_cast<int>(all.size() % 5);  // 0: the default number
      all.push_back({draw(c, cell, DType::kFloat32), nullptr, {threads, ""}, {}, {}});
    }
  }
  for (Load& load : all) {
    load.call = std::make_unique<Call>(load.values, Guard::kBehind);
    load.forward = load.call->forward(load.options, true);
    load.backward = load.call->backward(load.options, load.forward.reserve);
  }
  return all;
}

}  // namespace

void check_concurrency() {
  constexpr int kCallers = 6, kRounds = 2;
  const std::vector<Load> all = loads();
  now_running("calls at once");
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&all, caller] {
      for (size_t i = 0; i < kRounds * all.size(); ++i) {
        const Load& load = all[(i + caller * 5) % all.size()];
        const Call::Forward forward = load.call->forward(load.options, true);
        const Call::Backward backward = load.call->backward(load.options, forward.reserve);
        check_same_bits("outputs", forward.outputs, load.forward.outputs);
        check_same_bits("state_h", forward.state_h, load.forward.state_h);
        check_same_bits("d_inputs", backward.d_inputs, load.backward.d_inputs);
        check_same_bits("d_kernel", backward.d_kernel, load.backward.d_kernel);
        check_same_bits("d_recurrent_kernel", backward.d_recurrent_kernel,
                        load.backward.d_recurrent_kernel);
        check_throws<InvalidArgument>("isa", [&] { load.call->forward({2, "none"}, false); });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

}  // namespace masked_rnn::test
