// Python's global lock, given up for the time of a computation.
#pragma once

#include <cxxabi.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

namespace masked_rnn::python {

// As py::gil_scoped_release, and fit for a daemon thread that is computing when the interpreter
// exits: before 3.14, Python ends such a thread by unwinding its stack when it asks for the lock.
// From a destructor that aborts the process, and further up it would free Python's objects without
// the lock. So the thread stays here, as in Python 3.14, until the process has ended.
class WithoutGil {
 public:
  // Not for what is short: a thread that gives the lock up gets it back late where others want it
  // too. Two threads with calls of 0.03 ms took 1.2 to 1.5 times as long as one with all of them.
  explicit WithoutGil(bool worthwhile = true)
      : state_(worthwhile ? PyEval_SaveThread() : nullptr) {}
  ~WithoutGil() {
    if (state_ == nullptr) return;
    try {
      PyEval_RestoreThread(state_);
    } catch (abi::__forced_unwind&) {
      for (;;) pause();
    }
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* const state_;
};

}  // namespace masked_rnn::python
