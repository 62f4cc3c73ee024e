// What the core must refuse before it touches memory: names, shapes, options, reserves.

#include <cstring>
#include <string>
#include <vector>

#include "call.h"
#include "check.h"
#include "checks.h"
#include "error.h"
#include "layout.h"
#include "names.h"
#include "report.h"

namespace masked_rnn::test {
namespace {

constexpr int64_t kHuge = int64_t{1} << 31;

Shape shape(std::vector<int64_t> dims) { return {true, std::move(dims)}; }

Shapes lstm_shapes() {
  Shapes s;
  s.inputs = shape({5, 7, 3});
  s.kernel = shape({3, 68});
  s.recurrent_kernel = shape({17, 68});
  return s;
}

void check_names() {
  check_throws<InvalidArgument>("cell is 'peephole'", [] { cell_from_name("peephole"); });
  check_throws<InvalidArgument>("dtype is ''", [] { dtype_from_name(""); });
  check_throws<InvalidArgument>("recurrent_activation is 'softmax'", [] {
    activation_from_name("recurrent_activation", "softmax");
  });
}

void check_shapes_of_arguments() {
  struct Wrong {
    Shape Shapes::* argument;
    std::vector<int64_t> dims;
    const char* message;
  };
  const std::vector<Wrong> wrong = {
      {&Shapes::inputs, {5, 7}, "inputs has shape [5,7]"},
      {&Shapes::kernel, {4, 68}, "kernel has shape [4,68], needed: [features,gates*units] = [3,68]"},
      {&Shapes::kernel, {3}, "kernel has shape [3]"},
      {&Shapes::recurrent_kernel, {17, 51}, "recurrent_kernel has shape [17,51]"},
      {&Shapes::recurrent_kernel, {0, 0}, "at least one unit"},
      {&Shapes::bias, {2, 68}, "bias has shape [2,68]"},
      {&Shapes::mask, {5, 7, 1}, "mask has shape [5,7,1]"},
      {&Shapes::initial_h, {5, 16}, "initial_state (h) has shape [5,16]"},
      {&Shapes::initial_c, {4, 17}, "initial_state (c) has shape [4,17]"},
      {&Shapes::input_dropout, {2, 5, 3}, "input_dropout has shape [2,5,3]"},
      {&Shapes::recurrent_dropout, {4, 5, 3}, "recurrent_dropout has shape [4,5,3]"},
  };
  Problem p;
  p.cell = Cell::kLstm;
  for (const Wrong& w : wrong) {
    Shapes shapes = lstm_shapes();
    shapes.*w.argument = shape(w.dims);
    check_throws<InvalidArgument>(w.message, [&] { check_shapes(shapes, p); });
  }
  check_throws<InvalidArgument>("inputs is missing", [&] { check_shapes({}, p); });
  Shapes of_gru = lstm_shapes();
  of_gru.kernel = shape({3, 51});
  of_gru.recurrent_kernel = shape({17, 51});
  of_gru.initial_c = shape({5, 17});
  p.cell = Cell::kGru;
  check_throws<InvalidArgument>("has one state", [&] { check_shapes(of_gru, p); });

  p.cell = Cell::kLstm;
  check_shapes(lstm_shapes(), p);
  check_throws<InvalidArgument>("d_outputs has shape [5,7]", [&] {
    check_gradient_shapes({shape({5, 7}), {}, {}}, p);
  });
  check_throws<InvalidArgument>("d_state (c) has shape [5,1]", [&] {
    check_gradient_shapes({{}, {}, shape({5, 1})}, p);
  });
}

void check_sizes() {
  check_throws<ResourceExhausted>("the array needs", [] {
    checked_product({kHuge, kHuge, kHuge}, "the array");
  });
  Problem p;
  p.cell = Cell::kLstm;
  Shapes shapes = lstm_shapes();
  shapes.inputs = shape({kHuge, kHuge, 3});
  check_throws<ResourceExhausted>("inputs needs", [&] { check_shapes(shapes, p); });
  p = {};
  p.time = kHuge;
  p.units = 1;
  check_throws<ResourceExhausted>("time steps", [&] { Plan plan(p); });
}

void check_options() {
  const Values values = draw(Case{}, Cell::kGru, DType::kFloat32);
  const Call call(values, Guard::kBehind);
  check_throws<InvalidArgument>("isa is 'sse9'", [&] { call.forward({1, "sse9"}, false); });
  check_throws<InvalidArgument>("threads is -1", [&] { call.forward({-1, ""}, false); });
}

// A reserve that another call wrote, or that was damaged.
void check_reserves() {
  const Options options{1, ""};
  const Values values = draw(Case{}, Cell::kGru, DType::kFloat32);
  const Call call(values, Guard::kBehind);
  Guarded reserve = call.forward(options, true).reserve;
  const auto refused = [&](const Call& by, const Guarded& given) {
    check_throws<InvalidArgument>("reserve", [&] { by.backward(options, given); });
  };
  refused(call, Guarded());
  Guarded part(reserve.bytes() - 64, Guard::kBehind);
  std::memcpy(part.data(), reserve.data(), part.bytes());
  refused(call, part);
  Guarded short_one(kReserveHeaderBytes - 1, Guard::kBehind);
  refused(call, short_one);
  for (size_t i = 0; i < sizeof(ReserveHeader); ++i) {
    for (const char flip : {'\1', '\x80'}) {
      reserve.data()[i] ^= flip;
      refused(call, reserve);
      reserve.data()[i] ^= flip;
    }
  }
  Case other;
  other.mask = Mask::kFull;
  const Values more_steps = draw(other, Cell::kGru, DType::kFloat32);
  refused(Call(more_steps, Guard::kBehind), reserve);
  const Values lstm = draw(Case{}, Cell::kLstm, DType::kFloat32);
  refused(Call(lstm, Guard::kBehind), reserve);
  const Values doubles = draw(Case{}, Cell::kGru, DType::kFloat64);
  refused(Call(doubles, Guard::kBehind), reserve);
  call.backward(options, reserve);  // as it was, it is good
}

}  // namespace

void check_wrong_calls() {
  check_names();
  check_shapes_of_arguments();
  check_sizes();
  check_options();
  check_reserves();
}

}  // namespace masked_rnn::test
