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

std::string arguments_of(const Problem& p) {
  const bool common = p.activation == Activation::kTanh &&
                      p.recurrent_activation == Activation::kSigmoid;
  return std::string(cell_type(p.cell)) + ", " + (common ? "TanhSigmoid" : "AnyActivations") +
         ", " + storage_name(p.dtype);
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

const char* real_name(DType dtype) { return dtype == DType::kFloat64 ? "double" : "float"; }

std::string instance_name(const Problem& problem, const char* name) {
  return std::string(name) + "<" + arguments_of(problem) + ">";
}

std::string instance_name(const Problem& problem, const char* name, const ClusterShape& shape) {
  return std::string(name) + "<" + arguments_of(problem) + ", " + std::to_string(shape.units) +
         ", " + std::to_string(shape.blocks) + ">";
}

}  // namespace masked_rnn::cuda
