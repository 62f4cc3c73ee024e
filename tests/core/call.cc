#include "call.h"

#include <cstring>

#include "numbers.h"

namespace masked_rnn::test {

Call::Call(const Values& v, Guard guard) : values_(v), guard_(guard), problem_(v.problem) {
  const auto keep = [this](Guarded memory) -> const char* {
    memory.forbid_writing();
    arguments_.push_back(static_cast<Guarded&&>(memory));
    return arguments_.back().data();
  };
  const auto encoded = [&](const Array& array) -> const void* {
    if (!array) return nullptr;
    Guarded memory = fresh(array);
    for (size_t i = 0; i < array->size(); ++i) {
      encode(problem_.dtype, (*array)[i], memory.data() + i * bytes_of(problem_.dtype));
    }
    return keep(static_cast<Guarded&&>(memory));
  };
  problem_.inputs = encoded(v.inputs);
  problem_.kernel = encoded(v.kernel);
  problem_.recurrent_kernel = encoded(v.recurrent_kernel);
  problem_.bias = encoded(v.bias);
  problem_.initial_h = encoded(v.initial_h);
  problem_.initial_c = encoded(v.initial_c);
  problem_.input_dropout = encoded(v.input_dropout);
  problem_.recurrent_dropout = encoded(v.recurrent_dropout);
  d_outputs_ = encoded(v.d_outputs);
  d_state_h_ = encoded(v.d_state_h);
  d_state_c_ = encoded(v.d_state_c);
  if (v.has_mask) {
    Guarded mask(v.mask.size(), guard);
    if (!v.mask.empty()) std::memcpy(mask.data(), v.mask.data(), v.mask.size());
    problem_.mask = reinterpret_cast<const uint8_t*>(keep(static_cast<Guarded&&>(mask)));
  }
}

Guarded Call::fresh(int64_t elements) const {
  return Guarded(elements * bytes_of(problem_.dtype), guard_);
}
Guarded Call::fresh(const Array& like) const {
  return like ? fresh(static_cast<int64_t>(like->size())) : Guarded();
}

Call::Forward Call::forward(const Options& options, bool keep_reserve) const {
  const Problem& p = problem_;
  const int64_t state = p.batch * p.units;
  const Plan plan(p, options);
  Forward r;
  r.outputs = fresh(p.return_sequences ? p.time * state : state);
  r.state_h = fresh(state);
  if (p.cell == Cell::kLstm) r.state_c = fresh(state);
  if (keep_reserve) r.reserve = Guarded(plan.reserve_bytes(), guard_);
  plan.forward({r.outputs.data(), r.state_h.data(), r.state_c.data(), r.reserve.data()});
  return r;
}

Call::Backward Call::backward(const Options& options, const Guarded& reserve) const {
  const int64_t state = problem_.batch * problem_.units;
  const Plan plan(problem_, reserve.data(), static_cast<int64_t>(reserve.bytes()), options);
  Backward r;
  r.d_inputs = fresh(values_.inputs);
  r.d_kernel = fresh(values_.kernel);
  r.d_recurrent_kernel = fresh(values_.recurrent_kernel);
  r.d_bias = fresh(values_.bias);
  // Without an initial state its gradient is not asked for.
  if (values_.initial_h) r.d_initial_h = fresh(state);
  if (values_.initial_c) r.d_initial_c = fresh(state);
  plan.backward({reserve.data(), d_outputs_, d_state_h_, d_state_c_, r.d_inputs.data(),
                 r.d_kernel.data(), r.d_recurrent_kernel.data(), r.d_bias.data(),
                 r.d_initial_h.data(), r.d_initial_c.data()});
  return r;
}

}  // namespace masked_rnn::test
