// Tests of the core in C++, for what Python cannot see: sanitizers, memory beyond the arrays, other
// processors. Numbers in depth are the business of tests/test_core.py.
//
//   core_test [part]...      parts: table, rounding, wrong_calls, concurrency; none: all

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "checks.h"
#include "report.h"
#include "rnn.h"

int main(int argc, char** argv) {
  using namespace masked_rnn::test;
  const struct {
    std::string name;
    void (*run)();
  } parts[] = {{"table", check_table},
               {"rounding", check_rounding},
               {"wrong_calls", check_wrong_calls},
               {"concurrency", check_concurrency}};
  const std::vector<std::string> asked(argv + 1, argv + argc);
  for (const std::string& name : asked) {
    if (std::none_of(std::begin(parts), std::end(parts),
                     [&](const auto& part) { return part.name == name; })) {
      std::fprintf(stderr, "no part '%s'\n", name.c_str());
      return 2;
    }
  }
  std::printf("core_test on %s\n", masked_rnn::chosen_isa().c_str());
  for (const auto& part : parts) {
    if (!asked.empty() && std::find(asked.begin(), asked.end(), part.name) == asked.end()) continue;
    const int before = failures();
    const auto start = std::chrono::steady_clock::now();
    now_running(part.name);
    try {
      part.run();
    } catch (const std::exception& e) {
      fail(std::string("threw: ") + e.what());
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("%-12s %s  %.1f s\n", part.name.c_str(), failures() > before ? "FAILED" : "passed",
                seconds.count());
    std::fflush(stdout);
  }
  return failures() > 0;
}
