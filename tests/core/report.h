// What the checks have in common: the case at hand, and what has failed.
#pragma once

#include <string>
#include <vector>

#include "guarded.h"
#include "params.h"

namespace masked_rnn::test {

// Names what runs now: failures are reported under it, and a crash too.
void now_running(const std::string& what);
void fail(const std::string& why);
int failures();

// Every element within `tolerance` of the largest magnitude wanted; an array of zeros must be one.
void check_close(const char* name, DType dtype, const Guarded& got, const std::vector<double>& want,
                 double tolerance);
void check_same_bits(const char* name, const Guarded& got, const Guarded& want);

// Runs f, which must throw an E whose message has `part` in it.
template <class E, class F>
void check_throws(const char* part, const F& f) {
  try {
    f();
  } catch (const E& e) {
    if (std::string(e.what()).find(part) == std::string::npos) {
      fail(std::string("the message '") + e.what() + "' does not have '" + part + "'");
    }
    return;
  }
  fail(std::string("nothing was thrown, expected: ") + part);
}

}  // namespace masked_rnn::test
