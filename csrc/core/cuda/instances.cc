#include "instances.h"

namespace masked_rnn::cuda {
namespace {

const char* cell_type(Cell cell) {
  switch (cell) {
    case Cell::kGru: return "Gru";
    case Cell::kGruResetBefore: return "GruResetBefore";
    case Cell::kLstm: return "Lstm";
    case Cell::kSimpleRnn: return "SimpleRnn";
  }
  return "";
}

}  // namespace

const char* storage_name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "float";
    case DType::kFloat64: return "double";
    case DType::kBFloat16: return "BFloat16";
    case DType::kFloat16: return "Float16";
  }
  return "";
}

std::string instance_name(const Problem& p, const char* name, std::initializer_list<int> sizes) {
  const bool common = p.activation == Activation::kTanh &&
                      p.recurrent_activation == Activation::kSigmoid;
  std::string text = std::string(name) + "<" + cell_type(p.cell) + ", " +
                     (common ? "TanhSigmoid" : "AnyActivations") + ", " + storage_name(p.dtype);
  for (const int size : sizes) text += ", " + std::to_string(size);
  return text + ">";
}

}  // namespace masked_rnn::cuda
