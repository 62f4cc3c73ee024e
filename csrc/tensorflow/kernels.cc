// From tensors to the core's parameters, and back.

#include <atomic>
#include <vector>

#include "check.h"
#include "handles.h"
#include "names.h"
#include "ops.h"
#include "rnn.h"
#if defined(MASKED_RNN_CUSIM)
#include "cusim/plan.h"
#else
#include "device_plan.h"
#endif

namespace masked_rnn::tensorflow {
namespace {

// What runs on tensors in the CPU's memory: the CPU's kernels, or, in the library that `make cusim`
// builds, the CUDA ones on the CPU.
#if defined(MASKED_RNN_CUSIM)
using HostPlan = cusim::Plan;
#else
using HostPlan = Plan;
#endif

// --- attributes, read once when a kernel is made -------------------------------------------------

struct Attributes {
  Problem problem;
  TF_DataType type = TF_FLOAT;
  bool keep_reserve = false;
  bool tf32 = false, deterministic = false;  // for GPUs
  std::atomic<int> threads{-1};  // TensorFlow's intra-op setting; -1 until the first call
};

class AttributeReader {
 public:
  explicit AttributeReader(TF_OpKernelConstruction* construction) : construction_(construction) {}

  bool boolean(const char* name) const {
    unsigned char value = 0;
    TF_OpKernelConstruction_GetAttrBool(construction_, name, &value, status_.get());
    status_.check();
    return value != 0;
  }
  std::string string(const char* name) const {
    int32_t list_size = 0, size = 0;
    TF_OpKernelConstruction_GetAttrSize(construction_, name, &list_size, &size, status_.get());
    status_.check();
    std::string value(static_cast<size_t>(size), '\0');
    TF_OpKernelConstruction_GetAttrString(construction_, name, value.data(), value.size(),
                                          status_.get());
    status_.check();
    return value;
  }
  TF_DataType type(const char* name) const {
    TF_DataType value = TF_FLOAT;
    TF_OpKernelConstruction_GetAttrType(construction_, name, &value, status_.get());
    status_.check();
    return value;
  }
  bool has(const char* name) const {
    const bool found = TF_OpKernelConstruction_HasAttr(construction_, name, status_.get());
    status_.check();
    return found;
  }

 private:
  TF_OpKernelConstruction* construction_;
  Status status_;
};

DType dtype_of(TF_DataType type) {
  switch (type) {
    case TF_FLOAT: return DType::kFloat32;
    case TF_DOUBLE: return DType::kFloat64;
    case TF_BFLOAT16: return DType::kBFloat16;
    case TF_HALF: return DType::kFloat16;
    default: throw InvalidArgument("T is " + std::to_string(type) + ", needed: a floating type");
  }
}

template <bool kSequences>
void* create(TF_OpKernelConstruction* construction) {
  auto attributes = std::make_unique<Attributes>();
  Status status;
  const bool made = status.run([&] {
    const AttributeReader read(construction);
    Problem& p = attributes->problem;
    attributes->type = read.type("T");
    p.dtype = dtype_of(attributes->type);
    p.cell = cell_from_name(read.string("cell"));
    p.activation = activation_from_name("activation", read.string("activation"));
    p.recurrent_activation =
        activation_from_name("recurrent_activation", read.string("recurrent_activation"));
    p.go_backwards = read.boolean("go_backwards");
    p.zero_output_for_mask = read.boolean("zero_output_for_mask");
    p.return_sequences = kSequences;
    if (read.has("return_sequences")) p.return_sequences = read.boolean("return_sequences");
    attributes->tf32 = read.boolean("tf32");
    attributes->deterministic = read.boolean("deterministic");
    if (read.has("keep_reserve")) attributes->keep_reserve = read.boolean("keep_reserve");
  });
  if (made) return attributes.release();
  TF_OpKernelConstruction_Failure(construction, status.get());
  return nullptr;
}

void destroy(void* kernel) { delete static_cast<Attributes*>(kernel); }

// --- threads -------------------------------------------------------------------------------------

// intra_op_parallelism_threads, field 2 of a serialized ConfigProto; 0 where it is not set.
int intra_op_threads(const uint8_t* at, size_t length) {
  const uint8_t* end = at + length;
  auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0; at < end && shift < 64; shift += 7) {
      const uint8_t byte = *at++;
      value |= uint64_t(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    return value;
  };
  while (at < end) {
    const uint64_t tag = varint();
    uint64_t skip = 0;
    switch (tag & 7) {
      case 0: {
        const uint64_t value = varint();
        if (tag >> 3 == 2) return value < 1024 ? static_cast<int>(value) : 0;
        break;
      }
      case 1: skip = 8; break;
      case 2: skip = varint(); break;
      case 5: skip = 4; break;
      default: return 0;
    }
    if (skip > static_cast<uint64_t>(end - at)) return 0;
    at += skip;
  }
  return 0;
}

Options options_for(Attributes& attributes, TF_OpKernelContext* context, bool training,
                    const HostPlan*) {
  int threads = attributes.threads.load(std::memory_order_relaxed);
  if (threads < 0) {
    const Status status;
    const Buffer config(TF_NewBuffer());
    TF_GetSerializedConfigProto(context, config.get(), status.get());
    threads = TF_GetCode(status.get()) == TF_OK
                  ? intra_op_threads(static_cast<const uint8_t*>(config->data), config->length)
                  : 0;
    attributes.threads.store(threads, std::memory_order_relaxed);
  }
  return {threads, "", true, training};
}

#if !defined(MASKED_RNN_CUSIM)
DeviceOptions options_for(const Attributes& attributes, TF_OpKernelContext* context, bool,
                          const DevicePlan*) {
  return {context, attributes.tf32, attributes.deterministic};
}
#endif

// --- tensors -------------------------------------------------------------------------------------

// The inputs of one call; the core's pointers into them live as long as this.
class Inputs {
 public:
  Inputs(TF_OpKernelContext* context, int count) {
    const Status status;
    tensors_.reserve(count);
    for (int i = 0; i < count; ++i) {
      TF_Tensor* tensor = nullptr;
      TF_GetInput(context, i, &tensor, status.get());
      tensors_.emplace_back(tensor);
      status.check();
    }
  }

  std::vector<int64_t> dims(int i) const {
    std::vector<int64_t> dims(TF_NumDims(tensors_[i].get()));
    for (size_t d = 0; d < dims.size(); ++d) dims[d] = TF_Dim(tensors_[i].get(), int(d));
    return dims;
  }
  // An empty vector stands for an absent optional input.
  bool present(int i) const {
    return !(TF_NumDims(tensors_[i].get()) == 1 && TF_Dim(tensors_[i].get(), 0) == 0);
  }
  Shape shape(int i) const { return present(i) ? Shape{true, dims(i)} : Shape{}; }
  const void* data(int i) const { return present(i) ? pointer(i) : nullptr; }
  int64_t bytes(int i) const { return static_cast<int64_t>(TF_TensorByteSize(tensors_[i].get())); }

 private:
  // A tensor without elements may have no memory, but is not absent.
  const void* pointer(int i) const {
    static const int64_t nothing = 0;
    const void* data = TF_TensorData(tensors_[i].get());
    return data ? data : &nothing;
  }
  std::vector<Tensor> tensors_;
};

// An output of the given shape, and its memory.
void* allocate(TF_OpKernelContext* context, int index, TF_DataType type,
               const std::vector<int64_t>& dims, size_t element) {
  size_t bytes = element;
  for (int64_t d : dims) bytes *= static_cast<size_t>(d);
  const Status status;
  const Tensor tensor(TF_AllocateOutput(context, index, type, dims.data(), int(dims.size()), bytes,
                                        status.get()));
  status.check();
  return TF_TensorData(tensor.get());  // the context keeps it
}

Problem problem_of(const Attributes& attributes, const Inputs& inputs) {
  Problem p = attributes.problem;
  Shapes shapes;
  shapes.inputs = inputs.shape(kInputsIndex);
  shapes.kernel = inputs.shape(kKernel);
  shapes.recurrent_kernel = inputs.shape(kRecurrentKernel);
  shapes.bias = inputs.shape(kBias);
  shapes.mask = inputs.shape(kMask);
  shapes.initial_h = inputs.shape(kInitialH);
  shapes.initial_c = inputs.shape(kInitialC);
  shapes.input_dropout = inputs.shape(kInputDropout);
  shapes.recurrent_dropout = inputs.shape(kRecurrentDropout);
  check_shapes(shapes, p);
  p.inputs = inputs.data(kInputsIndex);
  p.kernel = inputs.data(kKernel);
  p.recurrent_kernel = inputs.data(kRecurrentKernel);
  p.bias = inputs.data(kBias);
  p.mask = static_cast<const uint8_t*>(inputs.data(kMask));
  p.initial_h = inputs.data(kInitialH);
  p.initial_c = inputs.data(kInitialC);
  p.input_dropout = inputs.data(kInputDropout);
  p.recurrent_dropout = inputs.data(kRecurrentDropout);
  return p;
}

template <class Body>
void compute(TF_OpKernelContext* context, const Body& body) {
  Status status;
  if (!status.run(body)) TF_OpKernelContext_Failure(context, status.get());
}

template <class PlanT>
void compute_forward(void* kernel, TF_OpKernelContext* context) {
  compute(context, [&] {
    auto& attributes = *static_cast<Attributes*>(kernel);
    const Inputs inputs(context, kRecurrentDropout + 1);
    const Problem p = problem_of(attributes, inputs);
    const PlanT plan(p, options_for(attributes, context, attributes.keep_reserve,
                                    static_cast<PlanT*>(nullptr)));
    const size_t element = bytes_of(p.dtype);
    const std::vector<int64_t> state = {p.batch, p.units};
    const bool lstm = p.cell == Cell::kLstm;
    ForwardResults results;
    results.outputs = allocate(
        context, 0, attributes.type,
        p.return_sequences ? std::vector<int64_t>{p.batch, p.time, p.units} : state, element);
    results.state_h = allocate(context, 1, attributes.type, state, element);
    results.state_c =
        allocate(context, 2, attributes.type, lstm ? state : std::vector<int64_t>{0}, element);
    const int64_t reserve = attributes.keep_reserve ? plan.reserve_bytes() : 0;
    void* bytes = allocate(context, 3, TF_UINT8, {reserve}, 1);
    if (attributes.keep_reserve) results.reserve = bytes;
    plan.forward(results);
  });
}

template <class PlanT>
void compute_gradient(void* kernel, TF_OpKernelContext* context) {
  compute(context, [&] {
    auto& attributes = *static_cast<Attributes*>(kernel);
    const Inputs inputs(context, kDStateC + 1);
    const Problem p = problem_of(attributes, inputs);
    check_gradient_shapes(
        {inputs.shape(kDOutputs), inputs.shape(kDStateH), inputs.shape(kDStateC)}, p);
    BackwardArrays arrays;
    arrays.reserve = inputs.data(kReserve);
    arrays.d_outputs = inputs.data(kDOutputs);
    arrays.d_state_h = inputs.data(kDStateH);
    arrays.d_state_c = inputs.data(kDStateC);
    const PlanT plan(p, arrays.reserve, inputs.bytes(kReserve),
                     options_for(attributes, context, true, static_cast<PlanT*>(nullptr)));
    const size_t element = bytes_of(p.dtype);
    auto like = [&](int output, int input) {
      void* data = allocate(context, output, attributes.type, inputs.dims(input), element);
      return inputs.present(input) ? data : nullptr;
    };
    arrays.d_inputs = like(0, kInputsIndex);
    arrays.d_kernel = like(1, kKernel);
    arrays.d_recurrent_kernel = like(2, kRecurrentKernel);
    arrays.d_bias = like(3, kBias);
    arrays.d_initial_h = like(4, kInitialH);
    arrays.d_initial_c = like(5, kInitialC);
    plan.backward(arrays);
  });
}

}  // namespace

void register_kernels() {
  struct Kernel {
    const char* device;
    const char* op;
    void* (*create)(TF_OpKernelConstruction*);
    void (*compute)(void*, TF_OpKernelContext*);
  };
  constexpr Kernel kernels[] = {
      {"CPU", kForwardOp, create<true>, compute_forward<HostPlan>},
      {"CPU", kLastOp, create<false>, compute_forward<HostPlan>},
      {"CPU", kGradientOp, create<true>, compute_gradient<HostPlan>},
#if !defined(MASKED_RNN_CUSIM)
      {"GPU", kForwardOp, create<true>, compute_forward<DevicePlan>},
      {"GPU", kLastOp, create<false>, compute_forward<DevicePlan>},
      {"GPU", kGradientOp, create<true>, compute_gradient<DevicePlan>},
#endif
  };
  for (const Kernel& k : kernels) {
    for (const TF_DataType type : {TF_FLOAT, TF_DOUBLE, TF_BFLOAT16, TF_HALF}) {
      const Status status;
      TF_KernelBuilder* builder =
          TF_NewKernelBuilder(k.op, k.device, k.create, k.compute, destroy);
      TF_KernelBuilder_TypeConstraint(builder, "T", type, status.get());
      status.check();
      TF_RegisterKernelBuilder(k.op, builder, status.get());
      status.check();
    }
  }
}

}  // namespace masked_rnn::tensorflow
