// The ops' signatures and shape functions. Their kernels are in kernels.cc, their gradients in
// masked_rnn/ops.py.
//
//   MaskedRnn      outputs of every step  [batch,time,units]
//   MaskedRnnLast  the last output        [batch,units]
//   MaskedRnnGrad  gradients of either
//
// Two forward ops, because a shape function of the C API cannot read a bool attribute.
// An optional input that is absent is an empty vector, shape [0].

#include <cstdio>
#include <initializer_list>

#include "handles.h"
#include "ops.h"

namespace masked_rnn::tensorflow {
namespace {

constexpr const char* kInputs[] = {"inputs: T",        "kernel: T",    "recurrent_kernel: T",
                                   "bias: T",          "mask: bool",   "initial_h: T",
                                   "initial_c: T",     "input_dropout: T",
                                   "recurrent_dropout: T"};
constexpr const char* kAttributes[] = {
    "T: {half, bfloat16, float, double}",
    "cell: {'gru', 'gru_reset_before', 'lstm', 'simple_rnn'}",
    "activation: string = 'tanh'",
    "recurrent_activation: string = 'sigmoid'",
    "go_backwards: bool = false",
    "zero_output_for_mask: bool = false",
    "tf32: bool = false",           // on a GPU, float32 products may round to TF32
    "deterministic: bool = false",  // on a GPU, a row's bits do not depend on the batch
};

// Shapes while they are put together; every step may fail.
class Inference {
 public:
  Inference(TF_ShapeInferenceContext* context, TF_Status* status)
      : context_(context), status_(status) {}

  ShapeHandle input(int i, int64_t rank) {
    ShapeHandle given(TF_NewShapeHandle()), ranked(TF_NewShapeHandle());
    TF_ShapeInferenceContextGetInput(context_, i, given.get(), status_);
    if (ok()) {
      TF_ShapeInferenceContextWithRank(context_, given.get(), rank, ranked.get(), status_);
    }
    return ranked;
  }
  ShapeHandle part(const ShapeHandle& shape, int64_t start, int64_t end) {
    ShapeHandle result(TF_NewShapeHandle());
    if (ok()) {
      TF_ShapeInferenceContextSubshape(context_, shape.get(), start, end, result.get(), status_);
    }
    return result;
  }
  ShapeHandle join(const ShapeHandle& first, const ShapeHandle& second) {
    ShapeHandle result(TF_NewShapeHandle());
    if (ok()) {
      TF_ShapeInferenceContextConcatenateShapes(context_, first.get(), second.get(), result.get(),
                                                status_);
    }
    return result;
  }
  void output(int i, const ShapeHandle& shape) {
    if (ok()) TF_ShapeInferenceContextSetOutput(context_, i, shape.get(), status_);
  }
  void same_as_input(int i, int input) {
    ShapeHandle shape(TF_NewShapeHandle());
    TF_ShapeInferenceContextGetInput(context_, input, shape.get(), status_);
    output(i, shape);
  }
  // A vector of unknown length.
  void vector(int i) {
    output(i, ShapeHandle(TF_ShapeInferenceContextVectorFromSize(context_, size_t(-1))));
  }

 private:
  bool ok() const { return TF_GetCode(status_) == TF_OK; }
  TF_ShapeInferenceContext* context_;
  TF_Status* status_;
};

// state_c is left unknown: [batch,units] for LSTM, else [0].
void forward_shapes(TF_ShapeInferenceContext* context, TF_Status* status, bool sequences) {
  Inference shapes(context, status);
  const ShapeHandle inputs = shapes.input(0, 3), recurrent_kernel = shapes.input(2, 2);
  const ShapeHandle units = shapes.part(recurrent_kernel, 0, 1);
  const ShapeHandle state = shapes.join(shapes.part(inputs, 0, 1), units);
  const ShapeHandle steps = shapes.join(shapes.part(inputs, 0, 2), units);
  shapes.output(0, sequences ? steps : state);
  shapes.output(1, state);
  shapes.vector(3);
}

void sequence_shapes(TF_ShapeInferenceContext* context, TF_Status* status) {
  forward_shapes(context, status, true);
}
void last_shapes(TF_ShapeInferenceContext* context, TF_Status* status) {
  forward_shapes(context, status, false);
}

// A gradient has the shape of what it is the gradient of.
void gradient_shapes(TF_ShapeInferenceContext* context, TF_Status* status) {
  Inference shapes(context, status);
  constexpr int inputs[] = {kInputsIndex, kKernel, kRecurrentKernel, kBias, kInitialH, kInitialC};
  for (int i = 0; i < 6; ++i) shapes.same_as_input(i, inputs[i]);
}

void register_op(const char* name, std::initializer_list<const char*> more_inputs,
                 std::initializer_list<const char*> outputs, const char* last_attribute,
                 void (*shape_function)(TF_ShapeInferenceContext*, TF_Status*)) {
  TF_OpDefinitionBuilder* op = TF_NewOpDefinitionBuilder(name);
  for (const char* attribute : kAttributes) TF_OpDefinitionBuilderAddAttr(op, attribute);
  TF_OpDefinitionBuilderAddAttr(op, last_attribute);
  for (const char* input : kInputs) TF_OpDefinitionBuilderAddInput(op, input);
  for (const char* input : more_inputs) TF_OpDefinitionBuilderAddInput(op, input);
  for (const char* output : outputs) TF_OpDefinitionBuilderAddOutput(op, output);
  TF_OpDefinitionBuilderSetShapeInferenceFunction(op, shape_function);
  const Status status;
  TF_RegisterOpDefinition(op, status.get());
  status.check();
}

void register_all() {
  const auto outputs = {"outputs: T", "state_h: T", "state_c: T", "reserve: uint8"};
  register_op(kForwardOp, {}, outputs, "keep_reserve: bool = false", sequence_shapes);
  register_op(kLastOp, {}, outputs, "keep_reserve: bool = false", last_shapes);
  register_op(kGradientOp, {"reserve: uint8", "d_outputs: T", "d_state_h: T", "d_state_c: T"},
              {"d_inputs: T", "d_kernel: T", "d_recurrent_kernel: T", "d_bias: T",
               "d_initial_h: T", "d_initial_c: T"},
              "return_sequences: bool = true", gradient_shapes);
  register_kernels();
}

// Runs when the library is loaded, where nobody could catch what it throws.
[[maybe_unused]] const bool registered = [] {
  Status status;
  const bool done = status.run(register_all);
  if (!done) std::fprintf(stderr, "masked_rnn: ops not registered: %s\n", TF_Message(status.get()));
  return done;
}();

}  // namespace
}  // namespace masked_rnn::tensorflow
