// A stand-in for libtensorflow_framework.so.2 to link against: the names of the C API functions
// that the ops use, with nothing behind them. Never installed.
#define STUB(name) \
  extern "C" __attribute__((visibility("default"))) void name() {}
#include "c_api_functions.inc"
