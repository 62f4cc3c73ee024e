// What becomes of daemon threads when the interpreter exits.
#pragma once

#include <pybind11/pybind11.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <exception>

namespace masked_rnn::python {

inline bool interpreter_exits() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing();
#else
  return _Py_IsFinalizing();
#endif
}

// Before 3.14, Python ends a daemon thread that asks for its lock at exit by unwinding the stack,
// and TensorFlow asks for it in destructors, where that terminates the process: with daemon threads
// in calls of a layer, ours or Keras's, half of the processes ended with SIGABRT. Such a thread
// stays where it is instead, as in Python 3.14, until the process has ended.
inline void park_daemon_threads_at_exit() {
#if PY_VERSION_HEX < 0x030E0000
  static std::terminate_handler handler_before = nullptr;
  if (handler_before != nullptr) return;  // the module is initialized again
  handler_before = std::set_terminate([] {
    const bool is_main = syscall(SYS_gettid) == getpid();
    if (!is_main && !std::current_exception() && interpreter_exits()) {
      for (;;) pause();
    }
    handler_before();
  });
#endif
}

}  // namespace masked_rnn::python
