#include "report.h"

#include <csignal>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <mutex>

#include "numbers.h"

namespace masked_rnn::test {
namespace {

char running[400];  // read by the handler of SIGSEGV
int failed = 0;
std::mutex mutex;

struct sigaction handler_before;

// Says which case has met a forbidden page, then lets the fault happen again: to a sanitizer, which
// says where in the code, or to the system.
void on_fault(int, siginfo_t*, void*) {
  constexpr char kWords[] = "Forbidden memory was touched by ";
  [[maybe_unused]] ssize_t ignored = write(STDERR_FILENO, kWords, sizeof(kWords) - 1);
  ignored = write(STDERR_FILENO, running, std::strlen(running));
  ignored = write(STDERR_FILENO, "\n", 1);
  sigaction(SIGSEGV, &handler_before, nullptr);
}

[[maybe_unused]] const bool handler_set = [] {
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  return sigaction(SIGSEGV, &action, &handler_before) == 0;
}();

}  // namespace

void now_running(const std::string& what) {
  std::snprintf(running, sizeof(running), "%s", what.c_str());
}

void fail(const std::string& why) {
  std::lock_guard<std::mutex> lock(mutex);
  ++failed;
  if (failed <= 50) std::fprintf(stderr, "FAILED %s: %s\n", running, why.c_str());
}

int failures() { return failed; }

void check_close(const char* name, DType dtype, const Guarded& got, const std::vector<double>& want,
                 double tolerance) {
  if (got.bytes() != want.size() * bytes_of(dtype)) {
    return fail(std::string(name) + " has " + std::to_string(got.bytes()) + " bytes");
  }
  const std::vector<double> values = decode_all(dtype, got.data(), want.size());
  double largest = 0, error = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    largest = std::max(largest, std::fabs(want[i]));
    if (std::isnan(values[i])) {
      return fail(std::string(name) + "[" + std::to_string(i) + "] is NaN");
    }
    error = std::max(error, std::fabs(values[i] - want[i]));
  }
  const double underflow = dtype == DType::kFloat16 ? 0x1p-25 : 0;  // half of the smallest number
  if (error > tolerance * largest + underflow) {
    char text[100];
    std::snprintf(text, sizeof(text), ": relative error %.2e, allowed %.0e", error / largest,
                  tolerance);
    fail(name + std::string(text));
  }
}

void check_same_bits(const char* name, const Guarded& got, const Guarded& want) {
  if (got.bytes() != want.bytes() ||
      (got.bytes() > 0 && std::memcmp(got.data(), want.data(), got.bytes()) != 0)) {
    fail(std::string(name) + ": bits differ");
  }
}

}  // namespace masked_rnn::test
