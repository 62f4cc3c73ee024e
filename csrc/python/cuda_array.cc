#include "cuda_array.h"

#include <pybind11/stl.h>

#include "dlpack.h"
#include "error.h"
#include "gil.h"

namespace masked_rnn::python {
namespace {

struct TypeName {
  const char* name;
  dlpack::DataType type;
  const char* array_interface;  // null: that protocol has no such type
};
constexpr TypeName kTypes[] = {
    {"float32", {dlpack::kFloat, 32, 1}, "<f4"}, {"float64", {dlpack::kFloat, 64, 1}, "<f8"},
    {"float16", {dlpack::kFloat, 16, 1}, "<f2"}, {"bfloat16", {dlpack::kBfloat, 16, 1}, nullptr},
    {"bool", {dlpack::kBool, 8, 1}, "|b1"},      {"uint8", {dlpack::kUint, 8, 1}, "|u1"},
};

const TypeName& type_named(const std::string& name) {
  for (const TypeName& type : kTypes) {
    if (name == type.name) return type;
  }
  throw InvalidArgument("dtype is " + name);
}

bool is_contiguous(const dlpack::Tensor& tensor) {
  if (!tensor.strides) return true;
  for (int i = 0; i < tensor.dimensions; ++i) {
    if (tensor.shape[i] == 0) return true;
  }
  int64_t expected = 1;
  for (int i = tensor.dimensions - 1; i >= 0; --i) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
    expected *= tensor.shape[i];
  }
  return true;
}

// 1 and 2 are the driver's names of the default streams, and DLPack's.
cuda::Stream stream_of(const py::object& stream) {
  if (stream.is_none()) return reinterpret_cast<cuda::Stream>(1);
  const auto number = stream.cast<uintptr_t>();
  return reinterpret_cast<cuda::Stream>(number == 0 ? 1 : number);
}

}  // namespace

// A producer's memory, which it wants to be told of when it is no longer used.
struct CudaArray::Given : Memory {
  dlpack::ManagedTensor* managed = nullptr;
  ~Given() override {
    if (managed->deleter) managed->deleter(managed);
  }
};

struct CudaArray::Own : Memory {
  const cuda::DriverDevice& device;
  const cuda::Stream stream;
  py::object keep_alive;
  bool elsewhere = false;  // handed to another stream, whose work we know nothing of

  Own(const cuda::DriverDevice& on, size_t bytes, cuda::Stream for_stream, py::object object)
      : device(on), stream(for_stream), keep_alive(std::move(object)) {
    data = device.allocate(bytes, stream);
  }
  ~Own() override {
    {
      const WithoutGil without_gil;
      elsewhere ? device.free(data) : device.free(data, stream);
    }
  }
};

CudaArray CudaArray::from_capsule(const std::string& argument, const py::capsule& capsule) {
  if (!PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    throw InvalidArgument(argument + "'s __dlpack__ gave no unused capsule named dltensor");
  }
  auto* managed = static_cast<dlpack::ManagedTensor*>(
      PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  auto memory = std::make_shared<Given>();
  memory->managed = managed;
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  const dlpack::Tensor& tensor = managed->tensor;
  if (tensor.device.type != dlpack::kCuda && tensor.device.type != dlpack::kCudaManaged) {
    throw InvalidArgument(argument + " is not in CUDA memory, needed: all arrays on one device");
  }
  CudaArray array;
  for (const TypeName& type : kTypes) {
    if (tensor.dtype.code == type.type.code && tensor.dtype.bits == type.type.bits &&
        tensor.dtype.lanes == 1) {
      array.dtype_ = type.name;
    }
  }
  if (array.dtype_.empty()) {
    throw InvalidArgument(argument + " has a dtype of " + std::to_string(tensor.dtype.bits) +
                          " bits that is not taken, needed: float32, float64, float16 or "
                          "bfloat16; for mask bool or uint8");
  }
  if (!is_contiguous(tensor)) {
    throw InvalidArgument(argument + " is not C-contiguous, needed: a contiguous copy");
  }
  array.shape_.assign(tensor.shape, tensor.shape + tensor.dimensions);
  array.ordinal_ = tensor.device.ordinal;
  memory->data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  array.memory_ = std::move(memory);
  return array;
}

CudaArray::CudaArray(const cuda::DriverDevice& device, std::string dtype,
                     std::vector<int64_t> shape, cuda::Stream stream, py::object keep_alive)
    : shape_(std::move(shape)), dtype_(std::move(dtype)), ordinal_(device.ordinal()) {
  memory_ = std::make_shared<Own>(device, size_t(bytes()), stream, std::move(keep_alive));
}

int64_t CudaArray::bytes() const {
  int64_t size = type_named(dtype_).type.bits / 8;
  for (const int64_t extent : shape_) size *= extent;
  return size;
}

py::capsule CudaArray::to_capsule(const py::object& stream) const {
  if (auto* own = dynamic_cast<Own*>(memory_.get())) {
    const bool wait = stream.is_none() || stream.cast<int64_t>() != -1;
    const cuda::Stream consumer = wait ? stream_of(stream) : nullptr;
    if (consumer != own->stream) own->elsewhere = true;
    if (wait) own->device.wait_for(consumer, own->stream);
  }
  struct Export {
    dlpack::ManagedTensor managed;
    CudaArray array;
  };
  auto* out = new Export{{}, *this};
  out->managed.context = out;
  out->managed.deleter = [](dlpack::ManagedTensor* managed) {
    const py::gil_scoped_acquire acquire;  // what it keeps alive is Python's
    delete static_cast<Export*>(managed->context);
  };
  dlpack::Tensor& tensor = out->managed.tensor;
  tensor.data = data();
  tensor.device = {dlpack::kCuda, ordinal_};
  tensor.dimensions = int32_t(shape_.size());
  tensor.dtype = type_named(dtype_).type;
  tensor.shape = out->array.shape_.data();
  return py::reinterpret_steal<py::capsule>(
      PyCapsule_New(&out->managed, "dltensor", [](PyObject* capsule) {
        if (!PyCapsule_IsValid(capsule, "dltensor")) return;  // a consumer has it
        auto* managed = static_cast<dlpack::ManagedTensor*>(
            PyCapsule_GetPointer(capsule, "dltensor"));
        managed->deleter(managed);
      }));
}

py::dict CudaArray::cuda_array_interface() const {
  const char* type = type_named(dtype_).array_interface;
  if (!type) throw py::attribute_error("__cuda_array_interface__ has no " + dtype_);
  py::dict interface;
  interface["shape"] = py::tuple(py::cast(shape_));
  interface["typestr"] = type;
  interface["data"] = py::make_tuple(reinterpret_cast<uintptr_t>(data()), false);
  interface["strides"] = py::none();
  interface["version"] = 3;
  if (auto* own = dynamic_cast<Own*>(memory_.get())) {
    own->elsewhere = true;
    interface["stream"] = reinterpret_cast<uintptr_t>(own->stream);
  }
  return interface;
}

}  // namespace masked_rnn::python
