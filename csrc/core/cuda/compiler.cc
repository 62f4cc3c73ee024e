#include "compiler.h"

#include <algorithm>

#include "../error.h"
#include "api.h"

namespace masked_rnn::cuda {
namespace {

constexpr const char* kOptions[] = {"--std=c++17", "-default-device"};

class Program {
 public:
  Program(const std::string& text, const std::vector<Source>& headers) {
    std::vector<const char*> texts, names;
    for (const Source& header : headers) {
      texts.push_back(header.text.c_str());
      names.push_back(header.name.c_str());
    }
    check(api::nvrtc().nvrtcCreateProgram(&program_, text.c_str(), "masked_rnn.cu",
                                          int(texts.size()), texts.data(), names.data()),
          "making a program");
  }
  ~Program() { api::nvrtc().nvrtcDestroyProgram(&program_); }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  api::nvrtcProgram get() const { return program_; }

  std::string log() const {
    size_t size = 0;
    api::nvrtc().nvrtcGetProgramLogSize(program_, &size);
    std::string text(size, '\0');
    if (size) api::nvrtc().nvrtcGetProgramLog(program_, text.data());
    while (!text.empty() && (text.back() == '\0' || text.back() == '\n')) text.pop_back();
    return text;
  }

  void check(int result, const std::string& doing) const {
    if (result == api::NVRTC_SUCCESS) return;
    std::string message = "CUDA: " + doing + " failed in " + api::nvrtc().library + " (error " +
                          std::to_string(result) + ")";
    if (program_) message += ": " + log();
    throw DeviceError(message);
  }

 private:
  api::nvrtcProgram program_ = nullptr;
};

std::vector<int> known_capabilities() {
  int count = 0;
  api::nvrtc().nvrtcGetNumSupportedArchs(&count);
  std::vector<int> known(count);
  if (count) api::nvrtc().nvrtcGetSupportedArchs(known.data());
  std::sort(known.begin(), known.end());
  return known;
}

}  // namespace

Target target_for(int capability, const std::vector<int>& known) {
  int same_major = 0, newest = 0;
  for (const int k : known) {
    if (k > capability) break;
    if (k / 10 == capability / 10) same_major = k;
    newest = k;
  }
  // sm_90a has instructions that later architectures have not; plain code runs on all minors.
  if (same_major == 90) return {"sm_90a"};
  if (same_major) return {"sm_" + std::to_string(same_major)};
  if (newest) return {"compute_" + std::to_string(newest), true};
  throw DeviceError("CUDA: " + api::nvrtc().library + " cannot compile for compute capability " +
                    std::to_string(capability) + "; pip install --upgrade nvidia-cuda-nvrtc-cu12");
}

Compiled Compiler::compile(const std::string& kernel, int capability) const {
  const api::Nvrtc& nvrtc = api::nvrtc();
  const Target target = target_for(capability, known_capabilities());
  // A name expression is looked up from outside; so are the types among its arguments.
  const std::string text = "#include \"" + sources_.front().name +
                           "\"\nnamespace masked_rnn::cuda {}\nusing namespace masked_rnn;\n"
                           "using namespace masked_rnn::cuda;\n";
  const std::string name = "masked_rnn::cuda::" + kernel;
  const Program program(text, sources_);
  program.check(nvrtc.nvrtcAddNameExpression(program.get(), name.c_str()), "naming " + kernel);
  const std::string architecture = "--gpu-architecture=" + target.architecture;
  std::vector<const char*> options(std::begin(kOptions), std::end(kOptions));
  options.push_back(architecture.c_str());
  program.check(nvrtc.nvrtcCompileProgram(program.get(), int(options.size()), options.data()),
                "compiling " + kernel + " for " + target.architecture);
  Compiled compiled;
  const char* entry = nullptr;
  program.check(nvrtc.nvrtcGetLoweredName(program.get(), name.c_str(), &entry),
                "naming " + kernel);
  compiled.entry = entry;
  size_t size = 0;
  if (target.ptx) {
    program.check(nvrtc.nvrtcGetPTXSize(program.get(), &size), "compiling " + kernel);
    compiled.image.resize(size);
    program.check(nvrtc.nvrtcGetPTX(program.get(), compiled.image.data()), "compiling " + kernel);
  } else {
    program.check(nvrtc.nvrtcGetCUBINSize(program.get(), &size), "compiling " + kernel);
    compiled.image.resize(size);
    program.check(nvrtc.nvrtcGetCUBIN(program.get(), compiled.image.data()),
                  "compiling " + kernel);
  }
  return compiled;
}

std::string Compiler::key(const std::string& kernel, int capability) const {
  uint64_t hash = hash_of("");
  for (const Source& source : sources_) hash = hash_of(source.text, hash_of(source.name, hash));
  for (const char* option : kOptions) hash = hash_of(option, hash);
  return "kernel " + kernel + "\nsources " + std::to_string(hash) + "\ncapability " +
         std::to_string(capability) + "\nnvrtc " + std::to_string(api::nvrtc().version) +
         "\ndriver " + std::to_string(api::driver().version) + "\n";
}

uint64_t hash_of(const std::string& text, uint64_t seed) {
  for (const unsigned char c : text) seed = (seed ^ c) * 1099511628211u;
  return (seed ^ text.size()) * 1099511628211u;
}

}  // namespace masked_rnn::cuda
