// A libnvrtc.so.12 for the driver that runs kernels on the CPU shim, which has them compiled: the
// "machine code" of a kernel is its name.
#include <cstring>
#include <string>

#include "core/cuda/api.h"

using namespace masked_rnn::cuda::api;

namespace {

constexpr char kImage[] = "\177ELF";
constexpr char kNamespace[] = "masked_rnn::cuda::";

struct Program {
  std::string kernel;
};

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API int nvrtcVersion(int* major, int* minor) {
  *major = 12;
  *minor = 99;  // a version that no real one has, in the keys of the cache
  return NVRTC_SUCCESS;
}
API int nvrtcGetNumSupportedArchs(int* count) {
  *count = 3;
  return NVRTC_SUCCESS;
}
API int nvrtcGetSupportedArchs(int* capabilities) {
  capabilities[0] = 80, capabilities[1] = 90, capabilities[2] = 100;
  return NVRTC_SUCCESS;
}
API int nvrtcCreateProgram(nvrtcProgram* program, const char*, const char*, int, const char* const*,
                           const char* const*) {
  *program = new Program;
  return NVRTC_SUCCESS;
}
API int nvrtcDestroyProgram(nvrtcProgram* program) {
  delete static_cast<Program*>(*program);
  return NVRTC_SUCCESS;
}
API int nvrtcAddNameExpression(nvrtcProgram program, const char* name) {
  if (std::strncmp(name, kNamespace, sizeof kNamespace - 1) != 0) return 1;
  static_cast<Program*>(program)->kernel = name + sizeof kNamespace - 1;
  return NVRTC_SUCCESS;
}
API int nvrtcCompileProgram(nvrtcProgram, int, const char* const*) { return NVRTC_SUCCESS; }
API int nvrtcGetLoweredName(nvrtcProgram program, const char*, const char** name) {
  *name = static_cast<Program*>(program)->kernel.c_str();
  return NVRTC_SUCCESS;
}
API int nvrtcGetCUBINSize(nvrtcProgram, size_t* bytes) {
  *bytes = sizeof kImage;
  return NVRTC_SUCCESS;
}
API int nvrtcGetCUBIN(nvrtcProgram, char* image) {
  std::memcpy(image, kImage, sizeof kImage);
  return NVRTC_SUCCESS;
}
API int nvrtcGetPTXSize(nvrtcProgram, size_t*) { return 1; }  // every device gets a cubin
API int nvrtcGetPTX(nvrtcProgram, char*) { return 1; }
API int nvrtcGetProgramLogSize(nvrtcProgram, size_t* bytes) {
  *bytes = 0;
  return NVRTC_SUCCESS;
}
API int nvrtcGetProgramLog(nvrtcProgram, char*) { return NVRTC_SUCCESS; }
